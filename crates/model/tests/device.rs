//! A model on a GPU, whole or in part: the same text, the same probabilities, and memory that does not grow.

mod gpu;

use std::path::{Path, PathBuf};
use wootz_kernels::Precision;
use wootz_kernels::device::Accelerator;
use wootz_kernels::ops::attention::CacheType;
use wootz_model::generate::{Engine, EngineOptions, Event, Request, SamplerOptions, Token};
use wootz_model::load::LoadOptions;
use wootz_model::{Batch, Distribution, Model, Recompute, Training};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { precision: Precision::F32, threads: 2 })
        .unwrap_or_else(|e| panic!("{e:#}"))
}

fn load_on(gpu: &Accelerator, path: &Path, layers: usize) -> Model {
    let mut model = load(path);
    model.place(gpu, layers).unwrap();
    assert_eq!(model.gpu_layers(), layers.min(model.config().n_layers()));
    model
}

/// The fixtures' models, one a family.
fn families() -> Vec<PathBuf> {
    let folder = root().join("tests/fixtures");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    all.retain(|folder| folder.join("config.json").is_file());
    all.sort();
    assert!(all.len() > 4);
    all
}

fn engine(model: &Model, max_batch: usize, chunk: usize, cache: CacheType) -> Engine<&Model> {
    Engine::new(model, EngineOptions { max_batch, chunk, context: 128, cache })
}

/// The tokens of every answer.
fn answers(engine: &mut Engine<&Model>, requests: Vec<Request>) -> Vec<Vec<Token>> {
    let ids: Vec<_> = requests.into_iter().map(|request| engine.add(request).unwrap()).collect();
    let mut answers = vec![Vec::new(); ids.len()];
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Token { sequence, token } = event {
                answers[ids.iter().position(|id| *id == sequence).unwrap()].push(token);
            }
        }
    }
    answers
}

fn prompt(model: &Model, length: usize, seed: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size;
    (0..length).map(|i| ((i * 31 + seed * 17 + 3) % vocab) as u32).collect()
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Trained models, whose likeliest token stands out: the built-in one, and those that lie beside the project.
#[test]
fn a_gpu_writes_the_cpus_text_at_every_split() {
    let Some(gpu) = gpu::open() else { return };
    let mut models = vec![root().join("assets/story.gguf")];
    let beside = root().join("../shared/fixtures/real");
    models.extend(
        ["stories260k", "babyllama"].map(|name| beside.join(name)).into_iter().filter(|f| f.is_dir()),
    );
    for path in models {
        let cpu = load(&path);
        let requests =
            || vec![Request::greedy(prompt(&cpu, 9, 1), 16), Request::greedy(prompt(&cpu, 3, 2), 16)];
        let expected = answers(&mut engine(&cpu, 2, 64, CacheType::F32), requests());
        for layers in 0..=cpu.config().n_layers() {
            let model = load_on(&gpu, &path, layers);
            let found = answers(&mut engine(&model, 2, 64, CacheType::F32), requests());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(ids(found), ids(expected), "{} with {layers} layers", path.display());
            }
        }
    }
}

/// Batch, chunks and the split of decoding over keys leave no trace in a bit.
#[test]
fn company_and_chunks_leave_no_trace_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    for (i, path) in families().into_iter().enumerate() {
        let model = load_on(&gpu, &path, usize::MAX);
        let wanted = |seed: usize| Request {
            logprobs: Some(0),
            ..Request::greedy(prompt(&model, 5 + 9 * (seed % 3), seed), 5)
        };
        let cache = if i % 2 == 0 { CacheType::F32 } else { CacheType::F16 };
        let one = |seed| answers(&mut engine(&model, 1, 64, cache), vec![wanted(seed)]).remove(0);
        let alone: Vec<_> = (0..3).map(one).collect();
        for (batch, chunk) in [(3, 64), (2, 7)] {
            let found = answers(&mut engine(&model, batch, chunk, cache), (0..3).map(wanted).collect());
            assert_eq!(found, alone, "{} {cache:?}: batch {batch}, chunk {chunk}", path.display());
        }
    }
}

/// A GPU that brings a few likely tokens to the host gives what its logits give. Log-probabilities are asked for where logits
/// are to travel.
#[test]
fn a_few_likely_tokens_give_what_all_logits_give() {
    let Some(gpu) = gpu::open() else { return };
    let model = load_on(&gpu, &root().join("assets/story.gguf"), usize::MAX);
    let request = |seed: usize, logprobs| Request {
        sampler: SamplerOptions {
            temperature: [0.0, 0.8, 1.5][seed],
            top_k: [0, 3, 2][seed],
            top_p: [1.0, 0.95, 1.0][seed],
            seed: 4,
            ..SamplerOptions::default()
        },
        logprobs,
        ..Request::greedy(prompt(&model, 4 + seed, seed), 8)
    };
    let found = |logprobs| -> Vec<Vec<u32>> {
        let requests = (0..3).map(|seed| request(seed, logprobs)).collect();
        answers(&mut engine(&model, 3, 64, CacheType::F16), requests).iter().map(|t| ids(t)).collect()
    };
    assert!(model.config().vocab_size >= 3 * 256, "too few for a GPU to choose among");
    let (few, all) = (found(None), found(Some(0)));
    assert_eq!(few, all);
    assert!(few[1] != few[2] && few.iter().all(|ids| ids.len() == 8));
}

/// What a token was drawn from has the bits that training gives it.
#[test]
fn drawn_and_trained_log_probabilities_are_equal_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    for path in families() {
        for layers in [usize::MAX, 1] {
            let model = load_on(&gpu, &path, layers.min(load(&path).config().n_layers()));
            for (temperature, top_k, top_p) in [(1.0, 0, 1.0), (0.7, 9, 1.0), (1.3, 0, 0.8)] {
                let sampler =
                    SamplerOptions { temperature, top_k, top_p, seed: 5, ..SamplerOptions::greedy() };
                let request = |seed: usize| Request {
                    sampler: sampler.clone(),
                    stream: seed as u64,
                    drawn: true,
                    ..Request::greedy(prompt(&model, 4 + seed, seed), 10)
                };
                let all = answers(&mut engine(&model, 3, 64, CacheType::F32), (0..4).map(request).collect());
                let (mut tokens, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
                let mut drawn = Vec::new();
                for (seed, answer) in all.iter().enumerate() {
                    let whole = [prompt(&model, 4 + seed, seed), ids(answer)].concat();
                    let first = whole.len() - answer.len();
                    lengths.push(whole.len() - 1);
                    tokens.extend(&whole[..whole.len() - 1]);
                    targets.extend((1..whole.len()).map(|i| if i < first { -1 } else { whole[i] as i32 }));
                    drawn.extend((1..first).map(|_| None));
                    drawn.extend(answer.iter().map(|token| token.drawn.clone()));
                }
                let kept = |row: usize| drawn[row].as_ref().and_then(|drawn| drawn.kept.as_ref());
                let under = Distribution { scale: 1.0 / temperature, kept: Some(&kept) };
                let batch = Batch { tokens: &tokens, targets: &targets, lengths: &lengths };
                let mut training = Training::new(Recompute::None, CacheType::F32);
                let losses = training.loss_under(&model, &batch, &under).unwrap();
                for (row, (loss, drawn)) in losses.iter().zip(&drawn).enumerate() {
                    let Some(drawn) = drawn else { continue };
                    let what = format!("{} row {row} {temperature} {top_k} {top_p}", path.display());
                    assert_eq!(
                        (-loss).to_bits(),
                        drawn.logprob.to_bits(),
                        "{what}: {loss} {}",
                        drawn.logprob
                    );
                }
            }
        }
    }
}

#[test]
fn two_hundred_generations_are_equal_and_take_no_more_memory() {
    let Some(gpu) = gpu::open() else { return };
    let model = load_on(&gpu, &root().join("assets/story.gguf"), usize::MAX);
    let mut engine = engine(&model, 2, 64, CacheType::F16);
    let mut first = None;
    let mut held = 0;
    for round in 0..200 {
        let found = answers(&mut engine, vec![Request::greedy(prompt(&model, 3, 1), 3)]);
        assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "generation {round}");
        if round == 2 {
            held = gpu.held_bytes();
        }
    }
    assert_eq!(gpu.held_bytes(), held, "device memory after the third generation and after the last");
}

#[test]
fn what_was_moved_comes_back_and_caches_of_another_place_are_refused() {
    let Some(gpu) = gpu::open() else { return };
    let path = &families()[0];
    let cpu = load(path);
    let model = load_on(&gpu, path, usize::MAX);
    let mut cache = cpu.new_cache(8, CacheType::F32).unwrap();
    let chunk = wootz_model::Chunk { tokens: &[1], cache: &mut cache, logits: wootz_model::Rows::Last };
    let error = model.forward(&mut wootz_model::Scratch::default(), &mut [chunk]).unwrap_err();
    assert!(error.to_string().contains("before the model was moved"), "{error}");
    let mut values = (Vec::new(), Vec::new());
    for (id, _) in wootz_model::names::canonical(cpu.config()) {
        cpu.weights().read(id, &mut values.0).unwrap();
        model.weights().read(id, &mut values.1).unwrap();
        assert_eq!(values.0, values.1, "{id}");
    }
}

#[test]
fn a_lost_device_is_said_to_be_lost() {
    let Some(gpu) = gpu::open() else { return };
    let model = load_on(&gpu, &families()[0], usize::MAX);
    let mut cache = model.new_cache(8, CacheType::F32).unwrap();
    let mut scratch = wootz_model::Scratch::default();
    gpu.give_up();
    let mut errors = Vec::new();
    for _ in 0..3 {
        let chunk = wootz_model::Chunk { tokens: &[1], cache: &mut cache, logits: wootz_model::Rows::Last };
        errors.push(model.forward(&mut scratch, &mut [chunk]).map(|_| ()).unwrap_err().to_string());
    }
    assert!(
        errors.iter().all(|error| error.contains("was lost") && error.contains("open the device again")),
        "{errors:?}"
    );
}

/// What does not fit is said with advice, nothing is lost, and what fits goes on.
#[test]
fn a_device_without_memory_says_so() {
    let Some(gpu) = gpu::open() else { return };
    gpu.limit(1 << 10);
    let mut model = load(&families()[0]);
    let refused = format!("{:#}", model.place(&gpu, usize::MAX).unwrap_err());
    assert!(refused.contains("out of memory") && refused.contains("fewer layers"), "{refused}");
    assert_eq!(model.gpu_layers(), 0);
    let on_cpu = answers(&mut engine(&model, 1, 64, CacheType::F32), vec![Request::greedy(vec![1, 2], 4)]);
    assert_eq!(on_cpu[0].len(), 4, "the CPU has all of the model still");

    gpu.limit(usize::MAX);
    model.place(&gpu, usize::MAX).unwrap();
    model.place(&gpu, 1).unwrap();
    assert_eq!(model.gpu_layers(), 1);
    model.take_back().unwrap();
    assert!(model.gpu().is_none());
    model.place(&gpu, usize::MAX).unwrap();
    let short = || vec![Request::greedy(prompt(&model, 3, 1), 3)];
    let mut engine = engine(&model, 8, 64, CacheType::F32);
    let before = answers(&mut engine, short());
    gpu.limit(gpu.held_bytes());
    let many = (0..8).map(|seed| Request::greedy(prompt(&model, 60, seed), 30));
    many.for_each(|request| drop(engine.add(request)));
    let error = loop {
        match engine.step() {
            Err(error) => break format!("{error:#}"),
            Ok(events) => assert!(!engine.is_idle(), "it had room: {events:?}"),
        }
    };
    assert!(error.contains("out of memory") && error.contains("shorter context"), "{error}");
    drop(engine);
    let mut engine = self::engine(&model, 1, 64, CacheType::F32);
    assert_eq!(answers(&mut engine, short()), before, "the device works still");
}

/// Heads of a width that no kernel takes: attention goes to the CPU and back, which is counted; forward and backward.
#[test]
fn attention_without_a_kernel_falls_back() {
    use wootz_model::Gradients;
    use wootz_model::init::Init;
    use wootz_model::presets::{Overrides, preset};
    use wootz_model::weights::Weights;
    if gpu::open().is_none() {
        return;
    }
    let overrides = Overrides {
        n_layers: Some(2),
        dim: Some(60),
        n_heads: Some(2),
        n_kv_heads: Some(1),
        vocab_size: Some(64),
        ..Overrides::default()
    };
    let (architecture, mut config) = preset("tiny").unwrap().config(&overrides).unwrap();
    config.head_dim = 30;
    let make = || {
        let pool = wootz_kernels::Pool::new(2);
        let init = Init { seed: 1, std: 0.2 };
        let fill = |id, first, out: &mut [f32]| init.fill(&config, id, first, out);
        let weights = Weights::generate(&config, &pool, wootz_kernels::DType::F32, fill);
        Model::from_weights(architecture, config.clone(), weights, pool)
    };
    let (cpu, mut model) = (make(), make());
    let gpu = Accelerator::open(wootz_kernels::device::Api::Any, None, true).unwrap();
    model.place(&gpu, usize::MAX).unwrap();

    let request = || vec![Request { logprobs: Some(0), ..Request::greedy(prompt(&cpu, 5, 1), 6) }];
    let expected = answers(&mut engine(&cpu, 1, 64, CacheType::F32), request()).remove(0);
    let found = answers(&mut engine(&model, 1, 64, CacheType::F32), request()).remove(0);
    assert_eq!(ids(&found), ids(&expected));
    assert!(gpu.fallbacks() > 0);

    let tokens = prompt(&cpu, 12, 2);
    let targets: Vec<i32> = tokens.iter().map(|&token| (token as i32 + 1) % 64).collect();
    let batch = Batch { tokens: &tokens, targets: &targets, lengths: &[7, 5] };
    let gradients = |model: &Model| {
        let mut gradients = Gradients::new(model, |_| true).unwrap();
        let mut training = Training::new(Recompute::Block, CacheType::F32);
        let write = wootz_kernels::ops::Write::Set;
        training.gradients(model, &batch, &|_, _| 0.1, &mut gradients, write).unwrap();
        gradients
    };
    let (expected, found) = (gradients(&cpu), gradients(&model));
    for ((id, expected), (_, found)) in expected.iter().zip(found.iter()) {
        let (expected, found) = (expected.read().unwrap(), found.read().unwrap());
        let norm = expected.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let off =
            expected.iter().zip(found.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        assert!(off <= 1e-4 * norm + 1e-7, "{id}: off by {off:e} of {norm:e}");
    }

    gpu.forbid_fallback();
    let mut strict = engine(&model, 1, 64, CacheType::F32);
    strict.add(Request::greedy(prompt(&cpu, 5, 1), 1)).unwrap();
    let error = strict.step().unwrap_err().to_string();
    assert!(
        error.contains("heads of this width have no kernel") && error.contains("--no-fallback"),
        "{error}"
    );
}
