//! Any model file or folder, as metadata and named tensors.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::quoted;
use crate::identify::model_format;
use crate::mmap::Mmap;
use crate::safetensors::Index;
use crate::tensor::{TensorEntry, TensorView};
use crate::{Error, GgufMetadata, Llama2cHeader, LlmcHeader, config, gguf, llama2c, llmc, safetensors};

/// A format that models come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// llama.cpp's.
    Gguf,
    /// Hugging Face's, one file or a folder.
    Safetensors,
    /// llm.c's `.bin`.
    LlmC,
    /// llama2.c's legacy `.bin`.
    Llama2C,
}

impl Format {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gguf => "GGUF",
            Format::Safetensors => "safetensors",
            Format::LlmC => "llm.c",
            Format::Llama2C => "llama2.c",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a model says of itself, in its format's own terms.
#[derive(Clone, Debug)]
pub enum Metadata {
    /// Keys and values of a GGUF file (of the first, when it is split).
    Gguf(GgufMetadata),
    /// `config.json` (`adapter_config.json` for an adapter) beside the safetensors; null when a single file that
    /// is not a model's was opened.
    Config(serde_json::Value),
    /// Header of an llm.c file.
    LlmC(LlmcHeader),
    /// Header of a llama2.c file.
    Llama2C(Llama2cHeader),
}

/// An open model: its files are memory-mapped, its tensors are views of them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    metadata: Metadata,
    notes: Vec<(String, String)>,
    files: Vec<PathBuf>,
    maps: Vec<Mmap>,
    /// The file that each tensor is in, and where.
    tensors: Vec<(usize, TensorEntry)>,
    index: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a model.
    ///
    /// A file may be GGUF (of a split model, any of its files), safetensors, llm.c or llama2.c, found out by
    /// its content. A folder holds `config.json` and safetensors: `model.safetensors`, or several with
    /// `model.safetensors.index.json`; or a PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`);
    /// or nothing but one GGUF model.
    pub fn open(path: &Path) -> Result<Checkpoint, Error> {
        let about = fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
        if about.is_dir() { open_folder(path) } else { open_file(path) }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What was opened: a file or a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files with tensors, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The folder that the model's files are in, where its tokenizer may be found too.
    pub fn folder(&self) -> &Path {
        if self.path.is_dir() { &self.path } else { parent(&self.path) }
    }

    /// What the model says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// `__metadata__` of a safetensors file (of the first): strings that its writer left.
    pub fn notes(&self) -> &[(String, String)] {
        &self.notes
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(file, entry)| entry.view(&self.maps[*file]))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (file, entry) = &self.tensors[*self.index.get(name)?];
        Some(entry.view(&self.maps[*file]))
    }

    /// Asks the system to read the files ahead of use. A hint: nothing depends on it.
    pub fn read_ahead(&self) {
        self.maps.iter().for_each(Mmap::read_ahead);
    }

    fn new(path: &Path, format: Format, metadata: Metadata) -> Self {
        Checkpoint {
            path: path.to_owned(),
            format,
            metadata,
            notes: Vec::new(),
            files: Vec::new(),
            maps: Vec::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// Adds a parsed file. A name may be there once in the whole model.
    fn add(&mut self, path: &Path, map: Mmap, entries: Vec<TensorEntry>) -> Result<(), Error> {
        let file = self.files.len();
        for entry in entries {
            if let Some(first) = self.index.insert(entry.name.clone(), self.tensors.len()) {
                let first = &self.files.get(self.tensors[first].0).map_or(path, PathBuf::as_path);
                return Err(Error::invalid(format!(
                    "tensor {} is in {} already",
                    quoted(&entry.name),
                    first.display()
                ))
                .in_file(path));
            }
            self.tensors.push((file, entry));
        }
        self.files.push(path.to_owned());
        self.maps.push(map);
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<Checkpoint, Error> {
    let map = Mmap::open(path)?;
    let named = |e: Error| e.in_file(path);
    match model_format(&map, path).map_err(named)? {
        Format::Gguf => open_gguf(path, map),
        Format::Safetensors => {
            let config = config_beside(path)?;
            let mut checkpoint = Checkpoint::new(path, Format::Safetensors, Metadata::Config(config));
            add_safetensors(&mut checkpoint, path, map)?;
            Ok(checkpoint)
        }
        Format::LlmC => {
            let model = llmc::parse(&map).map_err(named)?;
            let mut checkpoint = Checkpoint::new(path, Format::LlmC, Metadata::LlmC(model.header));
            checkpoint.add(path, map, model.tensors)?;
            Ok(checkpoint)
        }
        Format::Llama2C => {
            let model = llama2c::parse(&map).map_err(named)?;
            let mut checkpoint = Checkpoint::new(path, Format::Llama2C, Metadata::Llama2C(model.header));
            checkpoint.add(path, map, model.tensors)?;
            Ok(checkpoint)
        }
    }
}

fn open_folder(folder: &Path) -> Result<Checkpoint, Error> {
    let adapter = folder.join("adapter_model.safetensors");
    let (config_name, is_adapter) = if folder.join("config.json").exists() {
        ("config.json", false)
    } else if adapter.exists() {
        ("adapter_config.json", true)
    } else {
        return open_folder_of_gguf(folder);
    };
    let config = config::read(&folder.join(config_name))?;
    let mut checkpoint = Checkpoint::new(folder, Format::Safetensors, Metadata::Config(config));

    let index_path = folder.join("model.safetensors.index.json");
    let single = folder.join("model.safetensors");
    if is_adapter {
        add_safetensors(&mut checkpoint, &adapter, Mmap::open(&adapter)?)?;
    } else if index_path.exists() {
        add_shards(&mut checkpoint, folder, &index_path)?;
    } else if single.exists() {
        add_safetensors(&mut checkpoint, &single, Mmap::open(&single)?)?;
    } else {
        let all = files_ending(folder, "safetensors")?;
        match all.as_slice() {
            [only] => add_safetensors(&mut checkpoint, only, Mmap::open(only)?)?,
            [] if !files_ending(folder, "gguf")?.is_empty() => return open_folder_of_gguf(folder),
            [] => {
                let hint = match files_ending(folder, "bin")?.is_empty() {
                    true => "",
                    false => " (PyTorch's .bin files are not read: save the model as safetensors)",
                };
                return Err(
                    Error::missing(format!("no .safetensors file in this folder{hint}")).in_file(folder)
                );
            }
            _ => {
                return Err(Error::missing(format!(
                    "{} .safetensors files and no model.safetensors.index.json that says how they belong together",
                    all.len()
                ))
                .in_file(folder));
            }
        }
    }
    Ok(checkpoint)
}

/// A folder with a GGUF model and nothing else that is one.
fn open_folder_of_gguf(folder: &Path) -> Result<Checkpoint, Error> {
    let mut models = files_ending(folder, "gguf")?;
    // Of a split model only the first counts.
    models.retain(|path| SplitName::of(path).is_none_or(|split| split.number == 1));
    match models.as_slice() {
        [only] => open_file(only),
        [] => Err(Error::missing(
            "no model in this folder: expected config.json with .safetensors files, or a .gguf file",
        )
        .in_file(folder)),
        _ => Err(Error::missing(format!("{} .gguf models in this folder; name one of them", models.len()))
            .in_file(folder)),
    }
}

fn files_ending(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "list the folder", e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "list the folder", e))?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `config.json` for a model's file, `adapter_config.json` for an adapter's, null for any other safetensors file:
/// the config beside it would not be its own.
fn config_beside(path: &Path) -> Result<serde_json::Value, Error> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let config = if name.starts_with("adapter_model") {
        "adapter_config.json"
    } else if name.starts_with("model") || name.starts_with("consolidated") {
        "config.json"
    } else {
        return Ok(serde_json::Value::Null);
    };
    Ok(config::read_if_there(&parent(path).join(config))?.unwrap_or(serde_json::Value::Null))
}

fn add_safetensors(checkpoint: &mut Checkpoint, path: &Path, map: Mmap) -> Result<(), Error> {
    let parsed = safetensors::parse(&map).map_err(|e| e.in_file(path))?;
    if checkpoint.files.is_empty() {
        checkpoint.notes = parsed.notes;
    }
    checkpoint.add(path, map, parsed.tensors)
}

fn add_shards(checkpoint: &mut Checkpoint, folder: &Path, index_path: &Path) -> Result<(), Error> {
    let json = fs::read(index_path).map_err(|e| Error::io(index_path, "read", e))?;
    let index = Index::parse(&json).map_err(|e| e.in_file(index_path))?;
    for file in index.files() {
        let path = folder.join(file);
        let map = Mmap::open(&path)?;
        add_safetensors(checkpoint, &path, map)?;
    }
    for (name, file) in &index.weight_map {
        let found = checkpoint.index.get(name).map(|&i| &checkpoint.files[checkpoint.tensors[i].0]);
        if found.and_then(|path| path.file_name()).is_none_or(|found| found != file.as_str()) {
            let place =
                found.map_or("in none of the files".to_owned(), |path| format!("in {}", path.display()));
            return Err(Error::invalid(format!(
                "tensor {} should be in {file}, and is {place}",
                quoted(name)
            ))
            .in_file(index_path));
        }
    }
    Ok(())
}

/// `NAME-00002-of-00005.gguf`: one of a split model's files.
struct SplitName {
    stem: String,
    number: u32,
    count: u32,
}

impl SplitName {
    fn of(path: &Path) -> Option<SplitName> {
        let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        Some(SplitName { stem: stem.to_owned(), number: number.parse().ok()?, count: count.parse().ok()? })
    }

    fn file_name(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

fn open_gguf(path: &Path, map: Mmap) -> Result<Checkpoint, Error> {
    let named = |e: Error| e.in_file(path);
    let mut first = gguf::parse(&map).map_err(named)?;
    first.metadata.set_file(path);
    let count = first.metadata.find_u64("split.count")?.unwrap_or(1);
    if count <= 1 {
        let mut checkpoint = Checkpoint::new(path, Format::Gguf, Metadata::Gguf(first.metadata));
        checkpoint.add(path, map, first.tensors)?;
        return Ok(checkpoint);
    }

    let split = SplitName::of(path).filter(|split| u64::from(split.count) == count).ok_or_else(|| {
        named(Error::missing(format!(
            "one of {count} files of a split model, and its name does not say which the others are \
             (expected NAME-00001-of-{count:05}.gguf)"
        )))
    })?;
    let mut checkpoint: Option<Checkpoint> = None;
    for number in 1..=split.count {
        let part_path = parent(path).join(split.file_name(number));
        let map = Mmap::open(&part_path)?;
        let mut part = gguf::parse(&map).map_err(|e| e.in_file(&part_path))?;
        part.metadata.set_file(&part_path);
        check_split(&part.metadata, number, count).map_err(|e| e.in_file(&part_path))?;
        match &mut checkpoint {
            None => {
                let mut first = Checkpoint::new(path, Format::Gguf, Metadata::Gguf(part.metadata));
                first.add(&part_path, map, part.tensors)?;
                checkpoint = Some(first);
            }
            Some(checkpoint) => checkpoint.add(&part_path, map, part.tensors)?,
        }
    }
    let checkpoint = checkpoint.ok_or_else(|| named(Error::invalid("a split model of no files")))?;
    if let Metadata::Gguf(metadata) = &checkpoint.metadata
        && let Some(expected) = metadata.find_u64("split.tensors.count")?
        && expected != checkpoint.tensors.len() as u64
    {
        return Err(named(Error::invalid(format!(
            "split.tensors.count says {expected} tensors, the {count} files hold {}",
            checkpoint.tensors.len()
        ))));
    }
    Ok(checkpoint)
}

/// Each file says which of how many it is; `split.no` counts from 0.
fn check_split(metadata: &GgufMetadata, number: u32, count: u64) -> Result<(), Error> {
    for (key, expected) in [("split.no", u64::from(number) - 1), ("split.count", count)] {
        let found = metadata.get_u64(key)?;
        if found != expected {
            return Err(Error::invalid(format!(
                "{key}: expected {expected} by the file's name, found {found}"
            )));
        }
    }
    Ok(())
}

/// The folder of a file: `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files() {
        let split = SplitName::of(Path::new("a/m-Q4-00002-of-00010.gguf")).unwrap();
        assert_eq!((split.number, split.count), (2, 10));
        assert_eq!(split.file_name(10), "m-Q4-00010-of-00010.gguf");
        for name in ["m.gguf", "m-2-of-3.gguf", "m-0000a-of-00003.gguf", "m-00001-of-00003.bin"] {
            assert!(SplitName::of(Path::new(name)).is_none(), "{name}");
        }
    }
}
