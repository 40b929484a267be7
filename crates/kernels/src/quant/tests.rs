//! Tests over the table: every format against the stored reference, and against itself.

use std::path::Path;

use half::f16;

use super::*;

mod search;

/// A fixture of `tests/fixtures/blocks`: encoded bytes and the values that belong to them.
fn fixture(folder: &str, dtype: DType) -> (Vec<u8>, Vec<f32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/blocks")
        .join(folder)
        .join(format!("{dtype}.bin"));
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let blocks = file.len() / (dtype.block_bytes() + 4 * dtype.block_len());
    assert!(blocks > 0, "{}: empty", path.display());
    let (bytes, values) = file.split_at(blocks * dtype.block_bytes());
    assert_eq!(values.len(), 4 * blocks * dtype.block_len(), "{}: part of a block", path.display());
    (bytes.to_vec(), values.as_chunks().0.iter().map(|&v| f32::from_le_bytes(v)).collect())
}

/// Equal bits, where every NaN is one and the same: its payload is nobody's promise.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!(same(found, expected), "{what}: value {i} is {found:e}, expected {expected:e}");
    }
}

/// Random bytes from a fixed seed (xorshift64*): scales of every kind, subnormal, huge, infinite, NaN.
fn random_bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
    };
    std::iter::repeat_with(next).take(n).collect()
}

struct Unpacked {
    q: Vec<i8>,
    scale: Vec<f32>,
    min: Vec<f32>,
}

/// Unpacks into buffers that hold something else before, so that what is not written shows.
fn unpack(format: &Format, bytes: &[u8]) -> Unpacked {
    let n = bytes.len() / format.block_bytes * format.block_len;
    let groups = n / format.group;
    let (mut q, mut scale, mut min) = (vec![77; n], vec![7e7; groups], vec![7e7; groups]);
    format.unpack(bytes, Ints { q: &mut q, scale: &mut scale, min: &mut min });
    Unpacked { q, scale, min }
}

#[test]
fn table_covers_the_weight_types_in_their_order() {
    let blocks: Vec<DType> = DType::weights().filter(|dtype| dtype.block_len() > 1).collect();
    assert_eq!(FORMATS.iter().map(|format| format.dtype).collect::<Vec<_>>(), blocks);
    for dtype in DType::all() {
        assert_eq!(format(dtype).map(|format| format.dtype), blocks.contains(&dtype).then_some(dtype));
    }
}

#[test]
fn table_agrees_with_dtype() {
    for format in &FORMATS {
        let Format { dtype, block_len, block_bytes, group, .. } = *format;
        assert_eq!((block_len, block_bytes), (dtype.block_len(), dtype.block_bytes()), "{dtype}");
        assert!(matches!(group, 16 | 32) && block_len % group == 0, "{dtype}");
    }
}

/// The page's table says what the code says.
#[test]
fn docs_agree_with_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/quantisation.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut rows = 0;
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some(dtype) = DType::from_name(cells[0]) else { continue };
        rows += 1;
        let (len, bytes) = (dtype.block_len(), dtype.block_bytes());
        assert_eq!(cells[1].parse(), Ok((8 * bytes) as f64 / len as f64), "{dtype}: bits");
        assert_eq!((cells[2].parse(), cells[3].parse()), (Ok(len), Ok(bytes)), "{dtype}: block");
        let expected = match format(dtype) {
            Some(Format { group, q_range: (least, greatest), has_min, .. }) => {
                let min = if *has_min { "yes" } else { "no" };
                [group.to_string(), format!("{least}..{greatest}"), min.to_string()]
            }
            None => [const { String::new() }; 3],
        };
        assert_eq!(cells[4..7], expected, "{dtype}");
    }
    assert_eq!(rows, DType::weights().count(), "one row for each weight type");
}

#[test]
fn decode_parity_with_the_reference() {
    for dtype in DType::weights() {
        let (bytes, expected) = fixture("decode", dtype);
        let mut out = vec![7e7; expected.len()];
        decode(dtype, &bytes, &mut out).unwrap();
        assert_same(dtype.name(), &out, &expected);
    }
}

#[test]
fn encode_parity_with_the_reference() {
    let written = FORMATS.iter().filter(|format| format.has_reference()).map(|format| format.dtype);
    for dtype in [DType::F16, DType::BF16].into_iter().chain(written) {
        let (expected, values) = fixture("encode", dtype);
        let mut bytes = vec![0x77; expected.len()];
        encode(dtype, &values, &mut bytes).unwrap();
        for (i, (found, expected)) in
            bytes.chunks(dtype.block_bytes()).zip(expected.chunks(dtype.block_bytes())).enumerate()
        {
            assert_eq!(found, expected, "{dtype}: block {i}");
        }
    }
}

#[test]
fn unpack_loses_nothing() {
    for format in &FORMATS {
        let dtype = format.dtype;
        // The fixture's blocks have ordinary scales, the random ones every kind of scale.
        let stored = fixture("decode", dtype).0;
        for (name, bytes) in [("stored", stored), ("random", random_bytes(256 * format.block_bytes, 9))] {
            let mut decoded = vec![7e7; bytes.len() / format.block_bytes * format.block_len];
            decode(dtype, &bytes, &mut decoded).unwrap();
            let Unpacked { q, scale, min } = unpack(format, &bytes);
            let rebuilt: Vec<f32> = (0..q.len())
                .map(|i| scale[i / format.group] * f32::from(q[i]) - min[i / format.group])
                .collect();
            assert_same(&format!("{dtype}, {name}"), &rebuilt, &decoded);

            // 8192 or more random values hit both ends of the range, and nothing beyond.
            let range = (*q.iter().min().unwrap(), *q.iter().max().unwrap());
            if name == "random" {
                assert_eq!(range, format.q_range, "{dtype}");
            }
            if !format.has_min {
                assert!(min.iter().all(|min| min.to_bits() == 0), "{dtype}: a minimum");
            }
        }
    }
}

#[test]
fn a_row_is_its_blocks_one_after_the_other() {
    for format in &FORMATS {
        let bytes = random_bytes(3 * format.block_bytes, 5);
        let mut row = vec![0.0; 3 * format.block_len];
        decode(format.dtype, &bytes, &mut row).unwrap();
        let blocks = bytes.chunks(format.block_bytes).zip(row.chunks(format.block_len));
        for (block, expected) in blocks {
            let mut out = vec![7e7; format.block_len];
            decode(format.dtype, block, &mut out).unwrap();
            assert_same(format.dtype.name(), &out, expected);
        }
    }
}

#[test]
fn scales_that_are_not_finite_give_values_and_no_panic() {
    for format in &FORMATS {
        for byte in [0xFF, 0x7F, 0x7C, 0xFC, 0x00, 0x80] {
            let mut block = vec![byte; format.block_bytes];
            let mut out = vec![0.0; format.block_len];
            decode(format.dtype, &block, &mut out).unwrap();
            unpack(format, &block);
            block.fill(!byte);
            decode(format.dtype, &block, &mut out).unwrap();
        }
    }
}

#[test]
fn values_that_are_not_finite_can_be_encoded() {
    for format in &FORMATS {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, -0.0] {
            let mut values = vec![1.0; format.block_len];
            values[3] = value;
            let mut block = vec![0; format.block_bytes];
            encode(format.dtype, &values, &mut block).unwrap();
            values.fill(value);
            encode(format.dtype, &values, &mut block).unwrap();
        }
    }
}

#[test]
fn f16_and_bf16_decode_every_number_exactly() {
    for bits in 0..=u16::MAX {
        let mut out = [0.0];
        decode(DType::BF16, &bits.to_le_bytes(), &mut out).unwrap();
        assert!(same(out[0], f32::from_bits(u32::from(bits) << 16)), "{bits:#06x}");

        decode(DType::F16, &bits.to_le_bytes(), &mut out).unwrap();
        let (exponent, mantissa) = (bits >> 10 & 31, f32::from(bits & 0x3FF));
        let magnitude = match exponent {
            0 => mantissa * 2f32.powi(-24),
            31 if mantissa == 0.0 => f32::INFINITY,
            31 => f32::NAN,
            e => (1024.0 + mantissa) * 2f32.powi(i32::from(e) - 25),
        };
        let expected = if bits >> 15 == 1 { -magnitude } else { magnitude };
        assert!(same(out[0], expected), "{bits:#06x}");
    }
}

#[test]
fn wrong_lengths_and_types_are_errors() {
    for dtype in DType::weights() {
        let (len, bytes) = (dtype.block_len(), vec![0; 2 * dtype.block_bytes() + 1]);
        let mut out = vec![0.0; 2 * len];
        assert_eq!(decode(dtype, &bytes[1..], &mut out), Ok(()));
        assert_eq!(decode(dtype, &[], &mut []), Ok(()));
        for found in [0, 2 * dtype.block_bytes() - 1, 2 * dtype.block_bytes() + 1] {
            let expected = Error::Length { dtype, values: 2 * len, expected: 2 * dtype.block_bytes(), found };
            assert_eq!(decode(dtype, &bytes[..found], &mut out), Err(expected));
        }
        if len > 1 {
            let error = decode(dtype, &bytes[1..], &mut out[1..]).unwrap_err();
            assert_eq!(error, Error::PartBlock { dtype, values: 2 * len - 1 });
        }
    }
    for dtype in DType::all().skip(DType::weights().count()) {
        assert_eq!(decode(dtype, &[0; 8], &mut [0.0]), Err(Error::NotAWeight(dtype)));
        assert_eq!(encode(dtype, &[0.0], &mut [0; 8]), Err(Error::NotAWeight(dtype)));
    }
    assert!(encode(DType::Q8_0, &[0.0; 32], &mut [0; 33]).is_err());
}

#[test]
fn messages_name_type_expected_and_found() {
    let error = decode(DType::Q4_K, &[0; 143], &mut [0.0; 256]).unwrap_err();
    assert_eq!(error.to_string(), "Q4_K: expected 144 bytes for 256 values, found 143 bytes");
    let error = decode(DType::Q4_K, &[0; 144], &mut [0.0; 255]).unwrap_err();
    assert_eq!(error.to_string(), "Q4_K: expected a whole number of blocks of 256 values, found 255 values");
    assert!(Error::NotAWeight(DType::Bool).to_string().starts_with("BOOL is not a type for weights"));
}

#[test]
#[should_panic(expected = "Q4_0: groups")]
fn unpack_refuses_buffers_that_do_not_fit() {
    let (mut q, mut scale, mut min) = ([0; 32], [0.0; 2], [0.0; 2]);
    FORMATS[0].unpack(&[0; 18], Ints { q: &mut q, scale: &mut scale, min: &mut min });
}

#[test]
fn encoding_a_decoded_block_gives_the_values_back() {
    for format in FORMATS.iter().filter(|format| format.has_reference()) {
        // One integer at the end that the scale is taken from (-8 of Q4_0, 127 of Q8_0) makes the
        // block a fixed point of rounding.
        let end = match format.q_range {
            (-128, most) | (0, most) => i32::from(most),
            (least, _) => i32::from(least),
        };
        let values: Vec<f32> =
            (0..format.block_len as i32).map(|i| 0.25 * (if i == 9 { end } else { i % 8 }) as f32).collect();
        let mut bytes = vec![0; format.block_bytes];
        encode(format.dtype, &values, &mut bytes).unwrap();
        assert_eq!(&bytes[..2], &f16::from_f32(0.25).to_le_bytes(), "{}", format.dtype);
        let mut out = vec![0.0; format.block_len];
        decode(format.dtype, &bytes, &mut out).unwrap();
        assert_same(format.dtype.name(), &out, &values);
    }
}
