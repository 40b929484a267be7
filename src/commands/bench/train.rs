//! `wootz bench train` and `wootz bench sft`: the time of a training step, and where it goes.

use crate::commands::flags::parse_name;
use crate::commands::tuning;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Instant;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::adamw::AdamW;
use wootz_kernels::ops::attention::{self, Attention, CacheType, LayerCache, Saved, Segment};
use wootz_kernels::ops::matmul::{
    Columns, Inputs, Product, Term, WeightGradient, input_gradient, matmul, weight_gradient,
};
use wootz_kernels::peak::Peaks;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, Matrix, Pool, Precision, panels, pool};
use wootz_model::config::Mlp;
use wootz_model::flops::TokenFlops;
use wootz_model::init::Init;
use wootz_model::load::LoadOptions;
use wootz_model::lora::{Adapter, LoraOptions, Scaling};
use wootz_model::presets::{Overrides, preset};
use wootz_model::weights::Weights;
use wootz_model::{Batch, DecoderConfig, Model};
use wootz_train::fit::RecomputeName;
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::sft::targets;
use wootz_train::trainer::{Format, Trained, Trainer};

/// Measure training steps, and where their time goes
#[derive(Debug, clap::Args)]
pub struct TrainBenchArgs {
    /// A preset, or a model
    #[arg(long, value_name = "MODEL", default_value = "gpt2-124m")]
    model: String,
    /// Sequences of a step
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Tokens of each
    #[arg(long, value_name = "T", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    seq: u32,
    /// What products multiply
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: FormatArg,
    /// What is computed again in backward: `none`, `block`, or `all`
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = parse_name::<RecomputeName>)]
    recompute: RecomputeName,
    /// Steps that are timed; the median is reported, and the best. One more comes before them
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Time each kind of operation at the model's sizes too
    #[arg(long)]
    ops: bool,
    /// Threads [default: one a physical core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Measure steps of fine-tuning with an adapter, and where their time goes
#[derive(Debug, clap::Args)]
pub struct SftBenchArgs {
    #[command(flatten)]
    step: TrainBenchArgs,
    /// The adapter's rank
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    lora_rank: u32,
    /// The projections that it changes, as `wootz sft` takes them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "q,v")]
    lora_targets: Vec<String>,
    /// Learn the lengths of weights too
    #[arg(long)]
    dora: bool,
}

/// Runs `wootz bench sft`.
pub fn run_sft(args: &SftBenchArgs) -> Result<()> {
    bench(&args.step, Some(args))
}

/// Runs `wootz bench train`.
pub fn run(args: &TrainBenchArgs) -> Result<()> {
    bench(args, None)
}

/// What products multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatArg {
    F32,
    Bf16,
    F16,
}

impl FormatArg {
    pub fn format(self) -> Format {
        match self {
            FormatArg::F32 => Format::F32,
            FormatArg::Bf16 => Format::Bf16,
            FormatArg::F16 => Format::F16,
        }
    }
}

/// The kinds of operations that frozen weights do without.
const OF_WEIGHTS: [&str; 2] = ["gradients of weights", "AdamW"];

/// Some operations of one kind, of a whole step.
struct Share {
    name: &'static str,
    seconds: f64,
    /// Floating-point operations; 0 where memory is what counts.
    flops: f64,
    bytes: f64,
}

fn bench(args: &TrainBenchArgs, adapter: Option<&SftBenchArgs>) -> Result<()> {
    let threads = args.threads.unwrap_or_else(pool::default_threads).max(1);
    let (batch, seq) = (args.batch as usize, args.seq as usize);
    let mut model = model(&args.model, threads, args.dtype, adapter.is_some())?;
    let config = model.config().clone();
    if seq > config.max_seq {
        bail!("--seq {seq}: the model's longest sequence is {}", config.max_seq);
    }
    let format = args.dtype.format();
    let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.95, eps: 1e-8 });
    let options = Options { rule, weight_decay: 0.1, decay: Decay::Matrices };
    let peaks = Peaks::measure(model.pool());
    let trained = match adapter {
        None => Trained::All,
        Some(args) => {
            let options = LoraOptions {
                rank: args.lora_rank as usize,
                alpha: 32.0,
                scaling: Scaling::Rank,
                targets: targets(&args.lora_targets, &model.projections())?,
                magnitudes: args.dora,
                dropout: 0.0,
                seed: 1,
            };
            let adapter = Adapter::new(model.config(), model.pool(), &options)?;
            model.put_on(adapter)?;
            Trained::Adapter { beside: Vec::new() }
        }
    };
    let mut trainer = Trainer::new(model, options, format, args.recompute.policy(), Some(1.0), trained)?;
    let mut rng = Rng::new(1, 0);
    let mut random = || (rng.next() % config.vocab_size as u64) as u32;
    let tokens: Vec<u32> = (0..batch * seq).map(|_| random()).collect();
    let targets: Vec<i32> = (0..batch * seq).map(|_| random() as i32).collect();
    let lengths = vec![seq; batch];
    let step = Batch { tokens: &tokens, targets: &targets, lengths: &lengths };
    let mut seconds = Vec::new();
    for round in 0..=args.steps {
        let start = Instant::now();
        trainer.step(&[step], 1e-4)?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (median, best) = (seconds[seconds.len() / 2], seconds[0]);
    let peak = match format {
        Format::F32 | Format::F16 => peaks.f32_flops,
        Format::Bf16 => peaks.bf16_flops,
    };
    // Without gradients of the weights, two products of three are left.
    let part = if adapter.is_some() { 2.0 / 3.0 } else { 1.0 };
    let flops = part * TokenFlops::new(&config, seq).training() * (batch * seq) as f64;
    let tokens_per_second = (batch * seq) as f64 / median;
    let mut shares =
        if args.ops { shares(trainer.model.pool(), &config, [batch, seq], format) } else { Vec::new() };
    if adapter.is_some() {
        shares.retain(|share| !OF_WEIGHTS.contains(&share.name));
    }
    let resident = peak_bytes();
    if args.json {
        let ops: Vec<_> = shares
            .iter()
            .map(|share| json!({ "name": share.name, "ms": share.seconds * 1e3, "share_of_peak": share.flops / share.seconds / peak }))
            .collect();
        println!(
            "{}",
            json!({
                "model": args.model,
                "batch": batch,
                "seq": seq,
                "dtype": format!("{:?}", args.dtype).to_lowercase(),
                "threads": threads,
                "step_ms": median * 1e3,
                "best_step_ms": best * 1e3,
                "tokens_per_second": tokens_per_second,
                "flops_per_second": flops / median,
                "share_of_peak": flops / median / peak,
                "peak_resident_bytes": resident,
                "ops": ops,
            })
        );
        return Ok(());
    }
    println!(
        "{} {:?} B={batch} T={seq}: {:.0} ms a step (best {:.0}), {tokens_per_second:.0} tokens/s, {:.0} GFLOP/s, {:.0} % of peak",
        args.model,
        args.dtype,
        median * 1e3,
        best * 1e3,
        flops / median / 1e9,
        100.0 * flops / median / peak
    );
    if let Some(bytes) = resident {
        println!("at most {:.2} GiB in memory", bytes as f64 / f64::from(1 << 30));
    }
    if !shares.is_empty() {
        print_shares(&shares, median, peak, peaks.read_bytes);
    }
    Ok(())
}

fn print_shares(shares: &[Share], step: f64, peak: f64, read: f64) {
    println!("{:24} {:>9} {:>9} {:>10} {:>11}", "operation", "ms", "of step", "of peak", "of memory");
    let mut rest = step;
    for share in shares {
        rest -= share.seconds;
        let of = |x: f64, most: f64| {
            if x > 0.0 { format!("{:.0} %", 100.0 * x / share.seconds / most) } else { String::new() }
        };
        println!(
            "{:24} {:>9.1} {:>7.0} % {:>10} {:>11}",
            share.name,
            share.seconds * 1e3,
            100.0 * share.seconds / step,
            of(share.flops, peak),
            of(share.bytes, read)
        );
    }
    println!("{:24} {:>9.1} {:>7.0} %", "norms, loss and the rest", rest * 1e3, 100.0 * rest / step);
}

/// The most memory that the process has had, where the system says.
fn peak_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A model to train as a whole, or weights that stay as they are, in the products' type.
fn model(name: &str, threads: usize, dtype: FormatArg, frozen: bool) -> Result<Model> {
    let Ok(preset) = preset(name) else {
        let path = crate::model_arg::resolve(Some(name))?;
        let exact = !frozen || dtype == FormatArg::F32;
        let precision = if exact { Precision::F32 } else { Precision::Native };
        let mut model = Model::load(&path, &LoadOptions { precision, threads })?;
        if !exact {
            tuning::convert(&mut model, dtype.format())?;
        }
        return Ok(model);
    };
    let (architecture, config) = preset.config(&Overrides::default())?;
    let pool = Pool::new(threads);
    let init = Init::default();
    // What is trained has masters in f32.
    let dtype = if frozen { dtype.format().dtype() } else { DType::F32 };
    let weights =
        Weights::generate(&config, &pool, dtype, |id, first, out| init.fill(&config, id, first, out));
    Ok(Model::from_weights(architecture, config, weights, pool))
}

/// The best of some runs, in seconds: the machine may be busy with other things.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let mut once = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// The time of each kind of operation in a step, each measured alone at the sizes that the model has.
fn shares(pool: &Pool, config: &DecoderConfig, [batch, seq]: [usize; 2], format: Format) -> Vec<Share> {
    let (rows, layers) = (batch * seq, config.n_layers());
    let gates = if config.mlp == Mlp::Gelu { 0 } else { layers };
    let kinds = [
        ([config.q_dim(), config.dim], layers),
        ([config.kv_dim(), config.dim], 2 * layers),
        ([config.dim, config.q_dim()], layers),
        ([config.hidden_dim, config.dim], layers + gates),
        ([config.dim, config.hidden_dim], layers),
        ([config.vocab_size, config.dim], 1),
    ];
    let mut seconds = [0.0; 3];
    let mut flops = 0.0;
    for ([n, k], count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
        for (sum, one) in seconds.iter_mut().zip(products(pool, format.dtype(), [rows.min(256), n, k])) {
            *sum += one * count as f64 * rows as f64 / rows.min(256) as f64;
        }
        flops += 2.0 * (rows * n * k * count) as f64;
    }
    let [forward, dx, dw] = seconds;
    let product = |name, seconds| Share { name, seconds, flops, bytes: 0.0 };
    let [attended, attended_back] = attend(pool, config, [batch, seq]);
    // Two products of all pairs forward and five in backward; half of the pairs are in the future.
    let pairs = (batch * config.q_dim() * seq * seq * layers) as f64;
    let parameters = wootz_model::Gradients::bytes(config, |_| true) as f64 / 4.0;
    vec![
        product("products", forward),
        product("gradients of inputs", dx),
        product(OF_WEIGHTS[0], dw),
        Share { name: "attention", seconds: attended, flops: 2.0 * pairs, bytes: 0.0 },
        Share { name: "attention, backward", seconds: attended_back, flops: 5.0 * pairs, bytes: 0.0 },
        Share { name: OF_WEIGHTS[1], seconds: adamw(pool, parameters), flops: 0.0, bytes: 28.0 * parameters },
    ]
}

/// Seconds of a product, and of its two gradients.
fn products(pool: &Pool, dtype: DType, [m, n, k]: [usize; 3]) -> [f64; 3] {
    let mut rng = Rng::new(2, 0);
    let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.normal()).collect() };
    let (x, dy, values) = (random(m * k), random(m * n), random(k));
    let mut weight = Matrix::zeroed(dtype, [n, k]);
    let all: Vec<f32> = values.iter().cycle().take(panels::len([n, k])).copied().collect();
    weight.set(pool, &all);
    let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], all);
    let (mut inputs, mut columns) = (Inputs::default(), Columns::default());
    let forward = best(|| {
        let x = inputs.prepare(pool, &x, [m, k], std::iter::once(weight.operand()));
        matmul(pool, &x, &mut [Product { weight: &weight, bias: None, y: &mut y, write: Write::Set }]);
    });
    let operand = weight.gradient_operand();
    let back = best(|| {
        let dy = inputs.prepare(pool, &dy, [m, n], std::iter::once(operand));
        input_gradient(pool, &[Term { dy, weight: &weight }], &mut dx, Write::Set);
    });
    let weights = best(|| {
        let wanted = &mut [WeightGradient { dy: &dy, dw: &mut dw, db: None }];
        weight_gradient(pool, &mut columns, &x, [m, k], operand, wanted, Write::Set);
    });
    [forward, back, weights]
}

/// Seconds of all layers' attention, forward and backward.
fn attend(pool: &Pool, config: &DecoderConfig, [batch, seq]: [usize; 2]) -> [f64; 2] {
    let (rows, layers) = (batch * seq, config.n_layers() as f64);
    let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
    let mut rng = Rng::new(3, 0);
    let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.normal()).collect() };
    let (q, k, v, dy) =
        (random(rows * q_dim), random(rows * kv_dim), random(rows * kv_dim), random(rows * q_dim));
    let op = Attention { heads: config.n_heads, scale: config.attention_scale, window: None };
    let mut scratch = attention::Scratch::default();
    let (mut y, mut lse) = (vec![0.0; rows * q_dim], vec![0.0; rows * config.n_heads]);
    let mut caches: Vec<LayerCache> = (0..batch)
        .map(|_| LayerCache::new(config.n_kv_heads, config.head_dim, seq, CacheType::F32))
        .collect();
    let forward = best(|| {
        for (b, cache) in caches.iter_mut().enumerate() {
            let part = b * seq * kv_dim..(b + 1) * seq * kv_dim;
            cache.append(pool, 0, &k[part.clone()], &v[part]);
        }
        let segments: Vec<Segment> = (caches.iter().enumerate())
            .map(|(b, cache)| Segment { rows: b * seq..(b + 1) * seq, first: 0, cache })
            .collect();
        op.forward(pool, &mut scratch, &q, &segments, &mut y, Some(&mut lse));
    });
    let lengths = vec![seq; batch];
    let mut memory = vec![0.0; op.backward_scratch(pool.threads(), config.n_kv_heads, config.head_dim, seq)];
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let back = best(|| {
        let saved = Saved { lengths: &lengths, q: &q, k: &k, v: &v, y: &y, lse: &lse };
        let out = attention::Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        op.backward(pool, &mut memory, &saved, &dy, out);
    });
    [forward * layers, back * layers]
}

/// Seconds of an update of so many parameters, from a part of them.
fn adamw(pool: &Pool, parameters: f64) -> f64 {
    const PART: usize = 1 << 25;
    let mut arrays = [vec![0.1f32; PART], vec![0.1; PART], vec![0.1; PART], vec![0.1; PART]];
    let [w, g, m, v] = &mut arrays;
    let rule =
        AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 10, grad_scale: 1.0 };
    best(|| rule.update(pool, w, g, m, v)) * parameters / PART as f64
}
