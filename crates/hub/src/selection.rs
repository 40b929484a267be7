//! Which files of a repository are wanted.
//!
//! A model is its safetensors with config and tokenizer, or one GGUF file (or the parts of one). The same weights in other
//! formats, which many repositories hold as well, are left where they are.

use glob::{MatchOptions, Pattern};

use crate::error::{Context, Result, fail};
use crate::name::{Kind, printable};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with `/` between folders.
    pub name: String,
    /// Its bytes, where the hub says them.
    pub size: Option<u64>,
}

/// What a user wants of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// What is needed to run a model: of several GGUF models the chosen one. Of a data set, everything.
    Model {
        /// A GGUF file's name, or a type such as `Q4_K_M`.
        choice: Option<String>,
    },
    /// What is needed to read and write its text; where only GGUF files have that, the chosen one.
    Tokenizer {
        /// As for a model.
        choice: Option<String>,
    },
    /// These files.
    Files(Vec<String>),
    /// Every file that fits one of these patterns. `*` is any text, with `/` in it too.
    Matching(Vec<String>),
}

/// Files at the root that say what a model is and how its text is read.
const SETTINGS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
/// Beginnings of more of them.
const SETTINGS_BEGIN: &[&str] = &["tokenizer", "chat_template"];
/// Where a model in several safetensors says which tensor is where.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// An adapter's tensors.
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";
/// Names that are listed in a message, at the most.
const LISTED: usize = 40;

impl Selection {
    /// The names of the files that are wanted, without those that fit `exclude`.
    ///
    /// # Errors
    /// There is nothing of the kind, or it must be said which of several is meant: the message says what there is.
    pub fn of(&self, kind: Kind, files: &[Entry], exclude: &[String]) -> Result<Vec<String>> {
        let chosen = match self {
            Selection::Files(names) => named(files, names)?,
            Selection::Matching(include) => {
                let patterns = patterns(include)?;
                files.iter().map(|f| f.name.clone()).filter(|name| fits(&patterns, name)).collect()
            }
            Selection::Model { choice } | Selection::Tokenizer { choice } => match kind {
                Kind::Model => match self {
                    Selection::Tokenizer { .. } if files.iter().any(|f| f.name == "tokenizer.json") => {
                        settings(files)
                    }
                    _ => model(files, choice.as_deref())?,
                },
                Kind::Dataset => {
                    files.iter().map(|f| f.name.clone()).filter(|name| !name.starts_with(".git")).collect()
                }
            },
        };
        let exclude = patterns(exclude)?;
        let left: Vec<String> = chosen.into_iter().filter(|name| !fits(&exclude, name)).collect();
        if left.is_empty() {
            fail!("no file of it fits; there are {}", list(files));
        }
        Ok(left)
    }
}

fn settings(files: &[Entry]) -> Vec<String> {
    let is_one = |name: &str| {
        SETTINGS.contains(&name)
            || SETTINGS_BEGIN.iter().any(|begin| name.starts_with(begin)) && !name.contains('/')
    };
    files.iter().map(|f| f.name.clone()).filter(|name| is_one(name)).collect()
}

/// What a model is run from.
fn model(files: &[Entry], choice: Option<&str>) -> Result<Vec<String>> {
    let names: Vec<&str> = files.iter().map(|f| f.name.as_str()).collect();
    let weights = safetensors(&names);
    if choice.is_none() && !weights.is_empty() {
        let mut chosen = settings(files);
        chosen.extend(weights);
        return Ok(chosen);
    }
    let models = gguf_models(&names);
    match choose(&models, choice) {
        Choice::One(model) if model.is_whole => Ok(model.files.clone()),
        Choice::One(model) => {
            fail!("{}: parts of this model are missing in the repository", printable(&model.files[0]))
        }
        Choice::Several(fitting) => fail!(
            "it holds several models, so say which: {}; a name, or a type where only one model has it, behind a colon \
             (as in ORGANISATION/NAME:{})",
            list_models(&fitting, files),
            fitting.first().and_then(|model| model.type_name()).unwrap_or("Q4_K_M"),
        ),
        Choice::None if models.is_empty() && choice.is_some() => {
            fail!("it holds no GGUF model, so nothing can be chosen; there are {}", list(files))
        }
        Choice::None if models.is_empty() => fail!(
            "it holds no weights that are read here (expected .safetensors or .gguf files); there are {}",
            list(files)
        ),
        Choice::None => fail!(
            "no GGUF model in it is called {}; there are {}",
            printable(choice.unwrap_or_default()),
            list_models(&models.iter().collect::<Vec<_>>(), files)
        ),
    }
}

/// The safetensors that make up the model: those at the root, without the same weights in another arrangement.
fn safetensors<'a>(names: &[&'a str]) -> Vec<String> {
    let at_root = |name: &&&'a str| name.ends_with(".safetensors") && !name.contains('/');
    let all: Vec<&str> = names.iter().filter(at_root).copied().collect();
    let shards: Vec<&str> =
        all.iter().copied().filter(|name| name.starts_with("model-") && name.contains("-of-")).collect();
    let mut chosen: Vec<&str> = if all.contains(&"model.safetensors") && !names.contains(&INDEX) {
        vec!["model.safetensors"]
    } else if names.contains(&INDEX) && !shards.is_empty() {
        shards
    } else if all.contains(&ADAPTER) {
        vec![ADAPTER]
    } else {
        // Mistral's own arrangement lies beside the usual one.
        let usual: Vec<&str> = all.iter().copied().filter(|name| !name.starts_with("consolidated")).collect();
        if usual.is_empty() { all } else { usual }
    };
    if !chosen.is_empty() && names.contains(&INDEX) {
        chosen.push(INDEX);
    }
    chosen.into_iter().map(str::to_owned).collect()
}

/// A GGUF model: one file, or the parts of a split one in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GgufModel {
    /// Names of the files; the first is the one to open.
    pub files: Vec<String>,
    /// Whether all parts are there.
    pub is_whole: bool,
}

impl GgufModel {
    /// The name without `.gguf` and without the number of the part.
    fn stem(&self) -> &str {
        let name = self.files[0].as_str();
        split(name).map_or(name.strip_suffix(".gguf").unwrap_or(name), |(stem, _, _)| stem)
    }

    /// The last part of the name, if it looks like a type.
    fn type_name(&self) -> Option<&str> {
        let last = self.stem().rsplit(['-', '.', '/']).next()?;
        let has_digit = last.contains(|c: char| c.is_ascii_digit());
        (has_digit && last.starts_with(['Q', 'q', 'I', 'i', 'F', 'f', 'B', 'b'])).then_some(last)
    }
}

/// `STEM-00002-of-00003.gguf` as its parts.
fn split(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let number_of = |digits: &str| (digits.len() == 5).then(|| digits.parse::<u32>().ok()).flatten();
    Some((stem, number_of(number)?, number_of(count)?))
}

/// The GGUF models among these names. Files that only go with a model (image encoders, importances) are none.
pub(crate) fn gguf_models(names: &[&str]) -> Vec<GgufModel> {
    let mut sorted: Vec<&str> = names.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
    sorted.sort_unstable();
    let mut models: Vec<GgufModel> = Vec::new();
    let mut last: Option<(&str, u32)> = None;
    for name in sorted {
        let file = name.rsplit('/').next().unwrap_or(name);
        if file.starts_with("mmproj") || file.contains("imatrix") {
            continue;
        }
        match split(name) {
            Some((stem, number, count)) => match models.last_mut() {
                Some(model) if last == Some((stem, count)) => {
                    model.files.push(name.to_owned());
                    model.is_whole = count as usize == model.files.len() && number == count;
                }
                _ => {
                    models.push(GgufModel {
                        files: vec![name.to_owned()],
                        is_whole: number == 1 && count == 1,
                    });
                    last = Some((stem, count));
                }
            },
            None => {
                models.push(GgufModel { files: vec![name.to_owned()], is_whole: true });
                last = None;
            }
        }
    }
    models
}

/// What a choice comes down to.
pub(crate) enum Choice<'a> {
    None,
    One(&'a GgufModel),
    Several(Vec<&'a GgufModel>),
}

/// The model that is meant: by a file's name, or by a type that stands in it as a word of its own (`Q4_K` is no word of
/// `Q4_K_M`). Without a choice, the only one.
pub(crate) fn choose<'a>(models: &'a [GgufModel], choice: Option<&str>) -> Choice<'a> {
    let fitting: Vec<&GgufModel> = match choice {
        None => models.iter().collect(),
        Some(choice) => {
            let wanted = choice.to_ascii_lowercase();
            let is_exact = |model: &&GgufModel| {
                let same = |name: &str| name.eq_ignore_ascii_case(&wanted);
                same(model.stem()) || model.files.iter().any(|file| same(file))
            };
            let exact: Vec<&GgufModel> = models.iter().filter(is_exact).collect();
            match exact.is_empty() {
                false => exact,
                true => models
                    .iter()
                    .filter(|model| has_word(&model.stem().to_ascii_lowercase(), &wanted))
                    .collect(),
            }
        }
    };
    match fitting.as_slice() {
        [] => Choice::None,
        [one] => Choice::One(one),
        _ => Choice::Several(fitting),
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, found)| {
        !is_inside(text[..at].chars().next_back()) && !is_inside(text[at + found.len()..].chars().next())
    })
}

/// Files that were named one by one.
fn named(files: &[Entry], names: &[String]) -> Result<Vec<String>> {
    for name in names {
        if !files.iter().any(|f| f.name == *name) {
            fail!("no file {:?} in it; there are {}", printable(name), list(files));
        }
    }
    Ok(names.to_vec())
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>> {
    let pattern = |text: &String| {
        // A folder means all that is in it.
        let all = if text.ends_with('/') { format!("{text}*") } else { text.clone() };
        Pattern::new(&all).context(|| format!("pattern {text:?}: expected one with *, ? and [a-z]"))
    };
    texts.iter().map(pattern).collect()
}

fn fits(patterns: &[Pattern], name: &str) -> bool {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: false,
        require_literal_leading_dot: false,
    };
    patterns.iter().any(|pattern| pattern.matches_with(name, options))
}

fn list(files: &[Entry]) -> String {
    listed(files.iter().map(|f| printable(&f.name)), files.len())
}

/// Models with their sizes; of split ones the first file and the number of files.
fn list_models(models: &[&GgufModel], files: &[Entry]) -> String {
    let describe = |model: &&GgufModel| {
        let size = |name: &String| files.iter().find(|f| f.name == *name).and_then(|f| f.size);
        let bytes: Option<u64> = model.files.iter().map(size).sum();
        let parts = if model.files.len() > 1 {
            format!(" and {} more parts", model.files.len() - 1)
        } else {
            String::new()
        };
        let size = bytes.map_or(String::new(), |bytes| format!(" ({:.1} GB)", bytes as f64 / 1e9));
        format!("{}{parts}{size}", printable(&model.files[0]))
    };
    listed(models.iter().map(describe), models.len())
}

fn listed(names: impl Iterator<Item = String>, count: usize) -> String {
    let shown: Vec<String> = names.take(LISTED).collect();
    match count {
        0 => "none".to_owned(),
        _ if count > LISTED => format!("{} and {} more", shown.join(", "), count - LISTED),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry { name: (*name).to_owned(), size: Some(1_500_000_000) }).collect()
    }

    fn choose_default(names: &[&str]) -> Vec<String> {
        Selection::Model { choice: None }.of(Kind::Model, &entries(names), &[]).unwrap()
    }

    fn choose_gguf(names: &[&str], choice: &str) -> Result<Vec<String>, String> {
        Selection::Model { choice: Some(choice.to_owned()) }
            .of(Kind::Model, &entries(names), &[])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn of_the_same_weights_in_many_formats_one_is_taken() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "onnx/model.onnx",
            "onnx/config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
            "generation_config.json",
            "flax_model.msgpack",
            "64.tflite",
            "model.fp16.safetensors",
            "chat_template.jinja",
        ];
        let chosen = choose_default(&names);
        let expected = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
            "generation_config.json",
            "chat_template.jinja",
            "model.safetensors",
        ];
        assert_eq!(chosen, expected);
    }

    #[test]
    fn shards_come_with_their_index_and_without_another_arrangement() {
        let names = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "tokenizer.model",
        ];
        let chosen = choose_default(&names);
        assert!(!chosen.contains(&"consolidated.safetensors".to_owned()));
        assert_eq!(chosen.len(), 5);
        assert_eq!(
            choose_default(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]).len(),
            2
        );
        assert_eq!(choose_default(&["config.json", "weights.safetensors"]).len(), 2);
    }

    const QUANTISED: [&str; 8] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "UD/m-IQ4_XS.gguf",
        "m-f16-00001-of-00002.gguf",
        "m-f16-00002-of-00002.gguf",
        "mmproj-F16.gguf",
        "m.imatrix.gguf",
    ];

    #[test]
    fn of_many_gguf_files_one_is_chosen() {
        for choice in ["Q4_K_M", "q4_k_m", "m-Q4_K_M.gguf", "m-Q4_K_M"] {
            assert_eq!(choose_gguf(&QUANTISED, choice).unwrap(), ["m-Q4_K_M.gguf"], "{choice}");
        }
        let parts = ["m-f16-00001-of-00002.gguf", "m-f16-00002-of-00002.gguf"];
        for choice in ["F16", "m-f16-00001-of-00002.gguf", "m-f16"] {
            assert_eq!(choose_gguf(&QUANTISED, choice).unwrap(), parts, "{choice}");
        }
        assert_eq!(choose_gguf(&QUANTISED, "IQ4_XS").unwrap(), ["UD/m-IQ4_XS.gguf"]);
        for none in ["Q4_K", "Q4_XS", "Q8_0"] {
            let error = choose_gguf(&QUANTISED, none).unwrap_err();
            assert!(error.contains("m-Q4_K_S.gguf") && error.contains("and 1 more part"), "{error}");
        }
        assert_eq!(choose_default(&["README.md", "config.json", "only.gguf"]), ["only.gguf"]);
        let error = Selection::Model { choice: None }.of(Kind::Model, &entries(&QUANTISED), &[]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("m-Q4_K_M.gguf (1.5 GB)")
                && error.contains("00001-of-00002.gguf and 1 more parts (3.0 GB)")
        );
        assert!(!error.contains("mmproj") && error.contains("say which"), "{error}");
    }

    #[test]
    fn a_split_model_without_a_part_is_not_whole() {
        for names in [
            ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf"],
            ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf"],
        ] {
            assert!(!gguf_models(&names)[0].is_whole, "{names:?}");
        }
        assert!(choose_gguf(&["m-00001-of-00002.gguf"], "m").unwrap_err().contains("missing"));
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let error = Selection::Model { choice: None }
            .of(Kind::Model, &entries(&["a.bin", "b.onnx"]), &[])
            .unwrap_err();
        assert!(error.to_string().contains("a.bin, b.onnx"), "{error}");
        let error = Selection::Files(vec!["x".into()]).of(Kind::Model, &entries(&["a"]), &[]).unwrap_err();
        assert!(error.to_string().contains("\"x\"") && error.to_string().contains("there are a"), "{error}");
        assert!(choose_gguf(&["model.safetensors"], "Q4_0").unwrap_err().contains("no GGUF"));
    }

    #[test]
    fn patterns_reach_into_folders() {
        let files = entries(&["a.json", "sub/b.json", "sub/c.txt", "d.txt"]);
        let select = |include: &[&str], exclude: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            Selection::Matching(owned(include)).of(Kind::Dataset, &files, &owned(exclude))
        };
        assert_eq!(select(&["*.json"], &[]).unwrap(), ["a.json", "sub/b.json"]);
        assert_eq!(select(&["sub/", "d*"], &["*.json"]).unwrap(), ["sub/c.txt", "d.txt"]);
        assert!(select(&["*.zip"], &[]).is_err() && select(&["[a"], &[]).is_err());
        let all = Selection::Model { choice: None }.of(Kind::Dataset, &files, &[]).unwrap();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_tokenizer_needs_no_weights_where_it_has_files() {
        let select = |names: &[&str]| {
            Selection::Tokenizer { choice: None }.of(Kind::Model, &entries(names), &[]).unwrap()
        };
        assert_eq!(
            select(&["config.json", "tokenizer.json", "model.safetensors"]),
            ["config.json", "tokenizer.json"]
        );
        assert_eq!(select(&["README.md", "m.gguf"]), ["m.gguf"]);
    }
}
