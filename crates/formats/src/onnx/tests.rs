use std::fs;

use super::*;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field<'a> {
    Int(i64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The values of the fields of this number in a message.
fn fields(mut message: &[u8], number: u64) -> Vec<Field<'_>> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => Field::Int(varint(&mut message) as i64),
            2 => {
                let length = varint(&mut message) as usize;
                Field::Bytes(take(&mut message, length))
            }
            5 => Field::Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        if tag >> 3 == number {
            found.push(value);
        }
    }
    found
}

fn all_bytes(message: &[u8], number: u64) -> Vec<&[u8]> {
    let bytes = |field| match field {
        Field::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    fields(message, number).into_iter().map(bytes).collect()
}

fn text(message: &[u8], number: u64) -> &str {
    std::str::from_utf8(all_bytes(message, number)[0]).unwrap()
}

fn ints(message: &[u8], number: u64) -> Vec<i64> {
    let int = |field| match field {
        Field::Int(value) => value,
        other => panic!("{other:?}"),
    };
    fields(message, number).into_iter().map(int).collect()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wootz-onnx-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn names(&self) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(&self.0).unwrap().map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spec(name: &str, dtype: DType, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
}

/// Two weights, each filled with its index.
fn weights() -> Vec<TensorSpec> {
    vec![spec("a", DType::F32, &[3]), spec("b", DType::BF16, &[600, 1000])]
}

fn fill(index: usize, file: &mut dyn Write) -> io::Result<()> {
    let bytes = [12, 1_200_000][index];
    file.write_all(&vec![index as u8; bytes])
}

fn model() -> Model {
    Model {
        name: "graph".into(),
        notes: vec![("key".into(), "value".into())],
        inputs: vec![Value {
            name: "x".into(),
            dtype: DType::I64,
            shape: vec![Dim::Named("batch"), Dim::Fixed(3)],
        }],
        outputs: Vec::new(),
        nodes: vec![Node {
            name: "n".into(),
            op: "Add",
            inputs: vec!["x".into(), "a".into()],
            outputs: vec!["y".into()],
            attributes: vec![
                ("f", Attribute::Float(0.5)),
                ("i", Attribute::Int(-1)),
                ("is", Attribute::Ints(vec![0, 2, 1])),
                ("to", Attribute::Type(DType::F16)),
            ],
        }],
        constants: vec![Constant {
            name: "c".into(),
            dtype: DType::I64,
            shape: vec![],
            bytes: 7i64.to_le_bytes().to_vec(),
        }],
    }
}

#[test]
fn a_model_in_one_file() {
    let folder = Folder::new("one");
    let path = folder.0.join("m.onnx");
    write(&path, &model(), &weights(), LONGEST_MESSAGE, &mut fill).unwrap();
    assert_eq!(folder.names(), ["m.onnx"]);

    let file = fs::read(&path).unwrap();
    assert_eq!(ints(&file, 1), [8]);
    let [operations] = all_bytes(&file, 8)[..] else { panic!() };
    assert_eq!((text(operations, 1), ints(operations, 2)), ("", vec![17]));
    let [note] = all_bytes(&file, 14)[..] else { panic!() };
    assert_eq!((text(note, 1), text(note, 2)), ("key", "value"));
    let [graph] = all_bytes(&file, 7)[..] else { panic!() };
    assert_eq!(text(graph, 2), "graph");

    let [node] = all_bytes(graph, 1)[..] else { panic!() };
    assert_eq!(all_bytes(node, 1), [b"x", b"a"]);
    assert_eq!((text(node, 2), text(node, 3), text(node, 4)), ("y", "n", "Add"));
    let [f, i, is, to] = all_bytes(node, 5)[..] else { panic!() };
    assert_eq!((text(f, 1), fields(f, 2), ints(f, 20)), ("f", vec![Field::Float(0.5)], vec![1]));
    assert_eq!((text(i, 1), ints(i, 3), ints(i, 20)), ("i", vec![-1], vec![2]));
    assert_eq!((text(is, 1), ints(is, 8), ints(is, 20)), ("is", vec![0, 2, 1], vec![7]));
    assert_eq!((text(to, 1), ints(to, 3), ints(to, 20)), ("to", vec![10], vec![2]));

    let [constant, a, b] = all_bytes(graph, 5)[..] else { panic!() };
    assert_eq!((text(constant, 8), ints(constant, 1), ints(constant, 2)), ("c", vec![], vec![7]));
    assert_eq!(all_bytes(constant, 9), [7i64.to_le_bytes()]);
    assert_eq!((text(a, 8), ints(a, 1), ints(a, 2)), ("a", vec![3], vec![1]));
    assert_eq!(all_bytes(a, 9), [[0; 12]]);
    assert_eq!((text(b, 8), ints(b, 1), ints(b, 2)), ("b", vec![600, 1000], vec![16]));
    assert!(all_bytes(b, 9) == [&[1; 1_200_000][..]]);

    let [input] = all_bytes(graph, 11)[..] else { panic!() };
    let tensor = all_bytes(all_bytes(input, 2)[0], 1)[0];
    assert_eq!((text(input, 1), ints(tensor, 1)), ("x", vec![7]));
    let [batch, three] = all_bytes(all_bytes(tensor, 2)[0], 1)[..] else { panic!() };
    assert_eq!((text(batch, 2), ints(three, 1)), ("batch", vec![3]));
}

#[test]
fn weights_beside_are_where_the_model_says() {
    let folder = Folder::new("beside");
    let path = folder.0.join("m.onnx");
    write(&path, &model(), &weights(), 1000, &mut fill).unwrap();
    assert_eq!(folder.names(), ["m.onnx", "m.onnx.data"]);
    let file = fs::read(&path).unwrap();
    let data = fs::read(data_path(&path)).unwrap();
    let graph = all_bytes(&file, 7)[0];
    let [_, a, b] = all_bytes(graph, 5)[..] else { panic!() };
    for (index, tensor, shape, at) in [(0u8, a, vec![3], 0..12), (1, b, vec![600, 1000], 65_536..1_265_536)] {
        assert_eq!((ints(tensor, 1), ints(tensor, 14)), (shape, vec![1]));
        assert!(fields(tensor, 9).is_empty());
        let entries: Vec<_> =
            all_bytes(tensor, 13).into_iter().map(|entry| (text(entry, 1), text(entry, 2))).collect();
        let (offset, length) = (at.start.to_string(), at.len().to_string());
        assert_eq!(entries, [("location", "m.onnx.data"), ("offset", &offset), ("length", &length)]);
        assert!(data[at].iter().all(|&byte| byte == index));
    }
    assert_eq!(data.len(), 1_265_536);

    // The same in one file: the other is none of it any more.
    write(&path, &model(), &weights(), LONGEST_MESSAGE, &mut fill).unwrap();
    assert_eq!(folder.names(), ["m.onnx"]);
}

/// The length that decides is that of the file, to the byte.
#[test]
fn the_longest_file_is_the_longest() {
    let folder = Folder::new("longest");
    let path = folder.0.join("m.onnx");
    write(&path, &model(), &weights(), LONGEST_MESSAGE, &mut fill).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    write(&path, &model(), &weights(), length, &mut fill).unwrap();
    assert_eq!(folder.names(), ["m.onnx"]);
    write(&path, &model(), &weights(), length - 1, &mut fill).unwrap();
    assert_eq!(folder.names(), ["m.onnx", "m.onnx.data"]);
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = Folder::new("failed");
    let path = folder.0.join("m.onnx");
    for longest in [LONGEST_MESSAGE, 0] {
        let too_little = &mut |_: usize, file: &mut dyn Write| file.write_all(&[0; 12]);
        let error = write(&path, &model(), &weights(), longest, too_little).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("tensor \"b\"") && cause.contains("12 were written"), "{cause}");
        assert!(folder.names().is_empty());
    }
    let block = [spec("q", DType::Q8_0, &[32])];
    let error = write(&path, &model(), &block, 0, &mut fill).unwrap_err().to_string();
    assert!(error.contains("m.onnx: \"q\": ONNX has no type Q8_0"), "{error}");
    assert!(folder.names().is_empty());

    write(&path, &model(), &weights(), 0, &mut fill).unwrap();
    let before = (fs::read(&path).unwrap(), fs::read(data_path(&path)).unwrap());
    let full = &mut |_: usize, _: &mut dyn Write| Err(io::Error::other("disk full"));
    for longest in [LONGEST_MESSAGE, 0] {
        assert!(write(&path, &model(), &weights(), longest, full).is_err());
        assert!(before == (fs::read(&path).unwrap(), fs::read(data_path(&path)).unwrap()));
    }
    assert_eq!(folder.names(), ["m.onnx", "m.onnx.data"]);
}

/// Sizes are known before a byte is asked for, so 8 GB of weights fail as early as any.
#[test]
fn weights_of_gigabytes_go_beside() {
    let folder = Folder::new("large");
    let large = vec![spec("a", DType::F32, &[1 << 31])];
    let path = folder.0.join("m.onnx");
    let plan = Plan::new(&path, &model(), &large, LONGEST_MESSAGE).unwrap();
    assert_eq!(plan.data, Some(vec![0]));
    let huge = vec![spec("a", DType::F32, &[usize::MAX, 2])];
    let error = write(&path, &model(), &huge, 0, &mut fill).unwrap_err().to_string();
    assert!(error.contains("overflows"), "{error}");
    let many = vec![spec("a", DType::F32, &[1 << 60]); 4];
    let error = write(&path, &model(), &many, 0, &mut fill).unwrap_err().to_string();
    assert!(error.contains("more bytes than this machine can address"), "{error}");
}
