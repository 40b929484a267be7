//! Models made here: what must open does, and what is wrong is said by name.

mod common;

use std::fs;

use common::{GgufFile, Scratch, sample_gguf};
use wootz_formats::gguf::{self, Array, Value};
use wootz_formats::{Checkpoint, ErrorKind, Format, Metadata, TensorView, safetensors};
use wootz_kernels::DType;

fn gguf_error(file: &GgufFile) -> String {
    gguf::parse(&file.bytes()).expect_err("should be refused").to_string()
}

#[test]
fn gguf_holds_what_was_written() {
    for version in [2, 3] {
        let parsed = gguf::parse(&GgufFile { version, ..sample_gguf() }.bytes()).unwrap();
        let m = &parsed.metadata;
        assert_eq!(m.version(), version);
        assert_eq!(m.iter().next().unwrap().0, "general.architecture");
        assert_eq!(m.get_strings("tokenizer.ggml.tokens").unwrap().iter().nth(2), Some("é"));
        assert_eq!(m.get_f32("llama.attention.layer_norm_rms_epsilon").unwrap(), 1e-5);
        assert!(m.get_bool("flag").unwrap());
        assert_eq!(m.value("wide"), Some(&Value::I64(-5)));
        assert_eq!(m.value("nested"), Some(&Value::Array(Array::Array(vec![Array::U32(vec![9])]))));
        let tensor = &parsed.tensors[0];
        assert_eq!((tensor.dtype, tensor.shape.as_slice()), (DType::Q8_0, &[4, 32][..]));
        assert_eq!(tensor.range.len(), 136);
        assert_eq!(parsed.tensors[2].shape, [0usize; 0]);
    }
}

#[test]
fn gguf_alignment_is_obeyed() {
    for alignment in [1, 8, 64, 4096] {
        let file = GgufFile { alignment, ..GgufFile::new() }
            .u32("general.alignment", alignment as u32)
            .tensor("a", &[3], 24, vec![7, 8, 9])
            .tensor("b", &[2], 24, vec![1, 2]);
        let bytes = file.bytes();
        let parsed = gguf::parse(&bytes).unwrap();
        assert_eq!(bytes[parsed.tensors[0].range.clone()], [7, 8, 9]);
        assert_eq!(bytes[parsed.tensors[1].range.clone()], [1, 2]);
    }
    for wrong in [0, 24, u32::MAX] {
        assert!(gguf_error(&GgufFile::new().u32("general.alignment", wrong)).contains("power of two"));
    }
    let text = gguf_error(&GgufFile::new().string("general.alignment", "32"));
    assert!(text.contains("general.alignment") && text.contains("found string"), "{text}");
}

#[test]
fn gguf_that_lies_is_refused_by_name() {
    let with = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = sample_gguf();
        change(&mut file);
        gguf_error(&file)
    };
    for (error, expected) in [
        (with(&|f| f.version = 1), "version 1 is not read"),
        (with(&|f| f.version = 3u32.swap_bytes()), "big-endian"),
        (with(&|f| f.version = 99), "version 99"),
        (
            with(&|f| f.tensors[0].type_id = 39),
            "\"token_embd.weight\": tensor type 39 (MXFP4) is not supported",
        ),
        (with(&|f| f.tensors[0].type_id = 777), "tensor type 777 (unknown to wootz)"),
        (with(&|f| f.tensors[0].type_id = 777), "Q4_K"),
        (with(&|f| f.tensors[0].ne = vec![0, 4]), "a dimension of 0"),
        (with(&|f| f.tensors[0].ne = vec![1 << 63, 1]), "a dimension of 9223372036854775808"),
        (with(&|f| f.tensors[0].ne = vec![1 << 62, 1 << 62]), "overflows"),
        (with(&|f| f.tensors[0].ne = vec![1 << 40]), "reach beyond the file's"),
        (with(&|f| f.tensors[0].ne = vec![33, 4]), "multiple of 32"),
        (with(&|f| f.tensors[0].ne = vec![32; 5]), "5 dimensions"),
        (with(&|f| f.tensors[0].offset = 1 << 63), "reach beyond the file's"),
        (with(&|f| f.tensors[1].offset = 3), "not a multiple of the alignment"),
        (with(&|f| f.tensors[1].offset = 32), "overlap"),
        (with(&|f| f.tensors[1].name = b"token_embd.weight".to_vec()), "two tensors have the name"),
        (with(&|f| f.tensors[1].name = vec![b'a', 0xff]), "tensor entry 1: name: not UTF-8"),
        (
            with(&|f| f.entries[1].0 = "general.architecture".into()),
            "\"general.architecture\" is there twice",
        ),
        (gguf_error(&sample_gguf().raw("b", 7, &[2])), "metadata key \"b\": expected a bool"),
        (gguf_error(&sample_gguf().raw("b", 13, &[2])), "value type 13"),
        (
            gguf_error(&sample_gguf().array("b", 4, 1 << 63, &[])),
            "metadata key \"b\": 9223372036854775808 items",
        ),
        (gguf_error(&sample_gguf().array("b", 8, u64::MAX, &[])), "18446744073709551615 items"),
        (gguf_error(&sample_gguf().array("b", 8, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), "string 0: not UTF-8"),
        (gguf_error(&sample_gguf().raw("b", 8, &[255; 8])), "ends too early"),
    ] {
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
    }
}

#[test]
fn gguf_counts_are_compared_with_the_file() {
    for at in [8, 16] {
        for count in [1u64 << 20, 1 << 63, u64::MAX] {
            let mut bytes = sample_gguf().bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert!(gguf::parse(&bytes).unwrap_err().to_string().contains("items of at least"));
        }
    }
}

#[test]
fn gguf_cut_anywhere_is_refused() {
    let bytes = sample_gguf().bytes();
    assert!(gguf::parse(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(gguf::parse(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
    }
}

fn part(no: u16, count: u16, tensor: &str) -> Vec<u8> {
    GgufFile::new()
        .u16("split.no", no)
        .u16("split.count", count)
        .i32("split.tensors.count", i32::from(count))
        .tensor(tensor, &[1], 24, vec![no as u8])
        .bytes()
}

#[test]
fn split_gguf_opens_from_any_of_its_files() {
    let scratch = Scratch::new("split");
    let path = |n: u16| scratch.0.join(format!("m-{n:05}-of-00003.gguf"));
    for n in 1..=3 {
        fs::write(path(n), part(n - 1, 3, &format!("t{n}"))).unwrap();
    }
    for start in [path(1), path(3), scratch.0.clone()] {
        let checkpoint = Checkpoint::open(&start).unwrap();
        assert_eq!(checkpoint.files().len(), 3);
        let found: Vec<_> = checkpoint.tensors().map(|t| (t.name, t.bytes)).collect();
        assert_eq!(found, [("t1", &[0u8][..]), ("t2", &[1]), ("t3", &[2])]);
        let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!() };
        assert_eq!(metadata.get_u64("split.no").unwrap(), 0, "the metadata is that of the first file");
    }

    fs::write(path(2), part(2, 3, "t2")).unwrap();
    let error = Checkpoint::open(&path(1)).unwrap_err().to_string();
    assert!(
        error.contains("m-00002-of-00003.gguf: split.no: expected 1 by the file's name, found 2"),
        "{error}"
    );
    fs::write(path(2), part(1, 3, "t1")).unwrap();
    let error = Checkpoint::open(&path(1)).unwrap_err().to_string();
    assert!(
        error.contains("tensor \"t1\" is in") && error.contains("m-00001-of-00003.gguf already"),
        "{error}"
    );
    fs::remove_file(path(2)).unwrap();
    let error = Checkpoint::open(&path(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("m-00002-of-00003.gguf"), "{error}");

    let renamed = scratch.0.join("renamed.gguf");
    fs::rename(path(1), &renamed).unwrap();
    let error = Checkpoint::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("NAME-00001-of-00003.gguf"), "{error}");
}

#[test]
fn safetensors_are_written_as_the_reference_reads_them() {
    let scratch = Scratch::new("write");
    let path = scratch.0.join("out.safetensors");
    let view = |name, dtype, shape, bytes| TensorView { name, dtype, shape, bytes };
    let tensors = [
        view("b", DType::U8, &[3][..], &[1, 2, 3][..]),
        view("a \"quoted\"", DType::F32, &[1, 2], &[0, 0, 128, 63, 0, 0, 0, 64]),
        view("half", DType::BF16, &[], &[128, 63]),
        view("wide", DType::I64, &[1], &[1, 0, 0, 0, 0, 0, 0, 0]),
        view("empty", DType::F16, &[0, 7], &[]),
    ];
    safetensors::write(&path, &tensors, &[("format", "pt")]).unwrap();

    let file = fs::read(&path).unwrap();
    let reference = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(reference.len(), tensors.len());
    let ours = Checkpoint::open(&path).unwrap();
    for tensor in &tensors {
        let theirs = reference.tensor(tensor.name).unwrap();
        assert_eq!((theirs.shape(), theirs.data()), (tensor.shape, tensor.bytes));
        assert_eq!(theirs.dtype().to_string(), tensor.dtype.name());
        let read = ours.tensor(tensor.name).unwrap();
        assert_eq!(read, *tensor);
        assert!(read.bytes.as_ptr().addr().is_multiple_of(tensor.dtype.block_bytes()), "{}", tensor.name);
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn folders_say_what_is_missing() {
    let scratch = Scratch::new("folder");
    let folder = &scratch.0;
    let error = || Checkpoint::open(folder).unwrap_err().to_string();
    assert!(error().contains("no model in this folder"));
    fs::write(folder.join("config.json"), b"{\"model_type\": ").unwrap();
    assert!(error().contains("config.json: not JSON"));
    fs::write(folder.join("config.json"), b"{}").unwrap();
    assert!(error().contains("no .safetensors file"));
    fs::write(folder.join("pytorch_model.bin"), b"PK").unwrap();
    assert!(error().contains("save the model as safetensors"));
    fs::write(folder.join("m.gguf"), sample_gguf().bytes()).unwrap();
    assert_eq!(Checkpoint::open(folder).unwrap().format(), Format::Gguf);
    fs::write(folder.join("n.gguf"), sample_gguf().bytes()).unwrap();
    assert!(error().contains("2 .gguf models in this folder"));

    let one = |name: &str, tensor: &str| {
        let view = TensorView { name: tensor, dtype: DType::U8, shape: &[1], bytes: &[1] };
        safetensors::write(&folder.join(name), &[view], &[]).unwrap();
    };
    one("model-00001-of-00002.safetensors", "a");
    assert!(Checkpoint::open(folder).is_ok(), "a single file needs no index");
    one("model-00002-of-00002.safetensors", "b");
    assert!(error().contains("2 .safetensors files and no model.safetensors.index.json"));

    let index = |text: &str| fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    index(&format!(r#"{{"metadata":{{}},"weight_map":{{"a":"{first}","b":"{second}"}}}}"#));
    assert_eq!(Checkpoint::open(folder).unwrap().tensors().len(), 2);
    index(&format!(r#"{{"weight_map":{{"b":"{first}","a":"{second}"}}}}"#));
    assert!(
        error().contains("tensor \"b\" should be in model-00001-of-00002.safetensors, and is in"),
        "{}",
        error()
    );
    index(&format!(r#"{{"weight_map":{{"c":"{first}"}}}}"#));
    assert!(error().contains("in none of the files"));
    index(r#"{"weight_map":{"a":"absent.safetensors"}}"#);
    assert!(error().contains("absent.safetensors: cannot open"));
    one(second, "a");
    index(&format!(r#"{{"weight_map":{{"a":"{first}","b":"{second}"}}}}"#));
    assert!(error().contains("already"));
}
