//! The search for scales: as good as ggml's, never worse than plain rounding, and defined for odd values.

use super::*;
use crate::rng::Rng;
use crate::simd::{IsaKind, dispatch_to};

/// Columns of the rows below.
const COLS: usize = 1024;

/// 64 rows of normally distributed values.
fn normal() -> Vec<f32> {
    let mut rng = Rng::new(1, 0);
    (0..64 * COLS).map(|_| rng.normal()).collect()
}

/// 64 rows of values with heavy tails.
fn heavy() -> Vec<f32> {
    let mut rng = Rng::new(2, 0);
    (0..64 * COLS).map(|_| rng.normal() * (0.7 * rng.normal()).exp()).collect()
}

/// Importances that differ as much as those of a model.
fn importance() -> Vec<f32> {
    let mut rng = Rng::new(3, 0);
    (0..COLS).map(|_| (1.5 * rng.normal()).exp()).collect()
}

fn quantized(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0x77; dtype.bytes(&[values.len()]).unwrap()];
    quantize(dtype, values, importance, &mut bytes).unwrap();
    bytes
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![7e7; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    decode(dtype, bytes, &mut out).unwrap();
    out
}

/// The squared error over the squared values, each weighted with its column's importance.
fn relative_error(dtype: DType, bytes: &[u8], values: &[f32], importance: Option<&[f32]>) -> f64 {
    let (mut error, mut total) = (0.0, 0.0);
    for (i, (found, &value)) in decoded(dtype, bytes).into_iter().zip(values).enumerate() {
        let w = importance.map_or(1.0, |row| f64::from(row[i % row.len()]));
        error += w * (f64::from(found) - f64::from(value)).powi(2);
        total += w * f64::from(value).powi(2);
    }
    error / total
}

/// Relative errors of ggml's `ggml_quantize_chunk` (libggml-base of llama-cpp-python 0.3.36) on the same values:
/// [`normal`] without and with [`importance`], then [`heavy`] without and with it.
const GGML: [(DType, [f64; 4]); 12] = [
    (DType::Q4_0, [7.4190e-3, 5.2114e-3, 1.6396e-2, 1.4025e-2]),
    (DType::Q4_1, [6.1502e-3, 3.1948e-3, 1.0441e-2, 5.9087e-3]),
    (DType::Q5_0, [1.8241e-3, 1.2932e-3, 4.2982e-3, 3.6736e-3]),
    (DType::Q5_1, [1.4486e-3, 7.6877e-4, 2.4664e-3, 1.3657e-3]),
    (DType::Q8_0, [2.8634e-5, 2.8330e-5, 6.8839e-5, 7.0253e-5]),
    (DType::Q2_K, [8.8833e-2, 4.1669e-2, 1.3846e-1, 6.1703e-2]),
    (DType::Q3_K, [2.2922e-2, 1.5119e-2, 3.6305e-2, 2.8319e-2]),
    (DType::Q4_K, [5.1301e-3, 3.2986e-3, 8.9915e-3, 6.3116e-3]),
    (DType::Q5_K, [1.3137e-3, 8.9827e-4, 2.3147e-3, 1.7262e-3]),
    (DType::Q6_K, [3.1577e-4, 2.1838e-4, 6.4796e-4, 5.2252e-4]),
    (DType::IQ4_NL, [5.8333e-3, 4.1546e-3, 1.0213e-2, 7.8943e-3]),
    (DType::IQ4_XS, [5.9202e-3, 4.2622e-3, 1.0412e-2, 8.2513e-3]),
];

#[test]
fn errors_are_below_those_of_ggml() {
    let (normal, heavy, importance) = (normal(), heavy(), importance());
    for (format, (dtype, ggml)) in FORMATS.iter().zip(GGML) {
        assert_eq!(format.dtype, dtype);
        let cases =
            [(&normal, None), (&normal, Some(&importance)), (&heavy, None), (&heavy, Some(&importance))];
        for (i, ((values, importance), ggml)) in cases.into_iter().zip(ggml).enumerate() {
            let importance = importance.map(Vec::as_slice);
            let bytes = quantized(dtype, values, importance);
            let found = relative_error(dtype, &bytes, values, importance);
            // And no miracle: that would be an error in this test.
            assert!(found < ggml && found > 0.4 * ggml, "{dtype}, case {i}: {found:.4e}, ggml {ggml:.4e}");
        }
    }
}

#[test]
fn no_block_is_worse_than_reference_rounding() {
    for format in FORMATS.iter().filter(|format| format.has_reference()) {
        let dtype = format.dtype;
        for values in [normal(), heavy()] {
            for values in values.chunks(format.block_len) {
                let mut plain = vec![0; format.block_bytes];
                encode(dtype, values, &mut plain).unwrap();
                let plain = relative_error(dtype, &plain, values, None);
                let found = relative_error(dtype, &quantized(dtype, values, None), values, None);
                assert!(found <= plain * 1.00001, "{dtype}: {found:e}, plainly rounded {plain:e}");
            }
        }
    }
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let (values, importance) = (normal(), importance());
    for format in &FORMATS {
        let dtype = format.dtype;
        let error = |row| relative_error(dtype, &quantized(dtype, &values, row), &values, Some(&importance));
        let (with, without) = (error(Some(&importance[..])), error(None));
        assert!(with < 0.95 * without, "{dtype}: {with:e} with, {without:e} without");
    }
}

#[test]
fn importances_that_say_nothing_change_nothing() {
    let values = &heavy()[..2 * COLS];
    for format in &FORMATS {
        let plain = quantized(format.dtype, values, None);
        let zeros = quantized(format.dtype, values, Some(&[0.0; COLS]));
        assert!(plain == zeros, "{}: all zeros", format.dtype);
        // One number for all columns weighs nothing against another, whatever its size.
        for same in [1.0, 1e-40, 3e38] {
            let same = quantized(format.dtype, values, Some(&[same; COLS]));
            let (found, expected) =
                [&same, &plain].map(|bytes| relative_error(format.dtype, bytes, values, None)).into();
            assert!((found / expected - 1.0).abs() < 1e-2, "{}: {found} {expected}", format.dtype);
        }
    }
}

#[test]
fn columns_without_importance_are_not_forgotten() {
    let values = &normal()[..COLS];
    let mut importance = vec![0.0; COLS];
    importance[5] = 1.0;
    for format in &FORMATS {
        let bytes = quantized(format.dtype, values, Some(&importance));
        let error = relative_error(format.dtype, &bytes, values, None);
        assert!(error < 0.5, "{}: {error}", format.dtype);
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in &FORMATS {
        for zero in [0.0, -0.0] {
            let found = decoded(format.dtype, &quantized(format.dtype, &vec![zero; 256], None));
            assert!(found.iter().all(|&v| v == 0.0), "{}: {found:?}", format.dtype);
        }
    }
}

/// Half a step of the widest group, over its largest magnitude.
fn half_step(format: &Format) -> f32 {
    match format.dtype {
        // Levels: half of the widest gap, over the outermost one.
        DType::IQ4_NL | DType::IQ4_XS => 12.0 / 113.0,
        _ => 1.0 / (f32::from(format.q_range.1) - f32::from(format.q_range.0)),
    }
}

#[test]
fn a_constant_an_outlier_and_extreme_magnitudes() {
    for format in &FORMATS {
        let dtype = format.dtype;
        let worst = |values: &[f32]| {
            let found = decoded(dtype, &quantized(dtype, values, None));
            found.iter().zip(values).map(|(found, value)| (found - value).abs()).fold(0.0, f32::max)
        };
        for value in [1.0, -1.0, 0.3, -70.0, 1e-3] {
            let worst = worst(&[value; 256]) / value.abs();
            assert!(worst < 0.01, "{dtype}: a constant {value} is off by {worst}");
        }
        let mut values = [0.01; 256];
        for outlier in [100.0, -100.0] {
            values[77] = outlier;
            let worst = worst(&values) / 100.0;
            // What is lost beside an outlier is at most half of its step; a group's scale costs some more.
            assert!(worst <= 1.3 * half_step(format), "{dtype}: outlier {outlier}: {worst}");
        }
        // f16 scales have no smaller and no larger numbers: nothing is lost but what they cannot say.
        for tiny in [1e-30, 1e-45, f32::MIN_POSITIVE] {
            assert!(worst(&[tiny; 256]) <= tiny, "{dtype}: {tiny:e}");
        }
        for huge in [f32::MAX, -f32::MAX, 1e9] {
            let found = decoded(dtype, &quantized(dtype, &[huge; 256], None));
            assert!(
                found.iter().all(|v| v.is_finite() && v.signum() == huge.signum() && v.abs() > 6e4),
                "{dtype}: {huge:e} became {}",
                found[0]
            );
        }
        let mixed: Vec<f32> =
            (0..256).map(|i| 10f32.powi(i % 70 - 38) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        assert!(decoded(dtype, &quantized(dtype, &mixed, None)).iter().all(|v| v.is_finite()), "{dtype}");
    }
}

#[test]
fn a_second_rounding_loses_little() {
    for format in &FORMATS {
        let dtype = format.dtype;
        let values = normal();
        let once = quantized(dtype, &values, None);
        let first = relative_error(dtype, &once, &values, None);
        let values = decoded(dtype, &once);
        let second = relative_error(dtype, &quantized(dtype, &values, None), &values, None);
        assert!(second < 0.2 * first, "{dtype}: {second:e} after {first:e}");
    }
}

#[test]
fn every_instruction_set_finds_as_good_blocks() {
    fn errors<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>()
    where
        B: Block<BYTES, LEN, GROUPS>,
    {
        let (values, importance) = (&heavy()[..4 * COLS], importance());
        let mut least = f64::INFINITY;
        for kind in IsaKind::available() {
            let mut bytes = vec![0x77; values.len() / LEN * BYTES];
            let importance = Some(&importance[..]);
            let search = Search::<B, BYTES, LEN, GROUPS> {
                values,
                importance,
                bytes: &mut bytes,
                format: PhantomData,
            };
            dispatch_to(kind, search);
            let error = relative_error(B::DTYPE, &bytes, values, importance);
            least = least.min(error);
            assert!(error < 1.002 * least, "{} on {}: {error:e}, {least:e}", B::DTYPE, kind.name());
        }
    }
    errors::<q4_0::Q4_0, _, _, _>();
    errors::<q4_1::Q4_1, _, _, _>();
    errors::<q8_0::Q8_0, _, _, _>();
    errors::<q2_k::Q2_K, _, _, _>();
    errors::<q4_k::Q4_K, _, _, _>();
    errors::<q6_k::Q6_K, _, _, _>();
    errors::<iq4_xs::IQ4_XS, _, _, _>();
}

#[test]
fn what_is_not_finite_is_refused() {
    for dtype in DType::weights() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 256];
            values[200] = value;
            let mut bytes = vec![0; dtype.bytes(&[256]).unwrap()];
            let error = quantize(dtype, &values, None, &mut bytes).unwrap_err();
            let expected = format!("value 200 is {value}, expected a finite number that {dtype} can hold");
            assert_eq!(error.to_string(), expected);
        }
    }
    let mut bytes = [0; 2];
    assert!(quantize(DType::F16, &[65520.0], None, &mut bytes).is_err());
    assert!(quantize(DType::BF16, &[f32::MAX], None, &mut bytes).is_err());
    assert!(quantize(DType::F16, &[65504.0], None, &mut bytes).is_ok());
}

#[test]
fn importances_must_be_those_of_a_row() {
    let mut bytes = [0; 288];
    let mut run = |importance: &[f32]| quantize(DType::Q4_K, &[1.0; 512], Some(importance), &mut bytes);
    assert_eq!(run(&[1.0; 256]), Ok(()));
    assert_eq!(run(&[1.0; 512]), Ok(()));
    for found in [0, 32, 384, 768] {
        let error = run(&vec![1.0; found]).unwrap_err();
        assert_eq!(error, Error::ImportanceLength { values: 512, found });
        assert!(error.to_string().ends_with(&format!("found {found}")), "{error}");
    }
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        let mut importance = [1.0; 256];
        importance[3] = bad;
        let error = run(&importance).unwrap_err();
        assert!(error.to_string().starts_with(&format!("importance 3 is {bad}")), "{error}");
    }
}
