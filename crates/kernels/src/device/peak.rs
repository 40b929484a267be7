//! What a GPU can do at most: the yardstick of its benchmarks, as [`crate::peak`] is the CPU's.

use super::launch::{from_f32, moves, peak::MultiplyAdd};
use super::{Accelerator, Gpu, Result};
use std::time::Instant;

/// Rates per second, and what a call costs.
#[derive(Clone, Copy, Debug)]
pub struct DevicePeaks {
    /// Bytes of a copy from one buffer to another, those that are read and those that are written.
    pub copy_bytes: f64,
    /// f32 multiply-adds, two operations each.
    pub flops: f64,
    /// Seconds of a launch among many.
    pub launch_seconds: f64,
    /// Seconds from a launch to its end, when nothing else is on the way.
    pub submit_seconds: f64,
}

/// The best of so many tries counts, because a machine is shared.
const TRIES: usize = 5;

impl DevicePeaks {
    /// Measures, in about a second.
    ///
    /// # Errors
    /// What the device meets.
    pub fn measure(gpu: &Accelerator) -> Result<DevicePeaks> {
        // A CPU in disguise would take minutes for what a GPU does in a moment.
        let (bytes, rounds) = if gpu.info().software { (1 << 24, 64) } else { (1 << 27, 4096) };
        let bytes = bytes.min(usize::try_from(gpu.info().max_buffer_bytes).unwrap_or(usize::MAX));
        let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
        moves::fill(gpu, &from, 0, bytes / 4, 1.0f32.to_bits())?;
        let copies = 8;
        let copy =
            best_of(gpu, || (0..copies).try_for_each(|_| moves::copy(gpu, &from, 0, &to, 0, bytes / 4)))?;
        let op = MultiplyAdd { count: 1 << 16, rounds, a: 0.999, b: 0.001 };
        let (x, y) = (from_f32(gpu, &vec![1.0; op.count])?, gpu.alloc(4 * op.count)?);
        let multiply = best_of(gpu, || op.run(gpu, &x, &y))?;
        let launches = 200;
        let one = || moves::copy(gpu, &from, 0, &to, 0, 1);
        let many = best_of(gpu, || (0..launches).try_for_each(|_| one()))?;
        let single = best_of(gpu, one)?;
        Ok(DevicePeaks {
            copy_bytes: (2 * copies * bytes) as f64 / copy,
            flops: op.operations() / multiply,
            launch_seconds: (many - single).max(0.0) / f64::from(launches - 1),
            submit_seconds: single,
        })
    }
}

/// The fewest seconds from the call of `work` until the device has done it.
///
/// # Errors
/// What the device meets.
pub fn best_of(gpu: &Accelerator, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?; // compiles, and touches memory
    gpu.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        work()?;
        gpu.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
