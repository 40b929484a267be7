//! Every type, every instruction set, awkward sizes: against [`reference`]; and bits against bits.

use super::*;
use crate::matrix::Precision;
use crate::ops::Write;
use crate::quant;
use crate::simd::IsaKind;
use crate::{DType, rng::Rng};

/// Longer than every stretch of k, and more rows of that length than one block of rows takes.
const LONG: [usize; 3] = [14, 33, 8448];

/// A matrix of a type as a file would hold it, and its values.
fn weights(rng: &mut Rng, dtype: DType, n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let values: Vec<f32> = (0..n * k).map(|_| rng.normal() * 0.5).collect();
    let mut bytes = vec![0; dtype.bytes(&[n, k]).unwrap()];
    quant::encode(dtype, &values, &mut bytes).unwrap();
    let mut decoded = vec![0.0; n * k];
    quant::decode(dtype, &bytes, &mut decoded).unwrap();
    (bytes, decoded)
}

fn pack(pool: &Pool, dtype: DType, shape: [usize; 2], precision: Precision, bytes: &[u8]) -> Matrix {
    let row = dtype.bytes(&[shape[1]]).unwrap();
    Matrix::pack(pool, dtype, shape, precision, |r| &bytes[r * row..(r + 1) * row])
}

fn multiply(pool: &Pool, x: &[f32], m: usize, weight: &Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let mut inputs = Inputs::default();
    let x = inputs.prepare(pool, x, [m, weight.cols()], std::iter::once(weight.operand()));
    let mut y = vec![f32::NAN; m * weight.rows()];
    matmul(pool, &x, &mut [Product { weight, bias, y: &mut y, write: Write::Set }]);
    y
}

/// What the operand's rounding makes of x.
fn rounded(x: &[f32], operand: Operand) -> Vec<f32> {
    match operand {
        Operand::F32 => x.to_vec(),
        Operand::Bf16 => x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        Operand::F16 => x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
        Operand::I8 => (x.chunks(32))
            .flat_map(|block| {
                let scale = block.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
                block.iter().map(move |x| if scale > 0.0 { (x / scale).round() * scale } else { 0.0 })
            })
            .collect(),
    }
}

#[test]
fn every_type_matches_the_reference() {
    let pool = Pool::new(2);
    let mut rng = Rng::new(1, 0);
    for dtype in DType::weights() {
        let sizes = [(1, 1), (1, 33), (2, 32), (3, 65), (4, 31), (5, 96), (7, 40), (13, 64), (29, 70)];
        let sizes = sizes.into_iter().enumerate().map(|(i, (m, n))| {
            [m, n, dtype.block_len() * [1, 2, 3, 5, 7, 17, 33][i % 7].min(4096 / dtype.block_len())]
        });
        for [m, n, k] in sizes.chain([LONG]) {
            let (bytes, values) = weights(&mut rng, dtype, n, k);
            let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
            let bias: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
            for precision in [Precision::Native, Precision::F32] {
                let weight = pack(&pool, dtype, [n, k], precision, &bytes);
                let want = reference(&rounded(&x, weight.operand()), &values, Some(&bias), [m, n, k]);
                let got = multiply(&pool, &x, m, &weight, Some(&bias));
                // The size that the sum could have had, row by row and column by column.
                for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (row, col) = (at / n, at % n);
                    let scale: f64 = (0..k)
                        .map(|l| f64::from(x[row * k + l].abs()) * f64::from(values[col * k + l].abs()))
                        .sum::<f64>()
                        + f64::from(bias[col].abs());
                    // Rounding an input to bytes may fall on the other side of a tie: 2^-8 of one value.
                    let bound = if weight.operand() == Operand::I8 { 2e-4 } else { 3e-6 };
                    let error = (f64::from(*got) - want).abs() / scale.max(1e-30);
                    assert!(
                        error <= bound,
                        "{dtype} {precision:?} m={m} n={n} k={k} row {row} column {col}: {got}, expected {want} ({error:.1e})"
                    );
                }
            }
        }
    }
}

/// What is there already is where the sum begins.
#[test]
fn products_are_added() {
    let pool = Pool::new(2);
    let mut rng = Rng::new(11, 0);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_K] {
        for (m, n, k) in [(1, 33, 256), (5, 40, 768), (29, 70, 1024)] {
            let (bytes, _) = weights(&mut rng, dtype, n, k);
            let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
            let before: Vec<f32> = (0..m * n).map(|_| rng.normal()).collect();
            for precision in [Precision::Native, Precision::F32] {
                let weight = pack(&pool, dtype, [n, k], precision, &bytes);
                let product = multiply(&pool, &x, m, &weight, None);
                let mut inputs = Inputs::default();
                let x = inputs.prepare(&pool, &x, [m, k], std::iter::once(weight.operand()));
                let mut y = before.clone();
                let write = Write::Add;
                matmul(&pool, &x, &mut [Product { weight: &weight, bias: None, y: &mut y, write }]);
                for ((y, before), product) in y.iter().zip(&before).zip(&product) {
                    let error = (y - before - product).abs();
                    assert!(
                        error < 1e-4 * (1.0 + product.abs()),
                        "{dtype} {precision:?}: {y}, {before} + {product}"
                    );
                }
            }
        }
    }
}

/// The contract: neither the number of rows nor of threads changes a bit.
#[test]
fn bits_do_not_depend_on_rows_or_threads() {
    let (one, two) = (Pool::new(1), Pool::new(2));
    let mut rng = Rng::new(2, 0);
    for dtype in DType::weights() {
        let k = dtype.block_len().max(32) * if dtype.block_len() == 256 { 3 } else { 21 };
        for [m, n, k] in [[41, 70, k], LONG] {
            let (bytes, _) = weights(&mut rng, dtype, n, k);
            let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
            for precision in [Precision::Native, Precision::F32] {
                let weight = pack(&one, dtype, [n, k], precision, &bytes);
                let all = multiply(&two, &x, m, &weight, None);
                let equal = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal(&all, &multiply(&one, &x, m, &weight, None)), "{dtype} {precision:?}: threads");
                for rows in [1, 2, 3, 5, 8, 12] {
                    for first in [0, 2, m - rows] {
                        let part = multiply(&two, &x[first * k..(first + rows) * k], rows, &weight, None);
                        let same = equal(&part, &all[first * n..(first + rows) * n]);
                        assert!(same, "{dtype} {precision:?}: rows {first}.. {rows} of k={k}");
                    }
                }
            }
        }
    }
}

/// The instruction set in use is one of several: the others are run by name.
#[test]
fn every_instruction_set_agrees() {
    let pool = Pool::new(1);
    let mut rng = Rng::new(3, 0);
    for dtype in DType::weights() {
        let (m, n, k) = (9, 45, dtype.block_len().max(32) * 3);
        let (bytes, _) = weights(&mut rng, dtype, n, k);
        let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
        for precision in [Precision::Native, Precision::F32] {
            let weight = pack(&pool, dtype, [n, k], precision, &bytes);
            let mut inputs = Inputs::default();
            let x = inputs.prepare(&pool, &x, [m, k], std::iter::once(weight.operand()));
            let run = |kind| {
                let mut y = vec![0.0; m * n];
                let job = Job {
                    weight: &weight,
                    bias: None,
                    y: Shares::new(&mut y),
                    write: Write::Set,
                    first_task: 0,
                    grain: 1,
                };
                crate::simd::dispatch_to(kind, Panels { x: &x, job: &job, panels: 0..weight.panels() });
                y
            };
            let plain = run(IsaKind::Scalar);
            let largest = plain.iter().fold(0f32, |a, x| a.max(x.abs()));
            for kind in IsaKind::available() {
                for (a, b) in run(kind).iter().zip(&plain) {
                    assert!(
                        (a - b).abs() <= 3e-6 * largest,
                        "{dtype} {precision:?} {}: {a}, {b}",
                        kind.name()
                    );
                }
            }
        }
    }
}

#[test]
fn rows_are_looked_up_exactly() {
    let pool = Pool::new(2);
    let mut rng = Rng::new(4, 0);
    for dtype in DType::weights() {
        let (n, k) = (37, dtype.block_len() * 3);
        let (bytes, values) = weights(&mut rng, dtype, n, k);
        let weight = pack(&pool, dtype, [n, k], Precision::Native, &bytes);
        let mut row = vec![0.0; k];
        for r in 0..n {
            weight.decode_row(r, &mut row);
            let same = row.iter().zip(&values[r * k..]).all(|(a, b)| a.to_bits() == b.to_bits() || (a == b));
            assert!(same, "{dtype} row {r}");
        }
    }
}

#[test]
fn zeros_and_nan_pass() {
    let pool = Pool::new(1);
    let values = vec![1.0; 32 * 32];
    let mut bytes = vec![0; DType::Q8_0.bytes(&[32, 32]).unwrap()];
    quant::encode(DType::Q8_0, &values, &mut bytes).unwrap();
    let weight = pack(&pool, DType::Q8_0, [32, 32], Precision::Native, &bytes);
    assert!(multiply(&pool, &[0.0; 32], 1, &weight, None).iter().all(|&y| y == 0.0));
    let mut x = [1.0; 32];
    for bad in [f32::NAN, f32::INFINITY] {
        x[5] = bad;
        assert!(multiply(&pool, &x, 1, &weight, None).iter().all(|&y| !y.is_finite()), "{bad} vanished");
    }
}

/// By differences, in f64: both gradients are the derivatives of the forward.
#[test]
fn reference_gradients_are_the_derivatives() {
    let mut rng = Rng::new(5, 0);
    let (m, n, k) = (3, 4, 5);
    let [x, w, dy] = [m * k, n * k, m * n].map(|len| (0..len).map(|_| rng.normal()).collect::<Vec<f32>>());
    let loss = |x: &[f32], w: &[f32]| -> f64 {
        reference(x, w, None, [m, n, k]).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
    };
    // The loss is linear in each, so that the difference is exact but for rounding.
    let slope = |at: &[f32], i: usize, loss: &dyn Fn(&[f32]) -> f64| {
        let mut moved = at.to_vec();
        moved[i] = at[i] + 0.5;
        let above = loss(&moved);
        moved[i] = at[i] - 0.5;
        above - loss(&moved)
    };
    for (i, want) in input_gradient::reference(&dy, &w, [m, n, k]).iter().enumerate() {
        let found = slope(&x, i, &|x| loss(x, &w));
        assert!((found - want).abs() < 1e-6, "dx {i}: {want} by formula, {found} by difference");
    }
    for (i, want) in weight_gradient::reference(&dy, &x, [m, n, k]).iter().enumerate() {
        let found = slope(&w, i, &|w| loss(&x, w));
        assert!((found - want).abs() < 1e-6, "dw {i}: {want} by formula, {found} by difference");
    }
}

/// Fails where a gradient is off by more than `bound` of the sizes that its terms have together.
#[track_caller]
fn assert_close(what: &str, found: &[f32], want: &[f64], sizes: &[f64], bound: f64) {
    for (i, ((found, want), size)) in found.iter().zip(want).zip(sizes).enumerate() {
        let error = (f64::from(*found) - want).abs();
        assert!(error <= bound * size.max(1e-30), "{what}, element {i}: {found}, expected {want}");
    }
}

fn magnitudes(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x.abs()).collect()
}

#[test]
fn input_gradient_matches_the_reference() {
    let mut rng = Rng::new(6, 0);
    let pool = Pool::new(2);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_K] {
        for (i, (m, n)) in
            [(1, 1), (2, 33), (3, 32), (5, 127), (12, 128), (13, 129), (5, 2100)].into_iter().enumerate()
        {
            let k = dtype.block_len() * [1, 2, 31, 32, 33, 65, 40][i % 7].min(512 / dtype.block_len());
            let size = [m, n, k];
            // Two weights whose outputs both came from x.
            let of: Vec<_> = (0..2).map(|_| weights(&mut rng, dtype, n, k)).collect();
            let dy: Vec<Vec<f32>> = (0..2).map(|_| (0..m * n).map(|_| rng.normal()).collect()).collect();
            let before: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
            for precision in [Precision::Native, Precision::F32] {
                let matrices: Vec<_> =
                    of.iter().map(|(bytes, _)| pack(&pool, dtype, [n, k], precision, bytes)).collect();
                let operand = matrices[0].gradient_operand();
                let mut inputs = [Inputs::default(), Inputs::default()];
                let terms: Vec<_> = (inputs.iter_mut().zip(&dy).zip(&matrices))
                    .map(|((inputs, dy), weight)| Term {
                        dy: inputs.prepare(&pool, dy, [m, n], std::iter::once(operand)),
                        weight,
                    })
                    .collect();
                let mut want = vec![0.0; m * k];
                let mut sizes = vec![0.0; m * k];
                for (dy, (_, values)) in dy.iter().zip(&of) {
                    let parts = input_gradient::reference(&rounded(dy, operand), values, size);
                    want.iter_mut().zip(parts).for_each(|(a, b)| *a += b);
                    let parts = input_gradient::reference(&magnitudes(dy), &magnitudes(values), size);
                    sizes.iter_mut().zip(parts).for_each(|(a, b)| *a += b);
                }
                let what = format!("{dtype} {precision:?} {size:?}");
                let mut dx = vec![f32::NAN; m * k];
                input_gradient(&pool, &terms, &mut dx, Write::Set);
                assert_close(&what, &dx, &want, &sizes, 3e-6);
                let mut single = vec![f32::NAN; m * k];
                input_gradient(&Pool::new(1), &terms, &mut single, Write::Set);
                assert!(single.iter().zip(&dx).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: threads");
                let mut added = before.clone();
                input_gradient(&pool, &terms, &mut added, Write::Add);
                for (want, before) in want.iter_mut().zip(&before) {
                    *want += f64::from(*before);
                }
                sizes.iter_mut().for_each(|size| *size += 5.0);
                assert_close(&what, &added, &want, &sizes, 3e-6);
            }
        }
    }
}

/// Products of f16 are those of values that were f16 before.
#[test]
fn f16_products_round_what_they_multiply() {
    let mut rng = Rng::new(10, 0);
    let pool = Pool::new(2);
    for (m, n, k) in [(1, 1, 1), (2, 33, 31), (13, 70, 40), (29, 129, 300)] {
        let (bytes, values) = weights(&mut rng, DType::F16, n, k);
        let exact = pack(&pool, DType::F16, [n, k], Precision::Native, &bytes);
        let mut rounding = Matrix::zeroed(DType::F16, [n, k]);
        let mut panels = vec![0.0; crate::panels::len([n, k])];
        exact.decode(&pool, &mut panels);
        rounding.set(&pool, &panels);
        assert_eq!([exact.operand(), rounding.operand()], [Operand::F32, Operand::F16]);

        let mut x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
        let of_rounded = multiply(&pool, &rounded(&x, Operand::F16), m, &exact, None);
        assert_eq!(multiply(&pool, &x, m, &rounding, None), of_rounded);
        let dy: Vec<f32> = (0..m * n).map(|_| rng.normal()).collect();
        let gradient = |dy: &[f32], weight: &Matrix| {
            let mut inputs = Inputs::default();
            let dy = inputs.prepare(&pool, dy, [m, n], std::iter::once(weight.gradient_operand()));
            let mut dx = vec![0.0; m * k];
            input_gradient(&pool, &[Term { dy, weight }], &mut dx, Write::Set);
            dx
        };
        assert_eq!(gradient(&dy, &rounding), gradient(&rounded(&dy, Operand::F16), &exact));

        // What f16 has no room for becomes infinite, which is how training finds that its loss is scaled too far.
        x[0] = 1e5;
        assert!(!multiply(&pool, &x, m, &rounding, None)[0].is_finite() || values[0] == 0.0);
    }
}

/// A row of dx has the same bits whatever rows are beside it.
#[test]
fn input_gradient_does_not_depend_on_rows() {
    let mut rng = Rng::new(7, 0);
    let pool = Pool::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let (m, n, k) = (29, 200, 70);
        let (bytes, _) = weights(&mut rng, dtype, n, k);
        let weight = pack(&pool, dtype, [n, k], Precision::Native, &bytes);
        let dy: Vec<f32> = (0..m * n).map(|_| rng.normal()).collect();
        let run = |rows: std::ops::Range<usize>| {
            let mut inputs = Inputs::default();
            let part = &dy[rows.start * n..rows.end * n];
            let dy = inputs.prepare(&pool, part, [rows.len(), n], std::iter::once(weight.gradient_operand()));
            let mut dx = vec![0.0; rows.len() * k];
            input_gradient(&pool, &[Term { dy, weight: &weight }], &mut dx, Write::Set);
            dx
        };
        let all = run(0..m);
        for rows in [0..1, 3..5, 7..20, 28..29] {
            assert_eq!(run(rows.clone()), all[rows.start * k..rows.end * k], "{dtype}: rows {rows:?}");
        }
    }
}

#[test]
fn weight_gradient_matches_the_reference() {
    let mut rng = Rng::new(8, 0);
    for (m, n, k) in
        [(1, 1, 1), (2, 33, 12), (3, 32, 13), (5, 65, 11), (127, 40, 24), (129, 31, 25), (600, 600, 13)]
    {
        let [x, dy] = [m * k, m * n].map(|len| (0..len).map(|_| rng.normal()).collect::<Vec<f32>>());
        let before: Vec<f32> = (0..crate::panels::len([n, k])).map(|_| rng.normal()).collect();
        for operand in [Operand::F32, Operand::F16, Operand::Bf16] {
            let run = |threads, write| {
                let (mut dw, mut db) = (before.clone(), vec![1.0; n]);
                // Twice the same, as two weights that share x.
                let mut second = dw.clone();
                let mut gradients = [
                    WeightGradient { dy: &dy, dw: &mut dw, db: Some(&mut db) },
                    WeightGradient { dy: &dy, dw: &mut second, db: None },
                ];
                let pool = Pool::new(threads);
                weight_gradient(&pool, &mut Columns::default(), &x, [m, k], operand, &mut gradients, write);
                assert_eq!(dw, second);
                (dw, db)
            };
            let mut want =
                weight_gradient::reference(&rounded(&dy, operand), &rounded(&x, operand), [m, n, k]);
            let mut sizes = weight_gradient::reference(&magnitudes(&dy), &magnitudes(&x), [m, n, k]);
            let rows = |panels: &[f32]| -> Vec<f32> {
                (0..n * k).map(|i| panels[crate::panels::index(k, i / k, i % k)]).collect()
            };
            let what = format!("{operand:?} m={m} n={n} k={k}");
            let (dw, db) = run(2, Write::Set);
            assert_eq!(run(1, Write::Set), (dw.clone(), db.clone()), "{what}: threads");
            assert_close(&what, &rows(&dw), &want, &sizes, 3e-6);
            for (j, db) in db.iter().enumerate() {
                let want: f64 = (0..m).map(|i| f64::from(dy[i * n + j])).sum();
                assert!(
                    (f64::from(*db) - want).abs() < 1e-6 * m as f64,
                    "{what}: db {j}: {db}, expected {want}"
                );
            }
            for (i, pad) in dw.iter().enumerate().filter(|(i, _)| i / (k * 32) * 32 + i % 32 >= n) {
                assert_eq!(*pad, 0.0, "{what}: padding {i}");
            }
            let (added, added_bias) = run(2, Write::Add);
            want.iter_mut().zip(rows(&before)).for_each(|(want, before)| *want += f64::from(before));
            sizes.iter_mut().for_each(|size| *size += 5.0);
            assert_close(&what, &rows(&added), &want, &sizes, 3e-6);
            assert!(added_bias.iter().zip(&db).all(|(a, b)| (a - b - 1.0).abs() < 1e-5), "{what}: db");
        }
    }
}

#[test]
fn panels_come_back_as_they_were_set() {
    let pool = Pool::new(2);
    let mut rng = Rng::new(9, 0);
    for (n, k) in [(1, 1), (31, 5), (33, 8), (70, 33)] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (bytes, values) = weights(&mut rng, dtype, n, k);
            let packed = pack(&pool, dtype, [n, k], Precision::Native, &bytes);
            let mut panels = vec![f32::NAN; crate::panels::len([n, k])];
            packed.decode(&pool, &mut panels);
            for (i, value) in values.iter().enumerate() {
                let at = crate::panels::index(k, i / k, i % k);
                assert_eq!(panels[at].to_bits(), value.to_bits(), "{dtype} [{n}, {k}] element {i}");
            }
            // Values between those of the type are rounded; those of the type are kept.
            for value in &mut panels {
                *value += *value * 1e-4;
            }
            let mut set = Matrix::zeroed(dtype, [n, k]);
            set.set(&pool, &panels);
            let mut back = vec![f32::NAN; panels.len()];
            set.decode(&pool, &mut back);
            for (back, value) in back.iter().zip(&panels) {
                let rounded = match dtype {
                    DType::F16 => half::f16::from_f32(*value).to_f32(),
                    DType::BF16 => half::bf16::from_f32(*value).to_f32(),
                    _ => *value,
                };
                assert_eq!(*back, rounded, "{dtype} [{n}, {k}]");
            }
            assert_eq!(multiply(&pool, &vec![1.0; k], 1, &set, None).len(), n);
            assert_eq!(set.values_mut().is_some(), dtype == DType::F32);
        }
    }
}
