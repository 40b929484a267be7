//! The gradient of embeddings.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::embedding::{Embedding, Lookups};
use wootz_kernels::device::launch::from_f32;
use wootz_kernels::device::launch::packed::PackedMatrix;
use wootz_kernels::ops::embedding;
use wootz_kernels::{DType, Matrix, panels};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
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

fn backward<G: Gpu>(gpu: &G) -> usize {
    let shapes = shapes();
    for op in &shapes {
        let Embedding { vocab, width, scale, .. } = *op;
        let ids = ids(op);
        let dx = numbers(op.rows * width, 4);
        // What the gradient held is added to, and stays where no row was looked up.
        let before = numbers(panels::len([vocab, width]), 5);
        // In one buffer, or a few panels each.
        let run = |most: usize| {
            let d_table =
                PackedMatrix::upload_in_parts(gpu, &Matrix::zeroed(DType::F32, [vocab, width]), most)
                    .unwrap();
            d_table
                .set_panels(gpu, &before.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
                .unwrap();
            let lookups = Lookups::new(gpu, &ids).unwrap();
            op.backward(gpu, &lookups, &from_f32(gpu, &dx).unwrap(), &d_table).unwrap();
            let bytes = d_table.download(gpu).unwrap();
            bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect::<Vec<f32>>()
        };
        let found = run(usize::MAX);
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
        assert!(found == run(usize::MAX), "embedding backward {op:?}: a second run has other bits");
        let panel = 4 * 32 * width;
        let few = (before.len() * 4 / panel).div_ceil(4).min(2000); // a launch each
        assert!(found == run(few * panel), "embedding backward {op:?}: in parts it has other bits");
    }

    let op = Embedding { rows: 2, vocab: 5, width: 4, scale: 1.0 };
    let (dx, d_table) = (from_f32(gpu, &[1.0; 8]).unwrap(), PackedMatrix::zeroed(gpu, [5, 4]).unwrap());
    let refused = op.backward(gpu, &Lookups::new(gpu, &[1, 5]).unwrap(), &dx, &d_table);
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        "embedding_backward: lookups: expected 2 ids below 5, found 2 ids, the largest Some(5)"
    );
    let lookups = Lookups::new(gpu, &[1, 4]).unwrap();
    for other in [[6, 4], [5, 3]] {
        assert!(op.backward(gpu, &lookups, &dx, &PackedMatrix::zeroed(gpu, other).unwrap()).is_err());
    }
    let halves = PackedMatrix::upload(gpu, &Matrix::zeroed(DType::F16, [5, 4])).unwrap();
    assert!(op.backward(gpu, &lookups, &dx, &halves).is_err());
    let none = gpu.alloc(0).unwrap();
    let empty = Embedding { rows: 0, ..op };
    empty.backward(gpu, &Lookups::new(gpu, &[]).unwrap(), &none, &d_table).unwrap();
    shapes.len() + 1
}
