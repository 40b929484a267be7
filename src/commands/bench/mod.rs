//! `wootz bench`: this machine's peaks, kernels as a share of them, and whole models.

mod device;
mod grpo;
mod soak;
mod train;

use super::device::DeviceArgs;
use super::flags;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;
use wootz_kernels::device::Gpu;
use wootz_kernels::device::peak::DevicePeaks;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::{self, Attention, CacheType, LayerCache, Segment};
use wootz_kernels::ops::matmul::{Inputs, Product, matmul};
use wootz_kernels::peak::Peaks;
use wootz_kernels::rng::Rng;
use wootz_kernels::simd::IsaKind;
use wootz_kernels::{DType, Matrix, Operand, Pool, Precision, pool, quant};
use wootz_model::load::LoadOptions;
use wootz_model::{Chunk, KvCache, MAX_CHUNK, Model, Rows, Scratch};

/// Measure this machine, the kernels, or a model
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// The model; without one, the machine and the kernels are measured
    model: Option<String>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate after it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
    /// Sequences at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Tokens already in the cache before anything is timed
    #[arg(long, default_value_t = 0)]
    depth: u32,
    /// Repetitions; the median is reported, and the best
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Threads [default: one a physical core]
    #[arg(long)]
    threads: Option<usize>,
    /// Round the weights to a type of `wootz quantize` while they are loaded
    #[arg(long, value_name = "TYPE", value_parser = super::quantize::mix)]
    quantize: Option<wootz_model::quantize::Mix>,
    /// f32: inputs are never rounded to the precision of the weights
    #[arg(long, default_value = "auto")]
    dtype: flags::PrecisionArg,
    /// Type of cached keys and values
    #[arg(long, default_value = "f16")]
    kv: flags::CacheArg,
    #[command(flatten)]
    adapters: flags::AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Fail unless the GPU decodes at least X times as fast as the CPU, which is measured after it
    #[arg(long, value_name = "X", value_parser = factor)]
    gate: Option<f64>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// What else there is to measure.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Training steps, and where their time goes
    Train(train::TrainBenchArgs),
    /// Steps of fine-tuning with an adapter, and where their time goes
    Sft(train::SftBenchArgs),
    /// Steps of reinforcement with an adapter, and where their time goes
    Grpo(grpo::GrpoBenchArgs),
    /// The same generation again and again: answers must be equal, and memory must not grow
    Soak(Box<soak::SoakArgs>),
}

/// Runs the command.
pub fn run(args: BenchArgs) -> Result<()> {
    match &args.action {
        Some(Action::Train(args)) => return train::run(args),
        Some(Action::Sft(args)) => return train::run_sft(args),
        Some(Action::Grpo(args)) => return grpo::run(args),
        Some(Action::Soak(args)) => return soak::run(args),
        None => {}
    }
    let threads = args.threads.unwrap_or_else(pool::default_threads).max(1);
    match &args.model {
        Some(_) => bench_model(&args, threads),
        None => match args.device.open()? {
            Some(gpu) => device::run(&gpu, args.json),
            None => bench_machine(&args, threads),
        },
    }
}

fn giga(x: f64) -> f64 {
    x / 1e9
}

/// Median and best of the seconds that `run` takes.
fn time(repeat: u32, mut run: impl FnMut() -> Result<f64>) -> Result<(f64, f64)> {
    run()?; // the first touches memory
    let mut seconds = (0..repeat).map(|_| run()).collect::<Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[seconds.len() / 2], seconds[0]))
}

fn load_model(args: &BenchArgs, path: &Path, threads: usize) -> Result<Model> {
    let options = LoadOptions { precision: args.dtype.precision(), threads };
    flags::load(path, &options, args.quantize)
}

fn bench_model(args: &BenchArgs, threads: usize) -> Result<()> {
    let path = crate::model_arg::resolve(args.model.as_deref())?;
    let start = Instant::now();
    let mut model = load_model(args, &path, threads)?;
    args.device.place(&mut model)?;
    args.adapters.put_on(&mut model)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let speed = Speed::measure(args, &model)?;
    // What bounds decoding: a copy reads as much as it writes.
    let (device, most_bytes) = match model.gpu() {
        Some(gpu) => (Some(gpu.info().name.clone()), DevicePeaks::measure(gpu)?.copy_bytes),
        None => (None, Peaks::measure(model.pool()).read_bytes),
    };
    let result = json!({
        "model": args.model,
        "isa": IsaKind::current().name(),
        "threads": model.pool().threads(),
        "device": device,
        "gpu_layers": model.gpu_layers(),
        "device_bytes": model.gpu().map(|gpu| gpu.peak_bytes()),
        "prompt": args.prompt, "generate": args.generate, "batch": args.batch, "depth": args.depth,
        "prefill_tokens_per_second": speed.prefill,
        "decode_tokens_per_second": speed.decode,
        "best_prefill_tokens_per_second": speed.best_prefill,
        "best_decode_tokens_per_second": speed.best_decode,
        "decode_bytes_per_second": speed.decode_bytes,
        "memory_read_bytes_per_second": most_bytes,
        "share_of_peak": speed.decode_bytes / most_bytes,
        "load_seconds": load_seconds,
        "weight_bytes": model.weight_bytes(),
        "resident_bytes": resident_bytes().unwrap_or(model.weight_bytes() as u64),
    });
    if args.json {
        println!("{result}");
    } else {
        print_model(args, &path, &model, &result);
    }
    match args.gate {
        Some(gate) => compare_with_cpu(args, &path, threads, (&model, &speed), gate),
        None => Ok(()),
    }
}

fn print_model(args: &BenchArgs, path: &Path, model: &Model, result: &Value) {
    let number = |key: &str| result[key].as_f64().unwrap_or(0.0);
    let (threads, isa) = (model.pool().threads(), IsaKind::current().name());
    println!("model     {}  ({threads} threads, {isa})", path.display());
    if let Some(gpu) = model.gpu() {
        let all = model.config().n_layers();
        println!("device    {}, {} of {all} layers", gpu.info().name, model.gpu_layers());
    }
    println!(
        "loaded    in {:.2} s, {:.0} MiB of weights",
        number("load_seconds"),
        model.weight_bytes() as f64 / 1048576.0
    );
    println!(
        "prefill   {:8.1} tok/s  ({} tokens{}; best {:.1})",
        number("prefill_tokens_per_second"),
        args.prompt,
        if args.depth > 0 { format!(" after {}", args.depth) } else { String::new() },
        number("best_prefill_tokens_per_second"),
    );
    println!(
        "decode    {:8.1} tok/s  ({} at once; best {:.1})",
        number("decode_tokens_per_second"),
        args.batch,
        number("best_decode_tokens_per_second")
    );
    println!(
        "          {:8.1} GB/s, {:.0} % of the {:.1} GB/s that {}",
        giga(number("decode_bytes_per_second")),
        100.0 * number("share_of_peak"),
        giga(number("memory_read_bytes_per_second")),
        if model.gpu().is_some() { "the device copies" } else { "this machine reads" }
    );
    println!("resident  {:8.1} MiB", number("resident_bytes") / 1048576.0);
    if let Some(gpu) = model.gpu() {
        println!("on device {:8.1} MiB at most", gpu.peak_bytes() as f64 / 1048576.0);
    }
    super::device::report_fallbacks(model);
}

/// Fails where the device is not `gate` times as fast as the CPU.
fn compare_with_cpu(
    args: &BenchArgs,
    path: &Path,
    threads: usize,
    (model, speed): (&Model, &Speed),
    gate: f64,
) -> Result<()> {
    let Some(gpu) = model.gpu() else {
        bail!("--gate compares a GPU with the CPU, and the CPU has computed; see `wootz doctor`")
    };
    let mut on_cpu = load_model(args, path, threads)?;
    args.adapters.put_on(&mut on_cpu)?;
    let cpu = Speed::measure(args, &on_cpu)?;
    let factor = speed.decode / cpu.decode;
    eprintln!("decode is {factor:.2} times as fast as on the CPU ({:.1} tok/s)", cpu.decode);
    if factor < gate {
        bail!("{} decodes {factor:.2} times as fast as the CPU, and the gate is {gate}", gpu.info().name);
    }
    Ok(())
}

/// Tokens a second, medians and best.
struct Speed {
    prefill: f64,
    decode: f64,
    best_prefill: f64,
    best_decode: f64,
    /// Bytes of weights and caches that decoding reads in a second.
    decode_bytes: f64,
}

impl Speed {
    fn measure(args: &BenchArgs, model: &Model) -> Result<Speed> {
        let vocab = model.config().vocab_size as u32;
        let (prompt, generate, depth, batch) =
            (args.prompt as usize, args.generate as usize, args.depth as usize, args.batch as usize);
        let total = depth + prompt + generate;
        let learned = model.config().positions == wootz_model::config::Positions::Learned;
        if learned && total > model.config().max_seq {
            bail!(
                "{total} tokens were asked for, and the model's position table ends at {}",
                model.config().max_seq
            );
        }
        // Ids that every vocabulary of more than a few hundred tokens has, and that are no special tokens.
        let ids: Vec<u32> = (0..depth + prompt).map(|i| (100 + i as u32 % 300) % vocab).collect();
        let mut caches: Vec<KvCache> = model.new_caches(batch, total, args.kv.cache_type())?;
        let mut scratch = Scratch::default();
        for cache in &mut caches {
            prefill(model, &mut scratch, cache, &ids[..depth])?;
        }
        let depth_bytes = cache_bytes(model, depth + prompt + generate / 2, args.kv.cache_type());

        let mut prefill_seconds = Vec::new();
        let mut decode_seconds = Vec::new();
        for round in 0..=args.repeat {
            for cache in &mut caches {
                if !cache.truncate(depth) {
                    cache.clear();
                    prefill(model, &mut scratch, cache, &ids[..depth])?;
                }
            }
            let start = Instant::now();
            for cache in &mut caches {
                prefill(model, &mut scratch, cache, &ids[depth..])?;
            }
            let prefilled = start.elapsed().as_secs_f64();
            let start = Instant::now();
            for _ in 0..generate {
                let token = [5 % vocab];
                let chunk = |cache| Chunk { tokens: &token, cache, logits: Rows::Last };
                let mut chunks: Vec<Chunk> = caches.iter_mut().map(chunk).collect();
                model.forward(&mut scratch, &mut chunks)?;
            }
            // The first round touches memory.
            if round > 0 {
                prefill_seconds.push(prefilled);
                decode_seconds.push(start.elapsed().as_secs_f64());
            }
        }
        prefill_seconds.sort_by(f64::total_cmp);
        decode_seconds.sort_by(f64::total_cmp);
        let middle = prefill_seconds.len() / 2;
        let rate = |seconds: f64, tokens: usize| (tokens * batch) as f64 / seconds;
        let bytes = model.bytes_per_token() as f64 + (batch * depth_bytes) as f64;
        Ok(Speed {
            prefill: rate(prefill_seconds[middle], prompt),
            decode: rate(decode_seconds[middle], generate),
            best_prefill: rate(prefill_seconds[0], prompt),
            best_decode: rate(decode_seconds[0], generate),
            decode_bytes: bytes * generate as f64 / decode_seconds[middle],
        })
    }
}

/// Reads how many times as fast something should be.
fn factor(text: &str) -> Result<f64, String> {
    let expected = || "expected a number above 0".to_owned();
    let factor: f64 = text.parse().map_err(|_| expected())?;
    if factor.is_finite() && factor > 0.0 { Ok(factor) } else { Err(expected()) }
}

fn prefill(model: &Model, scratch: &mut Scratch, cache: &mut KvCache, ids: &[u32]) -> Result<()> {
    let chunks = ids.len().div_ceil(MAX_CHUNK);
    for (i, tokens) in ids.chunks(MAX_CHUNK).enumerate() {
        let logits = if i + 1 == chunks { Rows::Last } else { Rows::None };
        model.forward(scratch, &mut [Chunk { tokens, cache, logits }])?;
    }
    Ok(())
}

/// Bytes of keys and values that one token at position `position` reads.
fn cache_bytes(model: &Model, position: usize, kind: CacheType) -> usize {
    let config = model.config();
    let seen = |window: Option<usize>| window.map_or(position, |w| w.min(position));
    config.layers.iter().map(|layer| seen(layer.window) * 2 * config.kv_dim() * kind.bytes()).sum()
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

/// A kernel's rate against the peak that bounds it.
struct Line {
    name: String,
    rate: f64,
    unit: &'static str,
    share: f64,
}

fn bench_machine(args: &BenchArgs, threads: usize) -> Result<()> {
    let pool = Pool::new(threads);
    let peaks = Peaks::measure(&pool);
    let mut lines = Vec::new();
    for dtype in
        [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q5_K, DType::Q6_K]
    {
        let small = random_matrix(&pool, dtype, [3072, 1024])?;
        let (peak, unit) = match small.operand() {
            Operand::F32 | Operand::F16 => (peaks.f32_flops, "GFLOP/s"),
            Operand::Bf16 => (peaks.bf16_flops, "GFLOP/s"),
            Operand::I8 => (peaks.i8_ops, "GOP/s"),
        };
        for m in [16, 512] {
            let seconds = bench_matmul(args, &pool, &small, m)?;
            let rate = (2 * m * 3072 * 1024) as f64 / seconds;
            lines.push(Line {
                name: format!("matmul {dtype} {m}x3072x1024"),
                rate,
                unit,
                share: rate / peak,
            });
        }
        // Large enough that no cache holds it.
        let large = random_matrix(&pool, dtype, [1 << 16, 2048])?;
        let rate = large.bytes() as f64 / bench_matmul(args, &pool, &large, 1)?;
        lines.push(Line {
            name: format!("matvec {dtype}"),
            rate,
            unit: "GB/s",
            share: rate / peaks.read_bytes,
        });
    }
    for tokens in [1024, 1] {
        let (seconds, bytes, operations) = bench_attention(args, &pool, tokens)?;
        let (rate, unit, peak) = if tokens == 1 {
            (bytes / seconds, "GB/s", peaks.read_bytes)
        } else {
            (operations / seconds, "GFLOP/s", peaks.f32_flops)
        };
        lines.push(Line { name: format!("attention, {tokens} queries"), rate, unit, share: rate / peak });
    }
    if args.json {
        let kernels: Vec<Value> = lines
            .iter()
            .map(
                |l| json!({"kernel": l.name, "per_second": l.rate, "unit": l.unit, "share_of_peak": l.share}),
            )
            .collect();
        let mut result = Map::new();
        result.insert("isa".into(), IsaKind::current().name().into());
        result.insert("threads".into(), threads.into());
        result.insert("f32_flops_per_second".into(), peaks.f32_flops.into());
        result.insert("bf16_flops_per_second".into(), peaks.bf16_flops.into());
        result.insert("int8_ops_per_second".into(), peaks.i8_ops.into());
        result.insert("memory_read_bytes_per_second".into(), peaks.read_bytes.into());
        result.insert("kernels".into(), kernels.into());
        println!("{}", Value::Object(result));
        return Ok(());
    }
    println!("machine   {threads} threads, {}", IsaKind::current().name());
    println!("  f32 multiply-add   {:8.0} GFLOP/s", giga(peaks.f32_flops));
    println!("  bf16 dot           {:8.0} GFLOP/s", giga(peaks.bf16_flops));
    println!("  int8 dot           {:8.0} GOP/s", giga(peaks.i8_ops));
    println!("  memory read        {:8.1} GB/s", giga(peaks.read_bytes));
    println!("kernels   {:34} {:>10}         share of peak", "", "rate");
    for line in &lines {
        println!("  {:42} {:8.1} {:8} {:4.0} %", line.name, giga(line.rate), line.unit, 100.0 * line.share);
    }
    Ok(())
}

/// A matrix whose rows are all the same: values do not matter for the speed.
fn random_matrix(pool: &Pool, dtype: DType, shape: [usize; 2]) -> Result<Matrix> {
    let mut rng = Rng::new(1, 0);
    let row_bytes = dtype.bytes(&[shape[1]]).unwrap_or(0);
    let values: Vec<f32> = (0..shape[1]).map(|_| rng.normal()).collect();
    let mut row = vec![0u8; row_bytes];
    quant::encode(dtype, &values, &mut row)?;
    Ok(Matrix::pack(pool, dtype, shape, Precision::Native, |_| &row))
}

fn bench_matmul(args: &BenchArgs, pool: &Pool, weight: &Matrix, m: usize) -> Result<f64> {
    let (n, k) = (weight.rows(), weight.cols());
    let mut rng = Rng::new(2, 0);
    let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
    let mut y = vec![0.0; m * n];
    let mut inputs = Inputs::default();
    let x = inputs.prepare(pool, &x, [m, k], std::iter::once(weight.operand()));
    let work = 2.0 * (m * n * k) as f64;
    let times = (2e9 / work).ceil().clamp(1.0, 100.0) as usize;
    let (median, _) = time(args.repeat.max(7), || {
        let start = Instant::now();
        for _ in 0..times {
            matmul(pool, &x, &mut [Product { weight, bias: None, y: &mut y, write: Write::Set }]);
        }
        Ok(start.elapsed().as_secs_f64() / times as f64)
    })?;
    Ok(median)
}

/// Seconds, bytes and operations of `tokens` queries at the end of a cache: 16 heads of 128 over 8.
fn bench_attention(args: &BenchArgs, pool: &Pool, tokens: usize) -> Result<(f64, f64, f64)> {
    let (heads, kv_heads, dim) = (16, 8, 128);
    let seen = if tokens == 1 { 16384 } else { tokens };
    let mut rng = Rng::new(3, 0);
    let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
    let mut cache = LayerCache::new(kv_heads, dim, seen, CacheType::F16);
    cache.append(pool, 0, &random(seen * kv_heads * dim), &random(seen * kv_heads * dim));
    let q = random(tokens * heads * dim);
    let mut y = vec![0.0; q.len()];
    let attention = Attention { heads, scale: 0.088, window: None };
    let mut scratch = attention::Scratch::default();
    let (median, _) = time(args.repeat.max(7), || {
        let start = Instant::now();
        let segment = Segment { rows: 0..tokens, first: seen - tokens, cache: &cache };
        attention.forward(pool, &mut scratch, &q, &[segment], &mut y, None);
        Ok(start.elapsed().as_secs_f64())
    })?;
    // A query of a prefill sees half of the keys on average.
    let pairs = if tokens == 1 { seen } else { tokens * (tokens + 1) / 2 };
    Ok((median, (seen * 2 * kv_heads * dim * 2) as f64, (4 * heads * dim * pairs) as f64))
}
