//! Damaged files: whatever is cut, flipped or overwritten, a parser answers with a value or an error, allocates in
//! proportion to the file, and never panics.

mod common;

use std::alloc::System;
use std::fs;
use std::path::Path;

use cap::Cap;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wootz_formats::safetensors::{self, Index};
use wootz_formats::{Checkpoint, LlmcHeader, TensorView, config, gguf, llama2c, llmc, tokens};
use wootz_kernels::DType;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// A kind of file, one that is whole, and its parser (`true` if the file was accepted).
struct Case {
    name: &'static str,
    file: Vec<u8>,
    parse: fn(&[u8]) -> bool,
}

const SMALL: LlmcHeader =
    LlmcHeader { version: 3, max_seq: 2, vocab: 3, layers: 1, heads: 1, channels: 2, padded_vocab: 4 };

fn cases() -> Vec<Case> {
    let case = |name, file, parse| Case { name, file, parse };
    vec![
        case("gguf", common::sample_gguf().bytes(), |f| {
            gguf::parse(f).is_ok_and(|g| g.tensors.iter().all(|t| t.view(f).bytes.len() == t.range.len()))
        }),
        case("safetensors", sample_safetensors(), |f| {
            safetensors::parse(f)
                .is_ok_and(|s| s.tensors.iter().all(|t| t.view(f).bytes.len() == t.range.len()))
        }),
        case("llmc", sample_llmc(), |f| llmc::parse(f).is_ok()),
        case("llmc state", sample_state(), |f| llmc::parse_state(f, &SMALL).is_ok()),
        case("llama2c", sample_llama2c(), |f| llama2c::parse(f).is_ok()),
        case("tokens", sample_tokens(), |f| tokens::parse(f).is_ok()),
        case("config", sample_config(), |f| config::parse(f).is_ok()),
        case("index", sample_index(), |f| Index::parse(f).is_ok()),
    ]
}

fn sample_safetensors() -> Vec<u8> {
    let scratch = common::Scratch::new("damage");
    let path = scratch.0.join("s.safetensors");
    let view = |name, dtype, shape, bytes| TensorView { name, dtype, shape, bytes };
    let tensors = [
        view("a", DType::F32, &[2, 3][..], &[1; 24][..]),
        view("b.c", DType::BF16, &[5], &[2; 10]),
        view("d", DType::Bool, &[], &[1]),
    ];
    safetensors::write(&path, &tensors, &[("format", "pt")]).unwrap();
    fs::read(&path).unwrap()
}

fn numbers(numbers: &[u32], header: usize, data: usize) -> Vec<u8> {
    let mut file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    file.resize(header + data, 0);
    file
}

/// Parameters of [`SMALL`]: wte 8, wpe 4, norms 8, qkv 18, attproj 6, fc 24, fcproj 18, lnf 4.
const SMALL_PARAMETERS: usize = 8 + 4 + 8 + 18 + 6 + 24 + 18 + 4;

fn sample_llmc() -> Vec<u8> {
    numbers(&[llmc::MODEL_MAGIC, 3, 2, 3, 1, 1, 2, 4], 1024, 4 * SMALL_PARAMETERS)
}

fn sample_state() -> Vec<u8> {
    numbers(&[llmc::STATE_MAGIC, 2, 1, 2], 1024, 4 * (2 + 2 + 6 + 1 + SMALL_PARAMETERS))
}

fn sample_llama2c() -> Vec<u8> {
    numbers(&[4, 3, 2, 2, 1, 6, 5], 28, 4 * (24 + 2 * 92 + 4 + 10))
}

fn sample_tokens() -> Vec<u8> {
    numbers(&[tokens::U16_MAGIC, 1, 7], 1024, 14)
}

fn sample_config() -> Vec<u8> {
    br#"{"model_type": "llama", "rope_scaling": {"factor": 8.0, "type": "linear"}, "eos_token_id": [1, 2]}"#
        .to_vec()
}

fn sample_index() -> Vec<u8> {
    br#"{"metadata": {"total_size": 3}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#
        .to_vec()
}

/// One thing that may happen to a file. Places are taken modulo its length.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Overwrite(usize, u64, usize),
    Cut(usize),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        let len = file.len().max(1);
        match self {
            Damage::Flip(at, bit) => {
                if let Some(byte) = file.get_mut(at % len) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Damage::Overwrite(at, number, width) => {
                let at = at % len;
                let end = (at + width).min(file.len());
                if at < end {
                    file[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                }
            }
            Damage::Cut(at) => file.truncate(at % len),
            Damage::Remove(at, count) => {
                let at = at % len;
                let end = (at + count).min(file.len());
                file.drain(at.min(end)..end);
            }
            Damage::Insert(at, bytes) => {
                let at = (at % len).min(file.len());
                file.splice(at..at, bytes.iter().copied());
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    // Most fields that matter are near the start.
    let place = || prop_oneof![3 => 0usize..256, 1 => any::<usize>()];
    let number = prop_oneof![
        any::<u64>(),
        0u64..300,
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just(1 << 31),
        Just(0xffff_ffff),
        (0u32..64).prop_map(|bit| 1 << bit),
    ];
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (place(), number, 1usize..=8).prop_map(|(at, n, width)| Damage::Overwrite(at, n, width)),
        1 => place().prop_map(Damage::Cut),
        1 => (place(), 1usize..40).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, b)| Damage::Insert(at, b)),
    ]
}

/// Bytes that parsing may allocate in all, freed or not: in proportion to the file, and an error message.
fn allowance(file: &[u8]) -> usize {
    64 * file.len() + 16 * 1024
}

fn allocated_by(parse: fn(&[u8]) -> bool, file: &[u8]) -> usize {
    let before = ALLOCATOR.total_allocated();
    parse(file);
    ALLOCATOR.total_allocated() - before
}

/// One test and not one for each format: the allocations that are counted are those of the whole process.
#[test]
fn damaged_files_never_panic_and_allocate_little() {
    for Case { name, file, parse } in cases() {
        assert!(parse(&file), "{name}: the whole file is good");
        for len in 0..file.len() {
            // All formats say their size in one way or another; token ids without a header do not, and a shard
            // that lost its magic is one of those.
            let no_magic_left = name == "tokens" && len < 4;
            assert!(no_magic_left || !parse(&file[..len]), "{name} cut to {len} of {}", file.len());
            let allocated = allocated_by(parse, &file[..len]);
            assert!(allocated <= allowance(&file[..len]), "{name} cut to {len}: {allocated} bytes allocated");
        }
        let mut runner =
            TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
        let strategy = prop::collection::vec(damage(), 1..6);
        let result = runner.run(&strategy, |all| {
            let mut damaged = file.clone();
            all.iter().for_each(|d| d.apply(&mut damaged));
            let allocated = allocated_by(parse, &damaged);
            prop_assert!(allocated <= allowance(&damaged), "{allocated} bytes allocated");
            Ok(())
        });
        if let Err(e) = result {
            panic!("{name}: {e}");
        }
    }
    opened_files();
}

/// The same through [`Checkpoint::open`], which also has to tell the formats apart.
fn opened_files() {
    let scratch = common::Scratch::new("damage-open");
    for Case { name, file, .. } in cases() {
        let extension = if matches!(name, "gguf" | "safetensors") { name } else { "bin" };
        let path = scratch.0.join("model").with_extension(extension);
        let mut runner =
            TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let result = runner.run(&prop::collection::vec(damage(), 1..4), |all| {
            let mut damaged = file.clone();
            all.iter().for_each(|d| d.apply(&mut damaged));
            fs::write(&path, &damaged).unwrap();
            match Checkpoint::open(&path) {
                Ok(checkpoint) => {
                    let bytes: usize = checkpoint.tensors().map(|t| t.bytes.len()).sum();
                    prop_assert!(bytes <= damaged.len());
                }
                Err(e) => prop_assert!(e.to_string().contains(&*path.to_string_lossy()), "{e} names no file"),
            }
            Ok(())
        });
        if let Err(e) = result {
            panic!("{name}: {e}");
        }
    }
}

/// Fills `fuzz/corpus` with the whole files, from which the fuzzer starts.
#[test]
#[ignore = "writes the fuzzer's first inputs"]
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for Case { name, file, .. } in cases() {
        let target = match name {
            "llmc state" | "tokens" => "llmc",
            "index" => "config",
            other => other,
        };
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("seed-{}", name.replace(' ', "-"))), file).unwrap();
    }
}
