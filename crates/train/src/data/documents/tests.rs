use std::fs;

use proptest::prelude::*;
use wootz_text::{Special, Tokenizer};

use super::*;
use crate::data::inputs;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wootz-documents-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Vec<Input> {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        inputs::find(&[path.to_str().unwrap()]).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pieces(inputs: Vec<Input>, reading: &Reading) -> Vec<Piece> {
    Documents::new(inputs, reading.clone()).collect::<Result<_>>().unwrap()
}

fn texts(inputs: Vec<Input>, reading: &Reading) -> Vec<String> {
    let pieces = pieces(inputs, reading);
    assert!(pieces.iter().all(|piece| piece.starts));
    pieces.into_iter().map(|piece| piece.text).collect()
}

fn error(inputs: Vec<Input>, reading: &Reading) -> String {
    let mut documents = Documents::new(inputs, reading.clone());
    let error = documents.by_ref().find_map(Result::err).expect("an error");
    assert!(documents.next().is_none(), "nothing follows an error");
    format!("{error:#}")
}

/// Reads on after what is bad; returns the documents and how many were left out.
fn skipping(inputs: Vec<Input>, reading: &Reading) -> (Vec<String>, u64) {
    let mut documents = Documents::new(inputs, Reading { on_bad: OnBad::Skip, ..reading.clone() });
    let texts = documents.by_ref().map(|piece| piece.unwrap().text).collect();
    (texts, documents.bad())
}

#[test]
fn separators_take_their_line_with_them() {
    let folder = Folder::new("separator");
    let text = "<|endoftext|>one\n\ntwo\n<|endoftext|>\nthree <|endoftext|>four\r\n<|endoftext|>\r\n\n\n<|endoftext|>";
    let input = folder.file("a.txt", text);
    let reading = Reading::default();
    assert_eq!(texts(input.clone(), &reading), ["one\n\ntwo", "three ", "four", "\n"]);
    assert_eq!(
        texts(input.clone(), &Reading { ends: Ends::Trim, ..reading.clone() }),
        ["one\n\ntwo", "three", "four"]
    );
    let lines: Vec<u64> = pieces(input.clone(), &reading).iter().map(|piece| piece.line).collect();
    assert_eq!(lines, [1, 5, 5, 7]);
    assert_eq!(texts(input, &Reading { boundary: Boundary::File, ..reading }), [text]);
    assert!(texts(folder.file("empty.txt", ""), &Reading::default()).is_empty());
}

#[test]
fn blank_lines_stay_with_what_is_before_them() {
    let folder = Folder::new("blank");
    let reading = Reading { boundary: Boundary::BlankLines, ..Reading::default() };
    let input = folder.file("a.txt", "A:\nhi\n\nB:\nyes\n\n\nC\r\n\r\nD\n\n\n\nE\n");
    assert_eq!(texts(input, &reading), ["A:\nhi\n\n", "B:\nyes\n\n", "\nC\r\n\r\n", "D\n\n", "\n\n", "E\n"]);
}

#[test]
fn fields_are_found_and_bad_lines_named() {
    let folder = Folder::new("jsonl");
    let reading = Reading::default();
    let good = "{\"id\": 1, \"text\": \"a\\n\"}\n\n{\"content\": \"é\"}\r\n{\"story\": \"\"}\n{\"story\": \"c\", \"x\": \"d\"}";
    let input = folder.file("good.jsonl", good);
    assert_eq!(texts(input.clone(), &reading), ["a\n", "é", "c"]);
    let other = Reading { field: Field::Named("x".into()), ..reading.clone() };
    let message = error(input.clone(), &other);
    assert!(
        message.contains("good.jsonl:1") && message.contains("`x`") && message.contains("`id`"),
        "{message}"
    );
    assert_eq!(skipping(input, &other), (vec!["d".to_owned()], 3));

    for (bad, expected) in [
        (&b"{\"text\": "[..], "no JSON"),
        (b"{\"text\": 5}", "expected a text"),
        (b"7", "expected a JSON object"),
        (b"{}", "no field `text` or `content` or `story`"),
        (b"{\"text\": \"\xFF\"}", "0xFF"),
    ] {
        let contents = [b"{\"text\": \"a\"}\n", bad, b"\n{\"text\": \"b\"}\n"].concat();
        let input = folder.file("bad.jsonl", contents);
        let message = error(input.clone(), &reading);
        assert!(message.contains("bad.jsonl:2: ") && message.contains(expected), "{message}");
        assert_eq!(skipping(input, &reading), (vec!["a".to_owned(), "b".to_owned()], 1));
    }
    assert!(error(folder.file("list.json", "[\n{\"text\": \"a\"}]"), &reading).contains("jq"));
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let folder = Folder::new("utf8");
    let input = folder.file("a.txt", b"one\n<|endoftext|>\ntwo\n\xC3(\n<|endoftext|>three");
    let message = error(input.clone(), &Reading::default());
    assert!(message.contains("a.txt:4: ") && message.contains("0xC3"), "{message}");
    assert_eq!(skipping(input, &Reading::default()), (vec!["one".to_owned(), "three".to_owned()], 1));

    // In a long text only the piece is lost, and what follows is a document of its own.
    let lines = "some words in a line\n".repeat(20_000);
    let mut bytes = lines.clone().into_bytes();
    bytes[200_000] = 0xFF;
    let input = folder.file("long.txt", bytes);
    let line = 1 + lines[..200_000].matches('\n').count();
    assert!(error(input.clone(), &Reading::default()).contains(&format!("long.txt:{line}: ")));
    let (texts, bad) = skipping(input.clone(), &Reading::default());
    assert_eq!(bad, 1);
    let left: usize = texts.iter().map(String::len).sum();
    assert!((lines.len() - PIECE..lines.len()).contains(&left), "{left} of {}", lines.len());
    let reading = Reading { on_bad: OnBad::Skip, ..Reading::default() };
    assert_eq!(pieces(input, &reading).iter().filter(|piece| piece.starts).count(), 2);
}

#[test]
fn long_documents_come_in_pieces() {
    let folder = Folder::new("long");
    let text = "We hold that a long text\nhas many lines, and é ü 世界.\n\n".repeat(12_000);
    let json = serde_json::json!({ "text": text }).to_string();
    for (name, contents) in [("a.txt", text.clone()), ("a.jsonl", json)] {
        let pieces = pieces(folder.file(name, contents), &Reading::default());
        assert!(pieces.len() >= text.len() / (2 * PIECE), "{name}: {} pieces", pieces.len());
        assert!(pieces.iter().all(|piece| piece.text.len() <= 2 * PIECE + READ));
        assert!(pieces[0].starts && pieces[1..].iter().all(|piece| !piece.starts));
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.text.len() > PIECE / 2), "{name}");
        assert_eq!(pieces.into_iter().map(|piece| piece.text).collect::<String>(), text, "{name}");
    }
    // Documents of every length around the pieces' are found.
    let separator = "<|endoftext|>";
    let documents: Vec<String> = [PIECE - 1, 2 * PIECE, 5, 2 * PIECE + 13, 3 * PIECE, READ, 1]
        .map(|n| "word ".repeat(n / 5 + 1))
        .into();
    let pieces = pieces(folder.file("b.txt", documents.join(separator)), &Reading::default());
    let mut joined: Vec<String> = Vec::new();
    for piece in pieces {
        match joined.last_mut().filter(|_| !piece.starts) {
            Some(last) => last.push_str(&piece.text),
            None => joined.push(piece.text),
        }
    }
    assert_eq!(joined, documents);
}

#[test]
fn white_space_that_is_longer_than_a_piece_is_trimmed_too() {
    let folder = Folder::new("trim");
    let input = folder.file("a.txt", format!("{}one  two\n", " \n".repeat(2 * PIECE)));
    let reading = Reading { ends: Ends::Trim, ..Reading::default() };
    assert_eq!(texts(input, &reading), ["one  two"]);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let folder = Folder::new("mark");
    let reading = Reading::default();
    assert_eq!(texts(folder.file("a.txt", "\u{FEFF}one \u{FEFF}"), &reading), ["one \u{FEFF}"]);
    assert_eq!(texts(folder.file("a.jsonl", "\u{FEFF}{\"text\": \"one\"}\n"), &reading), ["one"]);
    assert!(texts(folder.file("b.txt", "\u{FEFF}"), &reading).is_empty());
}

#[test]
fn stories_are_documents() {
    let mut documents = Documents::new(vec![Input::stories(3)], Reading::default());
    let texts: Vec<String> = documents.by_ref().map(|piece| piece.unwrap().text).collect();
    assert_eq!(texts, stories::corpus(1, 3).collect::<Vec<_>>());
    assert_eq!(documents.bytes_read(), documents.bytes());
    assert!(pieces(vec![Input::stories(0)], &Reading::default()).is_empty());
}

#[test]
fn files_that_cannot_be_read_are_fatal() {
    let folder = Folder::new("fatal");
    let mut input = folder.file("a.txt", "x");
    input[0].path = folder.0.join("gone.txt");
    let (mut documents, skip) = (Documents::new(input, Reading::default()), OnBad::Skip);
    documents.reading.on_bad = skip;
    let message = format!("{:#}", documents.next().unwrap().unwrap_err());
    assert!(message.contains("gone.txt"), "{message}");
}

#[test]
fn a_cut_is_always_somewhere() {
    for text in ["", "a", "é", "世界", "aaaaaaaaaaaaaaaa", "\n\n\n\n\n\n\n\n", "ab cd ef gh ij"] {
        for most in 1..20 {
            let at = cut(text, most);
            assert!(text.is_char_boundary(at) && (at > 0 || text.is_empty()), "{text:?} {most}: {at}");
            assert!(at <= most || at == text.len() && text.len() <= 6, "{text:?} {most}: {at}");
        }
    }
}

/// Text with everything that joins or splits words.
fn prose() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-zA-Z]{1,7}",
        1 => Just("it's".to_owned()),
        1 => Just("naïve".to_owned()),
        1 => Just("世界".to_owned()),
        1 => "[0-9]{1,4}",
        1 => "[.,!?/'-]{1,3}",
    ];
    let space = prop_oneof![6 => Just(" "), 3 => Just("\n"), 1 => Just("\n\n"), 1 => Just("  "), 1 => Just("\r\n"), 1 => Just("\t"), 1 => Just(" \n"), 1 => Just("")];
    proptest::collection::vec((word, space), 1..120)
        .prop_map(|words| words.into_iter().flat_map(|(word, space)| [word, space.to_owned()]).collect())
}

thread_local! {
    static GPT2: Tokenizer = Tokenizer::gpt2().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn ids_of_pieces_are_those_of_the_whole(text in prose(), most in 60usize..90) {
        GPT2.with(|gpt2| {
            let encode = |text: &str| gpt2.encode(text, Special::default()).unwrap();
            let (mut pieces, mut rest) = (Vec::new(), text.as_str());
            while let Some(at) = clean_cut(rest, most).filter(|_| rest.len() > most) {
                pieces.extend(encode(&rest[..at]));
                rest = &rest[at..];
            }
            pieces.extend(encode(rest));
            prop_assert_eq!(pieces, encode(&text));
            Ok(())
        })?;
    }
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::sync::Arc;

    use ::parquet::basic::Compression;
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    /// A table with an optional column `content` among others, in row groups of `group` rows.
    fn table(rows: &[Option<&[u8]>], group: usize, packed: Compression) -> Vec<u8> {
        let schema =
            "message m { required int32 id; optional binary content (UTF8); required binary name (UTF8); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(packed).build());
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
        for rows in rows.chunks(group) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let numbers: Vec<i32> = (0..rows.len() as i32).collect();
            column.typed::<::parquet::data_type::Int32Type>().write_batch(&numbers, None, None).unwrap();
            column.close().unwrap();
            let levels: Vec<i16> = rows.iter().map(|row| row.is_some().into()).collect();
            let values: Vec<ByteArray> = rows.iter().flatten().map(|row| row.to_vec().into()).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
            let names: Vec<ByteArray> = rows.iter().map(|_| "n".into()).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        bytes
    }

    fn many() -> Vec<String> {
        (0..700).map(|i| format!("row {i} {}", "é".repeat(i % 50))).collect()
    }

    #[test]
    fn rows_are_read_in_order() {
        let folder = Folder::new("parquet");
        let rows = many();
        let bytes: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.as_bytes())).collect();
        for packed in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            let input = folder.file("a.parquet", table(&bytes, 300, packed));
            assert_eq!(texts(input.clone(), &Reading::default()), rows);
            let name = Reading { field: Field::Named("name".into()), ..Reading::default() };
            assert_eq!(texts(input, &name), vec!["n"; 700]);
        }
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        let folder = Folder::new("bad-parquet");
        let reading = Reading::default();
        let rows = [Some(&b"a"[..]), None, Some(b"\xFF"), Some(b""), Some(b"b")];
        let input = folder.file("a.parquet", table(&rows, 9, Compression::SNAPPY));
        assert!(error(input.clone(), &reading).contains("a.parquet: row 2: has no text"));
        assert_eq!(skipping(input.clone(), &reading), (vec!["a".to_owned(), "b".to_owned()], 2));
        for (field, expected) in [("id", "expected one text a row"), ("none", "id, content, name")] {
            let reading = Reading { field: Field::Named(field.into()), ..reading.clone() };
            let message = error(input.clone(), &reading);
            assert!(message.contains(expected) && message.contains("a.parquet"), "{message}");
        }
        assert!(error(folder.file("b.parquet", "no table"), &reading).contains("b.parquet"));
    }

    #[test]
    fn a_damaged_table_is_an_error() {
        let folder = Folder::new("damaged-parquet");
        let rows = many();
        let rows: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.as_bytes())).collect();
        let whole = table(&rows, 300, Compression::SNAPPY);
        for i in 0..400 {
            let mut bytes = whole.clone();
            let at = i * 7919 % bytes.len();
            // Every second time near the end, where the metadata are.
            let at = if i % 2 == 0 { at } else { bytes.len() - 1 - at % 900.min(bytes.len()) };
            if i % 5 == 0 {
                bytes.truncate(at)
            } else {
                bytes[at] ^= 1 << (i % 8)
            }
            let input = folder.file("a.parquet", bytes);
            // Nothing to check but that it ends: a flipped letter is no damage that could be seen.
            let read = Documents::new(input, reading_all()).filter_map(Result::ok).count();
            assert!(read <= 2 * rows.len(), "{read} rows");
        }
    }

    fn reading_all() -> Reading {
        Reading { on_bad: OnBad::Skip, ..Reading::default() }
    }
}
