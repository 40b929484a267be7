//! Every reference file opens and holds what is known of it.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{fixture, fixtures_ending};
use wootz_formats::llmc::DebugState;
use wootz_formats::tokens::{TokenFormat, Tokens};
use wootz_formats::{Checkpoint, FileKind, Format, LlmcHeader, Metadata, TensorView, identify};
use wootz_kernels::DType;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn parameters(checkpoint: &Checkpoint) -> usize {
    checkpoint.tensors().map(|t| t.elements()).sum()
}

fn f32s(tensor: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(tensor.dtype, DType::F32, "{}", tensor.name);
    tensor.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

#[test]
fn folders_hold_the_parameters_that_they_should() {
    for (name, tensors, elements, model_type) in [
        ("gpt2-micro", 40, 186_176, "gpt2"),
        ("llama-micro", 30, 195_008, "llama"),
        ("llama3-rope-micro", 20, 119_104, "llama"),
        ("mistral-micro", 30, 219_584, "mistral"),
        ("qwen2-micro", 38, 162_624, "qwen2"),
        ("qwen3-micro", 35, 199_296, "qwen3"),
        ("qwen3-sharded", 35, 199_296, "qwen3"),
        ("qwen3-yarn-micro", 24, 143_808, "qwen3"),
        ("gemma3-micro", 93, 393_472, "gemma3_text"),
        ("gemma3-rope8-micro", 80, 292_608, "gemma3_text"),
        ("real/stories260k", 47, 260_032, "llama"),
        ("real/babyllama", 47, 936_448, "llama"),
    ] {
        let Some(path) = fixture(name) else { continue };
        let checkpoint = open(&path);
        assert_eq!(checkpoint.format(), Format::Safetensors);
        assert_eq!((checkpoint.tensors().len(), parameters(&checkpoint)), (tensors, elements), "{name}");
        let Metadata::Config(config) = checkpoint.metadata() else { panic!("{name}: no config") };
        assert_eq!(config["model_type"], model_type, "{name}");
        assert_eq!(checkpoint.notes(), [("format".to_owned(), "pt".to_owned())], "{name}");
    }
}

#[test]
fn shards_hold_what_the_index_says() {
    let Some(path) = fixture("qwen3-sharded") else { return };
    let checkpoint = open(&path);
    assert_eq!(checkpoint.files().len(), 5);
    let index = std::fs::read(path.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let bytes: usize = checkpoint.tensors().map(|t| t.bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), checkpoint.tensors().len());
}

/// The `safetensors` crate is the reference implementation.
#[test]
fn parity_of_every_safetensors_file_with_the_reference_reader() {
    for path in fixtures_ending(".safetensors") {
        let file = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        let ours = open(&path);
        assert_eq!(ours.tensors().len(), reference.len(), "{}", path.display());
        for (name, theirs) in reference.iter() {
            let tensor = ours.tensor(name).unwrap();
            assert_eq!(tensor.dtype.name(), theirs.dtype().to_string());
            assert_eq!((tensor.shape, tensor.bytes), (theirs.shape(), theirs.data()));
        }
    }
}

#[test]
fn every_gguf_file_of_a_model_holds_the_same_tensors() {
    for (name, architecture, layers, tensors, elements) in [
        ("llama-tiny", "llama", 2, 21, 1_443_072),
        ("qwen3-tiny", "qwen3", 2, 24, 1_705_728),
        ("gemma3-tiny", "gemma3", 7, 93, 4_038_784),
    ] {
        for path in fixtures_ending(".gguf").iter().filter(|p| p.to_string_lossy().contains(name)) {
            let checkpoint = open(path);
            assert_eq!(
                (checkpoint.tensors().len(), parameters(&checkpoint)),
                (tensors, elements),
                "{path:?}"
            );
            let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("no GGUF metadata") };
            assert_eq!(metadata.version(), 3);
            assert_eq!(metadata.get_str("general.architecture").unwrap(), architecture);
            assert_eq!(metadata.get_u64(&format!("{architecture}.block_count")).unwrap(), layers);
            assert_eq!(metadata.get_strings("tokenizer.ggml.tokens").unwrap().len(), 512);
            let embedding = checkpoint.tensor("token_embd.weight").unwrap();
            assert_eq!(embedding.shape, [512, 256], "{path:?}");
        }
    }
}

#[test]
fn block_types_are_those_of_the_file_names() {
    for path in fixtures_ending(".gguf") {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_uppercase();
        let Some(dtype) = DType::from_name(stem.trim_end_matches("_M")) else { continue };
        let checkpoint = open(&path);
        let mut matrices = checkpoint.tensors().filter(|t| t.shape.len() == 2);
        assert!(matrices.any(|t| t.dtype == dtype), "{}", path.display());
        assert!(checkpoint.tensors().filter(|t| t.shape.len() == 1).all(|t| t.dtype == DType::F32));
    }
}

#[test]
fn parity_of_real_models_between_formats() {
    let (Some(folder), Some(gguf), Some(bin)) = (
        fixture("real/stories260k"),
        fixture("real/stories260k/model.gguf"),
        fixture("real/stories260k/llama2c.bin"),
    ) else {
        return;
    };
    let (hf, gguf, bin) = (open(&folder), open(&gguf), open(&bin));
    let embedding = hf.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().bytes, embedding.bytes);
    assert_eq!(bin.tensor("token_embedding_table").unwrap().bytes, embedding.bytes);

    // llama2.c stacks the layers, and differs from transformers in nothing but the order of rotary rows.
    for (ours, theirs) in [
        ("rms_att_weight", "input_layernorm"),
        ("wv", "self_attn.v_proj"),
        ("wo", "self_attn.o_proj"),
        ("rms_ffn_weight", "post_attention_layernorm"),
        ("w1", "mlp.gate_proj"),
        ("w2", "mlp.down_proj"),
        ("w3", "mlp.up_proj"),
    ] {
        let stacked = bin.tensor(ours).unwrap();
        let layers: Vec<u8> = (0..5)
            .flat_map(|i| hf.tensor(&format!("model.layers.{i}.{theirs}.weight")).unwrap().bytes)
            .copied()
            .collect();
        assert!(stacked.bytes == layers, "{ours}");
    }
    assert_eq!(bin.tensor("rms_final_weight").unwrap().bytes, hf.tensor("model.norm.weight").unwrap().bytes);
    let Metadata::Llama2C(header) = bin.metadata() else { panic!("no llama2.c header") };
    assert_eq!((header.n_layers, header.n_kv_heads, header.seq_len), (5, 4, 512));
    assert!(header.shared_classifier && bin.tensor("wcls").is_none());
}

fn llmc_header(checkpoint: &Checkpoint) -> LlmcHeader {
    let Metadata::LlmC(header) = checkpoint.metadata() else { panic!("no llm.c header") };
    *header
}

#[test]
fn parity_of_llmc_parameters_with_transformers() {
    let (Some(bin), Some(folder)) = (fixture("gpt2-micro/llmc/model.bin"), fixture("gpt2-micro")) else {
        return;
    };
    let (bin, hf) = (open(&bin), open(&folder));
    let header = llmc_header(&bin);
    assert_eq!((header.vocab, header.padded_vocab, header.layers, header.channels), (500, 512, 3, 64));
    assert_eq!(parameters(&bin), 186_176 + 12 * 64);

    let hf = |name: &str| f32s(&hf.tensor(&format!("transformer.{name}")).unwrap());
    let wte = f32s(&bin.tensor("wte").unwrap());
    assert_eq!(wte[..500 * 64], hf("wte.weight"));
    assert_eq!(wte[500 * 64..], [0.0; 12 * 64]);
    let qkvw = bin.tensor("qkvw").unwrap();
    assert_eq!(qkvw.shape, [3, 192, 64]);
    let (ours, theirs) = (f32s(&qkvw), hf("h.2.attn.c_attn.weight")); // theirs is [input, output]
    for (o, i) in [(0, 0), (191, 63), (100, 7)] {
        assert_eq!(ours[(2 * 192 + o) * 64 + i], theirs[i * 192 + o]);
    }
    assert_eq!(f32s(&bin.tensor("fcprojb").unwrap())[64..128], hf("h.1.mlp.c_proj.bias"));
    assert_eq!(f32s(&bin.tensor("lnfb").unwrap()), hf("ln_f.bias"));
}

#[test]
fn parity_of_llmc_bf16_with_f32() {
    let (Some(f32_path), Some(bf16_path)) =
        (fixture("gpt2-micro/llmc/model.bin"), fixture("gpt2-micro/llmc/model_bf16.bin"))
    else {
        return;
    };
    let (full, half) = (open(&f32_path), open(&bf16_path));
    for tensor in full.tensors() {
        let rounded = half.tensor(tensor.name).unwrap();
        assert_eq!((rounded.dtype, rounded.shape), (DType::BF16, tensor.shape));
        for (value, bits) in f32s(&tensor).iter().zip(rounded.bytes.as_chunks().0) {
            let back = f32::from_bits(u32::from(u16::from_le_bytes(*bits)) << 16);
            assert!((back - value).abs() <= value.abs() / 256.0, "{}: {value} {back}", tensor.name);
        }
    }
}

#[test]
fn parity_of_the_debug_state_with_the_recorded_loss() {
    let (Some(state), Some(model), Some(losses)) = (
        fixture("gpt2-micro/llmc/debug_state.bin"),
        fixture("gpt2-micro/llmc/model.bin"),
        fixture("gpt2-micro/llmc/train_losses.json"),
    ) else {
        return;
    };
    let header = llmc_header(&open(&model));
    let state = DebugState::open(&state, &header).unwrap();
    assert_eq!((state.batch(), state.seq()), (4, 32));
    let losses: serde_json::Value = serde_json::from_slice(&std::fs::read(losses).unwrap()).unwrap();
    assert!((f64::from(state.loss()) - losses["losses"][0].as_f64().unwrap()).abs() < 1e-5);
    let (inputs, targets) = (state.inputs(), state.targets());
    assert_eq!(inputs[1..], targets[..inputs.len() - 1]);

    // The loss follows from logits and targets, so both are where they should be.
    let logits = f32s(&state.logits());
    let nll: f64 = logits
        .chunks_exact(header.vocab)
        .zip(&targets)
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .sum();
    assert!((nll / targets.len() as f64 - f64::from(state.loss())).abs() < 1e-4);

    let gradients: HashMap<&str, TensorView<'_>> = state.gradients().map(|g| (g.name, g)).collect();
    assert_eq!(gradients.len(), 16);
    let wte = f32s(&gradients["wte"]);
    assert!(wte[..64].iter().any(|&g| g != 0.0) && wte[500 * 64..].iter().all(|&g| g == 0.0));
    // A bias before a softmax over keys moves nothing: the gradient of the key bias is rounding only.
    let qkvb = f32s(&gradients["qkvb"]);
    let largest = |range: std::ops::Range<usize>| qkvb[range].iter().fold(0f32, |m, g| m.max(g.abs()));
    assert!(largest(64..128) < 1e-3 * largest(128..192));
    // It is the state of that model and no other.
    let other = LlmcHeader { vocab: 499, ..header };
    assert!(DebugState::open(state_path().unwrap().as_path(), &other).is_err());
}

fn state_path() -> Option<std::path::PathBuf> {
    fixture("gpt2-micro/llmc/debug_state.bin")
}

#[test]
fn parity_of_token_files() {
    let mut firsts = Vec::new();
    for (name, format, count) in [
        ("train.bin", TokenFormat::ShardU16, 36_864),
        ("val.bin", TokenFormat::ShardU16, 4096),
        ("val_uint32.bin", TokenFormat::ShardU32, 4096),
        ("val_legacy_int32.bin", TokenFormat::Plain32, 4096),
    ] {
        let Some(path) = fixture(&format!("gpt2-micro/llmc/{name}")) else { continue };
        let tokens = Tokens::open(&path).unwrap();
        assert_eq!((tokens.format(), tokens.len()), (format, count));
        let ids = tokens.to_vec();
        assert!(ids.iter().all(|&id| id < 500));
        let mut part = [0; 3];
        tokens.read(count - 3, &mut part).unwrap();
        assert_eq!(part, ids[count - 3..]);
        assert!(tokens.read(count - 2, &mut part).is_err());
        assert!(tokens.read(usize::MAX, &mut part).is_err());
        if count == 4096 {
            firsts.push(ids);
        }
    }
    assert!(firsts.windows(2).all(|w| w[0] == w[1]), "the three forms hold the same tokens");
}

#[test]
fn large_vocabularies() {
    for (name, tokens, merges, model) in [
        ("ggml-vocab-gpt-2.gguf", 50_257, 50_000, "gpt2"),
        ("ggml-vocab-llama-bpe.gguf", 128_256, 280_147, "gpt2"),
        ("ggml-vocab-llama-spm.gguf", 32_000, 0, "llama"),
        ("ggml-vocab-qwen2.gguf", 151_936, 151_387, "gpt2"),
    ] {
        let Some(path) = fixture(name) else { continue };
        let checkpoint = open(&path);
        assert_eq!(checkpoint.tensors().len(), 0);
        let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("no GGUF metadata") };
        assert_eq!(metadata.get_strings("tokenizer.ggml.tokens").unwrap().len(), tokens);
        assert_eq!(metadata.get_i32s("tokenizer.ggml.token_type").unwrap().len(), tokens);
        assert_eq!(metadata.find_strings("tokenizer.ggml.merges").unwrap().map_or(0, |m| m.len()), merges);
        assert_eq!(metadata.get_str("tokenizer.ggml.model").unwrap(), model);
    }
}

#[test]
fn adapters_open_as_folders_and_as_files() {
    let Some(folder) = fixture("llama-micro/lora/trained") else { return };
    for path in [folder.clone(), folder.join("adapter_model.safetensors")] {
        let checkpoint = open(&path);
        let Metadata::Config(config) = checkpoint.metadata() else { panic!("no config") };
        assert_eq!((&config["peft_type"], &config["r"]), (&"LORA".into(), &16.into()));
        assert!(checkpoint.tensors().all(|t| t.name.contains("lora_")));
    }
}

#[test]
fn goldens_have_no_config_of_their_own() {
    let Some(path) = fixture("llama-micro/golden.safetensors") else { return };
    let checkpoint = open(&path);
    assert!(matches!(checkpoint.metadata(), Metadata::Config(serde_json::Value::Null)));
    assert_eq!(checkpoint.tensor("input_ids").unwrap().dtype, DType::I32);
    assert!(checkpoint.tensor("no such tensor").is_none());
}

#[test]
fn every_file_is_recognised() {
    for path in fixtures_ending(".gguf") {
        assert_eq!(identify(&path).unwrap(), FileKind::Model(Format::Gguf));
        open(&path);
    }
    for path in fixtures_ending(".bin") {
        let expected = match path.file_name().unwrap().to_str().unwrap() {
            "model.bin" | "model_bf16.bin" => FileKind::Model(Format::LlmC),
            "llama2c.bin" => FileKind::Model(Format::Llama2C),
            "debug_state.bin" => FileKind::DebugState,
            "tokenizer.bin" => FileKind::Tokenizer,
            "train.bin" | "val.bin" | "val_uint32.bin" | "val_legacy_int32.bin" => FileKind::Tokens,
            _ => continue,
        };
        assert_eq!(identify(&path).unwrap(), expected, "{}", path.display());
        assert_eq!(
            Checkpoint::open(&path).is_ok(),
            matches!(expected, FileKind::Model(_)),
            "{}",
            path.display()
        );
    }
}
