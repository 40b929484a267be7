//! Kernels on a GPU, as a share of what it copies and multiplies at most.

use anyhow::Result;
use serde_json::{Value, json};
use wootz_kernels::device::launch::attention::{Attention, Cache, Chunk};
use wootz_kernels::device::launch::packed::PackedMatrix;
use wootz_kernels::device::launch::{adamw, cross_entropy, from_f32, from_u32, rmsnorm};
use wootz_kernels::device::peak::{DevicePeaks, best_of};
use wootz_kernels::device::{Accelerator, Gpu, Memory};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::{DType, Pool};

/// A kernel's best time against the peak that bounds it.
struct Line {
    name: String,
    seconds: f64,
    work: Work,
}

/// What bounds a kernel.
#[derive(Clone, Copy)]
enum Work {
    /// Bytes that it reads and writes.
    Bytes(f64),
    /// Its multiply-adds, two operations each.
    Operations(f64),
}

/// Sizes: what a GPU has to have to be busy, and what its disguise gets done.
struct Sizes {
    large: [usize; 2],
    rows: usize,
    tokens: usize,
    depth: usize,
}

impl Sizes {
    fn of(gpu: &Accelerator) -> Sizes {
        match gpu.info().software {
            true => Sizes { large: [2048, 1024], rows: 64, tokens: 256, depth: 2048 },
            false => Sizes { large: [16384, 4096], rows: 512, tokens: 1024, depth: 16384 },
        }
    }
}

/// Measures the device and its kernels.
///
/// # Errors
/// What the device meets.
pub fn run(gpu: &Accelerator, json: bool) -> Result<()> {
    let peaks = DevicePeaks::measure(gpu)?;
    let sizes = Sizes::of(gpu);
    let mut lines = products(gpu, &sizes)?;
    lines.extend(attention(gpu, &sizes)?);
    lines.extend(pointwise(gpu, &sizes)?);
    let of = |line: &Line| match line.work {
        Work::Bytes(bytes) => (bytes / line.seconds, "GB/s", peaks.copy_bytes),
        Work::Operations(count) => (count / line.seconds, "GFLOP/s", peaks.flops),
    };
    if json {
        let kernels: Vec<Value> = lines
            .iter()
            .map(|line| {
                let (rate, unit, peak) = of(line);
                json!({"kernel": line.name, "per_second": rate, "unit": unit, "share_of_peak": rate / peak})
            })
            .collect();
        println!(
            "{}",
            json!({
                "device": gpu.info().name,
                "api": gpu.info().api,
                "driver": gpu.info().driver,
                "copy_bytes_per_second": peaks.copy_bytes,
                "f32_flops_per_second": peaks.flops,
                "launch_seconds": peaks.launch_seconds,
                "submit_seconds": peaks.submit_seconds,
                "kernels": kernels,
            })
        );
        return Ok(());
    }
    let info = gpu.info();
    println!("device    {} through {}, driver {}", info.name, info.api, info.driver);
    println!("  f32 multiply-add   {:8.0} GFLOP/s", peaks.flops / 1e9);
    println!("  copy, both ways    {:8.1} GB/s", peaks.copy_bytes / 1e9);
    println!("  a launch           {:8.1} us", 1e6 * peaks.launch_seconds);
    println!("  a lone submission  {:8.1} us", 1e6 * peaks.submit_seconds);
    println!("kernels   {:34} {:>10}         share of peak", "", "rate");
    for line in &lines {
        let (rate, unit, peak) = of(line);
        println!("  {:42} {:8.1} {:8} {:4.0} %", line.name, rate / 1e9, unit, 100.0 * rate / peak);
    }
    Ok(())
}

fn values(gpu: &Accelerator, count: usize) -> Result<Memory> {
    let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    Ok(from_f32(gpu, &values)?)
}

/// Products with weights of every layout: one row, many rows, and backward.
fn products(gpu: &Accelerator, sizes: &Sizes) -> Result<Vec<Line>> {
    let pool = Pool::new(wootz_kernels::pool::default_threads());
    let [n, k] = sizes.large;
    let m = sizes.rows;
    let (x, y) = (values(gpu, m * k)?, gpu.alloc(4 * m * n)?);
    let mut lines = Vec::new();
    for dtype in
        [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q5_K, DType::Q6_K]
    {
        let matrix = super::random_matrix(&pool, dtype, [n, k])?;
        let weight = PackedMatrix::upload(gpu, &matrix)?;
        let seconds = best_of(gpu, || weight.forward(gpu, 1, &x, None, &y, Write::Set))?;
        lines.push(Line {
            name: format!("matvec {dtype} {n}x{k}"),
            seconds,
            work: Work::Bytes(matrix.bytes() as f64),
        });
        let operations = Work::Operations((2 * m * n * k) as f64);
        let seconds = best_of(gpu, || weight.forward(gpu, m, &x, None, &y, Write::Set))?;
        lines.push(Line { name: format!("matmul {dtype} {m}x{n}x{k}"), seconds, work: operations });
        if dtype == DType::F32 {
            let seconds = best_of(gpu, || weight.backward_input(gpu, m, &y, &x, Write::Set))?;
            lines.push(Line { name: format!("gradient of inputs {m}x{n}x{k}"), seconds, work: operations });
            let seconds = best_of(gpu, || weight.backward_weight(gpu, m, &x, &y, Write::Set))?;
            lines.push(Line { name: format!("gradient of weights {m}x{n}x{k}"), seconds, work: operations });
        }
    }
    Ok(lines)
}

/// 16 heads of 128 over 8: a prompt, forward and back, and one token at the end of a cache.
fn attention(gpu: &Accelerator, sizes: &Sizes) -> Result<Vec<Line>> {
    let (heads, kv_heads, dim, t) = (16, 8, 128, sizes.tokens);
    let op = Attention { heads, kv_heads, dim, scale: 0.088, window: None };
    let (wide, narrow) = (t * heads * dim, t * kv_heads * dim);
    let [q, y, dy, dq] = [wide; 4].map(|count| values(gpu, count));
    let (q, y, dy, dq) = (q?, y?, dy?, dq?);
    let [k, v, dk, dv] = [narrow; 4].map(|count| values(gpu, count));
    let (k, v, dk, dv) = (k?, v?, dk?, dv?);
    let (lse, scratch) = (gpu.alloc(4 * t * heads)?, gpu.alloc(8 * t * heads)?);
    let sequences = op.sequences(gpu, &[t])?;
    // A query sees half of the keys on average.
    let pairs = (heads * dim * t * (t + 1) / 2) as f64;
    let forward = best_of(gpu, || sequences.forward(gpu, [&q, &k, &v], [&y, &lse]))?;
    let backward =
        best_of(gpu, || sequences.backward(gpu, [&q, &k, &v], [&y, &lse], &dy, [&dq, &dk, &dv], &scratch))?;
    let depth = sizes.depth;
    let cache = Cache { slots: 1, capacity: depth, kind: CacheType::F16 };
    let bytes = cache.bytes(&op)?;
    let (keys, cached) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
    wootz_kernels::device::launch::moves::fill(gpu, &keys, 0, bytes / 4, 0)?;
    wootz_kernels::device::launch::moves::fill(gpu, &cached, 0, bytes / 4, 0)?;
    let chunks = op.chunks(gpu, &[Chunk { rows: 0..1, first: depth - 1, slot: 0 }])?;
    let parts = gpu.alloc(chunks.decode_scratch()?.next_multiple_of(4))?;
    let decode = best_of(gpu, || chunks.decode(gpu, &cache, &q, [&keys, &cached], [&y, &lse], &parts))?;
    Ok(vec![
        Line {
            name: format!("attention, {t} queries"),
            seconds: forward,
            work: Work::Operations(4.0 * pairs),
        },
        Line {
            name: format!("attention, {t} queries, back"),
            seconds: backward,
            work: Work::Operations(10.0 * pairs),
        },
        Line {
            name: format!("attention, 1 query over {depth} keys"),
            seconds: decode,
            work: Work::Bytes(2.0 * bytes as f64),
        },
    ])
}

/// What moves more than it computes.
fn pointwise(gpu: &Accelerator, sizes: &Sizes) -> Result<Vec<Line>> {
    let (rows, dim) = (4 * sizes.rows, 1024);
    let count = rows * dim;
    let buffers = (0..4).map(|_| values(gpu, count)).collect::<Result<Vec<Memory>>>()?;
    let [x, y, m, v] = &buffers[..] else { anyhow::bail!("four buffers") };
    let weight = values(gpu, dim)?;
    let norm = rmsnorm::RmsNorm { rows, dim, eps: 1e-6, offset: 0.0 };
    let normed = best_of(gpu, || norm.forward(gpu, x, &weight, y))?;
    let options = wootz_kernels::ops::adamw::AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 1.0,
    };
    let adam = adamw::AdamW { count, options };
    wootz_kernels::device::launch::moves::fill(gpu, m, 0, count, 0)?;
    wootz_kernels::device::launch::moves::fill(gpu, v, 0, count, 0)?;
    let moved = best_of(gpu, || adam.update(gpu, x, y, m, v))?;
    let loss = cross_entropy::CrossEntropy {
        rows: rows / 32,
        vocab: 32 * dim,
        width: 32 * dim,
        scale: 1.0,
        soft_cap: None,
    };
    let targets = from_u32(gpu, &vec![1; loss.rows])?;
    let [losses, entropies, normaliser] = [1, 1, 2].map(|n| gpu.alloc(4 * n * loss.rows));
    let (losses, entropies, normaliser) = (losses?, entropies?, normaliser?);
    let crossed = best_of(gpu, || loss.forward(gpu, y, &targets, None, &losses, &entropies, &normaliser))?;
    let bytes = |passes: usize| Work::Bytes((4 * passes * count) as f64);
    Ok(vec![
        Line { name: format!("rmsnorm {rows}x{dim}"), seconds: normed, work: bytes(2) },
        Line { name: format!("adamw, {count} weights"), seconds: moved, work: bytes(7) },
        Line {
            name: format!("cross-entropy {}x{}", loss.rows, loss.vocab),
            seconds: crossed,
            work: bytes(1),
        },
    ])
}
