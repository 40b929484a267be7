//! Embeddings.

use half::{bf16, f16};
use wootz_kernels::DType;
use wootz_kernels::device::launch::embedding::{Embedding, Lookups, from_u32};
use wootz_kernels::device::launch::{from_f32, to_f32};
use wootz_kernels::device::{Error, Gpu};
use wootz_kernels::ops::{Write, embedding};
use wootz_kernels::panels::{self, LANES, Pack, float};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "embedding_forward_f32" => forward(gpu, DType::F32),
        "embedding_forward_f16" => forward(gpu, DType::F16),
        "embedding_forward_bf16" => forward(gpu, DType::BF16),
        "embedding_backward" => backward(gpu),
        _ => return None,
    })
}

fn shapes() -> Vec<Embedding> {
    let shape = |rows, vocab, width, scale| Embedding { rows, vocab, width, scale };
    let mut all: Vec<Embedding> = sizes().into_iter().map(|width| shape(7, 70, width, 1.7)).collect();
    all.extend(sizes().into_iter().map(|rows| shape(rows, 33, 6, 1.0)));
    all.extend(sizes().into_iter().map(|vocab| shape(20, vocab, 9, 0.3)));
    all.extend([shape(5, 40, 1000, 1.0), shape(3, 2, 513, 22.6)]);
    all.push(shape(200_000, 100_000, 2, 1.0)); // more workgroups than a grid dimension holds
    all
}

/// Ids below `vocab`, with many that occur more than once, and the last row of the table.
fn ids(op: &Embedding) -> Vec<u32> {
    let mut ids: Vec<u32> =
        numbers(op.rows, 1).iter().map(|x| ((x + 1.0) / 2.0 * op.vocab as f32) as u32).collect();
    ids[op.rows - 1] = op.vocab as u32 - 1;
    ids
}

/// The values of a table as its type has them, row by row, and the panels of the CPU.
fn table(op: &Embedding, dtype: DType) -> (Vec<f32>, Vec<u8>) {
    let mut values = numbers(op.vocab * op.width, 2);
    // Some are below the smallest normal f16.
    values.iter_mut().step_by(5).for_each(|x| *x *= 3e-5);
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let rounded: Vec<f32> = match dtype {
        DType::F16 => values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        DType::BF16 => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        _ => values,
    };
    let rows: Vec<&[u8]> = bytes.chunks(bytes.len() / op.vocab).collect();
    let packed = match dtype {
        DType::F16 => pack::<float::F16>(&rows, op.width),
        DType::BF16 => pack::<float::Bf16>(&rows, op.width),
        _ => pack::<float::F32>(&rows, op.width),
    };
    (rounded, packed)
}

fn pack<P: Pack>(rows: &[&[u8]], width: usize) -> Vec<u8> {
    let mut packed = Vec::new();
    for panel in rows.chunks(LANES) {
        for block in 0..width.div_ceil(P::SPAN) {
            let mut bytes = vec![0; P::BYTES];
            P::pack(panel, block, &mut bytes);
            packed.extend(bytes);
        }
    }
    packed
}

fn forward<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let shapes = shapes();
    for op in &shapes {
        let (values, packed) = table(op, dtype);
        let table = gpu.alloc(packed.len()).unwrap();
        gpu.upload(&table, 0, &packed).unwrap();
        let ids = ids(op);
        let before = numbers(op.rows * op.width, 3);
        let scale = f64::from(op.scale);
        let want = embedding::reference(&wide(&values), op.width, &ids, scale);
        for write in [Write::Set, Write::Add] {
            let run = |op: &Embedding, ids: &[u32], before: &[f32]| {
                let x = from_f32(gpu, before).unwrap();
                op.forward(gpu, dtype, &table, &from_u32(gpu, ids).unwrap(), &x, write).unwrap();
                to_f32(gpu, &x).unwrap()
            };
            let x = run(op, &ids, &before);
            let expected: Vec<Near> = want
                .iter()
                .zip(&before)
                .map(|(&value, &before)| match write {
                    Write::Set => Near(value, value.abs() * ULP),
                    Write::Add => {
                        let before = f64::from(before);
                        Near(value + before, (value.abs() + (value + before).abs()) * ULP)
                    }
                })
                .collect();
            check(&format!("embedding forward {dtype} {write:?} {op:?}"), &x, &expected);
            let last = before.len() - op.width..;
            let alone = run(&Embedding { rows: 1, ..*op }, &ids[op.rows - 1..], &before[last.clone()]);
            assert_eq!(alone, x[last], "{dtype} {op:?}: the last row alone has other bits");
        }
    }

    // An id beyond the table counts as zeros, though the panel has a row there.
    let op = Embedding { rows: 3, vocab: 5, width: 4, scale: 1.0 };
    let (_, packed) = table(&Embedding { vocab: 32, ..op }, dtype);
    let table = gpu.alloc(packed.len()).unwrap();
    gpu.upload(&table, 0, &packed).unwrap();
    let x = from_f32(gpu, &[1.0; 12]).unwrap();
    op.forward(gpu, dtype, &table, &from_u32(gpu, &[5, 31, u32::MAX]).unwrap(), &x, Write::Set).unwrap();
    assert_eq!(to_f32(gpu, &x).unwrap(), [0.0; 12], "{dtype}: ids beyond the table");
    let refused = op.forward(gpu, DType::Q8_0, &table, &x, &x, Write::Set);
    assert!(matches!(refused, Err(Error::Argument { .. })), "{refused:?}");
    let none = gpu.alloc(0).unwrap();
    Embedding { rows: 0, ..op }.forward(gpu, dtype, &table, &none, &none, Write::Set).unwrap();
    shapes.len() + 1
}

fn backward<G: Gpu>(gpu: &G) -> usize {
    let shapes = shapes();
    for op in &shapes {
        let Embedding { vocab, width, scale, .. } = *op;
        let ids = ids(op);
        let dx = numbers(op.rows * width, 4);
        // What the gradient held is added to, and stays where no row was looked up.
        let before = numbers(panels::len([vocab, width]), 5);
        let run = || {
            let d_table = from_f32(gpu, &before).unwrap();
            let lookups = Lookups::new(gpu, &ids).unwrap();
            op.backward(gpu, &lookups, &from_f32(gpu, &dx).unwrap(), &d_table).unwrap();
            to_f32(gpu, &d_table).unwrap()
        };
        let found = run();
        let (dx64, scale) = (wide(&dx), f64::from(scale));
        let sums = embedding::reference_backward(vocab, width, &ids, scale, &dx64);
        let sizes: Vec<f64> = dx64.iter().map(|dx| dx.abs()).collect();
        let sizes = embedding::reference_backward(vocab, width, &ids, scale, &sizes);
        let mut counts = vec![0u32; vocab];
        ids.iter().for_each(|&id| counts[id as usize] += 1);
        let mut expected: Vec<Near> = before.iter().map(|&before| Near(f64::from(before), 0.0)).collect();
        for (row, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            for c in 0..width {
                let Near(value, tolerance) = &mut expected[panels::index(width, row, c)];
                // A product, and as many sums of at most this size.
                *tolerance = (sizes[row * width + c] + value.abs()) * ULP * f64::from(count + 1);
                *value += sums[row * width + c];
            }
        }
        check(&format!("embedding backward {op:?}"), &found, &expected);
        assert_eq!(found, run(), "embedding backward {op:?}: a second run has other bits");
    }

    let op = Embedding { rows: 2, vocab: 5, width: 4, scale: 1.0 };
    let (dx, d_table) = (gpu.alloc(4 * 8).unwrap(), gpu.alloc(4 * 32 * 4).unwrap());
    let refused = op.backward(gpu, &Lookups::new(gpu, &[1, 5]).unwrap(), &dx, &d_table);
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        "embedding_backward: lookups: expected 2 ids below 5, found 2 ids, the largest Some(5)"
    );
    let none = gpu.alloc(0).unwrap();
    let empty = Embedding { rows: 0, ..op };
    empty.backward(gpu, &Lookups::new(gpu, &[]).unwrap(), &none, &d_table).unwrap();
    shapes.len() + 1
}
