//! Logits and losses of every family against PyTorch's, in f32; block formats against the dequantised weights.
//!
//! Cases are found: every folder with a `golden.safetensors` under `$WOOTZ_FIXTURES` (default `tests/fixtures`).

mod gpu;

use std::path::{Path, PathBuf};
use wootz_formats::{Checkpoint, TensorView};
use wootz_kernels::Precision;
use wootz_kernels::device::Accelerator;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::ops::softmax::log_sum_exp;
use wootz_model::load::LoadOptions;
use wootz_model::{Chunk, MAX_CHUNK, Model, Rows, Scratch};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

/// Folders with a golden.safetensors, at most two levels down.
fn cases() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![fixtures()];
    for _ in 0..3 {
        let mut next = Vec::new();
        for folder in folders {
            if folder.join("golden.safetensors").is_file()
                && !["lora", "grpo"].iter().any(|n| folder.ends_with(n))
            {
                found.push(folder.clone());
            }
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            next.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        }
        folders = next;
    }
    found.sort();
    assert!(!found.is_empty(), "no fixtures under {}", fixtures().display());
    found
}

fn i32s(view: &TensorView) -> Vec<u32> {
    view.bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

fn f32s(view: &TensorView) -> Vec<f32> {
    view.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Logits `[B, T, V]` of `ids` `[B][T]`.
fn logits(model: &Model, ids: &[u32], seq: usize) -> Vec<f32> {
    let mut scratch = Scratch::default();
    let mut caches: Vec<_> = ids.chunks(seq).map(|_| model.new_cache(seq, CacheType::F32).unwrap()).collect();
    let mut chunks: Vec<Chunk> = ids
        .chunks(seq)
        .zip(&mut caches)
        .map(|(tokens, cache)| Chunk { tokens, cache, logits: Rows::All })
        .collect();
    assert!(seq <= MAX_CHUNK);
    model.forward(&mut scratch, &mut chunks).unwrap().to_vec()
}

fn load(path: &Path, precision: Precision) -> Model {
    Model::load(path, &LoadOptions { precision, threads: 2 }).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Largest difference over the largest magnitude.
fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

/// Mean Kullback-Leibler divergence of `got` from `want`, in nats a row.
fn divergence(got: &[f32], want: &[f32], vocab: usize) -> f64 {
    let rows = got.chunks_exact(vocab).zip(want.chunks_exact(vocab));
    let count = rows.len() as f64;
    let of = |(got, want): (&[f32], &[f32])| -> f64 {
        let (g, w) = (f64::from(log_sum_exp(got)), f64::from(log_sum_exp(want)));
        got.iter()
            .zip(want)
            .map(|(got, want)| {
                let (p, q) = (f64::from(*want) - w, f64::from(*got) - g);
                p.exp() * (p - q)
            })
            .sum()
    };
    rows.map(of).sum::<f64>() / count
}

/// On a GPU, or on the CPU.
fn load_on(gpu: Option<&Accelerator>, path: &Path, precision: Precision) -> Model {
    let mut model = load(path, precision);
    if let Some(gpu) = gpu {
        let all = model.config().n_layers();
        model.place(gpu, all).unwrap();
    }
    model
}

#[test]
fn parity_of_safetensors_logits_and_loss() {
    safetensors_logits_and_loss(None);
}

#[test]
fn parity_of_safetensors_logits_and_loss_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    safetensors_logits_and_loss(Some(&gpu));
}

fn safetensors_logits_and_loss(gpu: Option<&Accelerator>) {
    let mut seen = 0;
    for folder in cases().iter().filter(|f| f.join("config.json").is_file()) {
        let name = folder.display();
        let golden = Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
        let ids = golden.tensor("input_ids").unwrap();
        let (seq, want) = (ids.shape[1], f32s(&golden.tensor("logits").unwrap()));
        let model = load_on(gpu, folder, Precision::F32);
        let got = logits(&model, &i32s(&ids), seq);
        let error = relative_error(&got, &want);
        println!("{name}: logits off by {error:.1e}");
        assert!(error <= 2e-5, "{name}: {error:e}");

        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let targets = i32s(&golden.tensor("targets").unwrap());
        let vocab = model.config().vocab_size;
        let loss: f64 = got
            .chunks(vocab)
            .zip(&targets)
            .map(|(row, &t)| f64::from(log_sum_exp(row)) - f64::from(row[t as usize]))
            .sum::<f64>()
            / targets.len() as f64;
        let want = json["loss"].as_f64().unwrap();
        assert!((loss - want).abs() <= 2e-5 * want, "{name}: loss {loss}, expected {want}");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn parity_of_gguf_logits() {
    gguf_logits(None);
}

#[test]
fn parity_of_gguf_logits_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    gguf_logits(Some(&gpu));
}

fn gguf_logits(gpu: Option<&Accelerator>) {
    for folder in cases().iter().filter(|f| !f.join("config.json").is_file()) {
        let golden = Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
        let ids = golden.tensor("input_ids").unwrap();
        let seq = ids.shape[1];
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let Some(want) = golden.tensor(&format!("logits.{stem}")) else { panic!("no logits of {stem}") };
            let want = f32s(&want);
            let exact = logits(&load_on(gpu, &path, Precision::F32), &i32s(&ids), seq);
            let error = relative_error(&exact, &want);
            let native = load_on(gpu, &path, Precision::Native);
            let kl = divergence(&logits(&native, &i32s(&ids), seq), &want, native.config().vocab_size);
            println!("{}: exact off by {error:.1e}, native KL {kl:.1e} nats", path.display());
            assert!(error <= 2e-5, "{}: {error:e}", path.display());
            assert!(kl <= 0.01, "{}: {kl}", path.display());
        }
    }
}

#[test]
fn parity_of_llmc() {
    use wootz_formats::{Metadata, llmc::DebugState};
    let folder = fixtures().join("gpt2-micro/llmc");
    if !folder.is_dir() {
        println!("skipped: no {}", folder.display());
        return;
    }
    let path = folder.join("model.bin");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Metadata::LlmC(header) = checkpoint.metadata() else { panic!() };
    let state = DebugState::open(&folder.join("debug_state.bin"), header).unwrap();
    let model = load(&path, Precision::F32);
    let ids: Vec<u32> = state.inputs().iter().map(|&id| id as u32).collect();
    let got = logits(&model, &ids, state.seq());
    let error = relative_error(&got, &f32s(&state.logits()));
    assert!(error <= 2e-5, "{error:e}");
    // The bf16 file holds the same weights, rounded.
    let rounded = logits(&load(&folder.join("model_bf16.bin"), Precision::F32), &ids, state.seq());
    let error = relative_error(&rounded, &got);
    assert!(error > 0.0 && error < 0.05, "{error:e}");
}

/// Whole, in chunks, in batches of mixed lengths, on one thread and on two: the same bits.
#[test]
fn bits_are_the_same_on_every_path() {
    let mut models: Vec<PathBuf> = cases();
    models.retain(|folder| folder.join("config.json").is_file());
    for folder in cases().iter().filter(|f| !f.join("config.json").is_file()) {
        models.extend(
            std::fs::read_dir(folder)
                .unwrap()
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "gguf")),
        );
    }
    for path in models {
        let two = load(&path, Precision::Native);
        let one = Model::load(&path, &LoadOptions { precision: Precision::Native, threads: 1 }).unwrap();
        let vocab = two.config().vocab_size;
        let length = 100.min(two.config().max_seq);
        let ids: Vec<u32> = (0..length as u32).map(|i| (i * i * 7 + 3 * i) % vocab as u32).collect();
        for kind in [CacheType::F16, CacheType::F32] {
            let run = |model: &Model, chunk: usize| -> Vec<f32> {
                let mut cache = model.new_cache(length, kind).unwrap();
                let mut scratch = Scratch::default();
                let mut all = Vec::new();
                for tokens in ids.chunks(chunk) {
                    let chunk = Chunk { tokens, cache: &mut cache, logits: Rows::All };
                    all.extend_from_slice(model.forward(&mut scratch, &mut [chunk]).unwrap());
                }
                all
            };
            let whole = run(&two, length);
            let same = |other: &[f32], what: &str| {
                let equal = whole.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal, "{}: {what} {kind:?}", path.display());
            };
            same(&run(&one, length), "one thread");
            same(&run(&one, 1), "token by token, one thread");
            same(&run(&two, 1), "token by token");
            same(&run(&two, 7), "chunks of 7");
            same(&run(&two, 64), "chunks of 64");
            // Eight sequences of mixed lengths, all prefixes of the same one, in steps of mixed sizes.
            let lengths: Vec<usize> = (1..=8).map(|i| length * i / 8).collect();
            let mut caches: Vec<_> = lengths.iter().map(|_| two.new_cache(length, kind).unwrap()).collect();
            let mut scratch = Scratch::default();
            while caches.iter().zip(&lengths).any(|(cache, &len)| cache.len() < len) {
                let mut expected = Vec::new();
                let mut chunks = Vec::new();
                for (i, (cache, &len)) in caches.iter_mut().zip(&lengths).enumerate() {
                    let start = cache.len();
                    let end = len.min(start + 1 + 5 * i);
                    if start < end {
                        expected.extend_from_slice(&whole[(end - 1) * vocab..end * vocab]);
                        chunks.push(Chunk { tokens: &ids[start..end], cache, logits: Rows::Last });
                    }
                }
                let got = two.forward(&mut scratch, &mut chunks).unwrap();
                let equal = got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal && got.len() == expected.len(), "{}: batch {kind:?}", path.display());
            }
        }
    }
}
