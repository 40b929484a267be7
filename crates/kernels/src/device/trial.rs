//! Whether a device computes what it should: a few launches whose results are known.
//!
//! A driver that has subgroups or matrices is tried before kernels make use of them; `wootz doctor` tries any.

use super::gpu::{Ability, Gpu, Result};
use super::launch::{from_f32, packed::PackedMatrix, residual::Residual, rmsnorm::RmsNorm, to_f32};
use crate::ops::Write;

/// Whether a device can do what its kernels make use of; nothing is tried where they are the plain ones.
///
/// # Errors
/// What the device meets.
pub fn proves<G: Gpu>(gpu: &G) -> Result<bool> {
    match gpu.info().ability {
        Ability::Plain => Ok(true),
        Ability::Subgroups => sums(gpu),
        Ability::Matrices => Ok(sums(gpu)? && multiplies(gpu)?),
    }
}

/// Compiles and runs a kernel of each kind on a device, and looks at the results.
///
/// # Errors
/// What the device meets.
pub fn succeeds<G: Gpu>(gpu: &G) -> Result<bool> {
    Ok(adds(gpu)? && sums(gpu)? && multiplies(gpu)?)
}

/// A kernel as simple as can be.
fn adds<G: Gpu>(gpu: &G) -> Result<bool> {
    let [x, y] = [from_f32(gpu, &[1.0, 2.0, 3.0])?, from_f32(gpu, &[0.5, -2.0, 4.0])?];
    Residual { count: 3 }.add(gpu, &x, &y)?;
    Ok(to_f32(gpu, &x)? == [1.5, 0.0, 7.0])
}

/// A sum over a workgroup: with subgroups, where there are some.
fn sums<G: Gpu>(gpu: &G) -> Result<bool> {
    // Squares of which each four add up to 100, so that 1 / rms is 0.2.
    let values: Vec<f32> = [1.0, -7.0, 5.0, 5.0].repeat(2 * 150);
    let op = RmsNorm { rows: 2, dim: 600, eps: 0.0, offset: 1.0 };
    let (x, weight) = (from_f32(gpu, &values)?, from_f32(gpu, &[0.5; 600])?);
    let y = gpu.alloc(size_of_val(values.as_slice()))?;
    op.forward(gpu, &x, &weight, &y)?;
    let found = to_f32(gpu, &y)?;
    Ok(found.iter().zip(&values).all(|(y, x)| (y - 0.3 * x).abs() < 1e-5))
}

/// A product: with matrices, where there are some. Of small whole numbers, so that it is exact in any order of sums.
fn multiplies<G: Gpu>(gpu: &G) -> Result<bool> {
    let [rows, n, k] = [19, 70, 37];
    let whole = |len: usize, step: usize| (0..len).map(|i| (i * step % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let (x, dy) = (whole(rows * k, 3), whole(rows * n, 5));
    let dw = PackedMatrix::zeroed(gpu, [n, k])?;
    dw.backward_weight(gpu, rows, &from_f32(gpu, &x)?, &from_f32(gpu, &dy)?, Write::Set)?;
    let found = dw.to_matrix(gpu)?;
    let mut of_channel = vec![0.0; k];
    Ok((0..n).all(|channel| {
        found.decode_row(channel, &mut of_channel);
        let expected = |i: usize| (0..rows).map(|row| dy[row * n + channel] * x[row * k + i]).sum::<f32>();
        of_channel.iter().enumerate().all(|(i, &value)| value == expected(i))
    }))
}
