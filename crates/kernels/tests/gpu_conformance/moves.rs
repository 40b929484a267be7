//! Words and rows from one place to another: bits against bits.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::from_u32;
use wootz_kernels::device::launch::moves::{Rows, copy, fill};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "moves_copy" => copies(gpu),
        "moves_gather" => gathers(gpu),
        "moves_scatter" => scatters(gpu),
        "moves_fill" => fills(gpu),
        _ => return None,
    })
}

/// Words, NaN of all kinds and very small numbers among them.
fn words(count: usize, seed: u64) -> Vec<u32> {
    let mut words: Vec<u32> = numbers(count, seed).iter().map(|x| x.to_bits().rotate_left(13)).collect();
    let special = [0, u32::MAX, 0x7f80_0001, 0xffc0_1234, 1, 0x8000_0000, 0x007f_ffff];
    words.iter_mut().zip(special).for_each(|(word, special)| *word = special);
    words
}

/// Counts: of every kind, and one of more workgroups than a grid dimension holds.
fn counts() -> Vec<usize> {
    sizes().into_iter().chain([1000, 256 * 65_535 + 300]).collect()
}

fn copies<G: Gpu>(gpu: &G) -> usize {
    for count in counts() {
        for [from_first, to_first] in [[0, 0], [3, 0], [0, 5], [7, 2]] {
            let (from, mut to) = (words(count + 9, 1), words(count + 9, 2));
            let to_ = from_u32(gpu, &to).unwrap();
            copy(gpu, &from_u32(gpu, &from).unwrap(), from_first, &to_, to_first, count).unwrap();
            to[to_first..to_first + count].copy_from_slice(&from[from_first..from_first + count]);
            assert!(bits(gpu, &to_) == to, "{count} words from {from_first} to {to_first}");
        }
    }
    let [some, other] = [1, 2].map(|seed| from_u32(gpu, &words(8, seed)).unwrap());
    assert!(copy(gpu, &some, 1, &other, 0, 8).is_err() && copy(gpu, &some, 0, &other, 1, 8).is_err());
    assert!(copy(gpu, &some, usize::MAX, &other, 0, 2).is_err());
    copy(gpu, &some, 8, &other, 8, 0).unwrap();
    assert_eq!(bits(gpu, &other), words(8, 2));
    counts().len()
}

fn fills<G: Gpu>(gpu: &G) -> usize {
    for count in counts() {
        for (first, word) in [(0, 0), (3, 0x7f80_0001), (9, u32::MAX)] {
            let mut to = words(count + 9, 1);
            let to_ = from_u32(gpu, &to).unwrap();
            fill(gpu, &to_, first, count, word).unwrap();
            to[first..first + count].fill(word);
            assert!(bits(gpu, &to_) == to, "{count} times {word:x} from {first}");
        }
    }
    let some = from_u32(gpu, &[1, 2]).unwrap();
    assert!(fill(gpu, &some, 1, 2, 0).is_err());
    fill(gpu, &some, 2, 0, 0).unwrap();
    assert_eq!(bits(gpu, &some), [1, 2]);
    counts().len()
}

fn shapes() -> Vec<Rows> {
    let mut all: Vec<Rows> = sizes()
        .into_iter()
        .flat_map(|size| {
            [
                Rows { rows: 5, width: size, total: 9 },
                Rows { rows: size, width: 3, total: size + 1 },
                Rows { rows: 4, width: 7, total: size.max(4) },
            ]
        })
        .collect();
    all.push(Rows { rows: 65_600, width: 257, total: 65_601 }); // more workgroups than a grid dimension holds
    all
}

/// Rows below `total`, the last first, none twice, and where there are more than four, one that does not exist.
fn ids(op: &Rows) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..op.total as u32).rev().take(op.rows).collect();
    if op.rows > 4 {
        ids[2] = op.total as u32;
        ids[3] = u32::MAX;
    }
    ids
}

fn gathers<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (ids, from) = (ids(&op), words(op.total * op.width, 1));
        let mut expected = words(op.rows * op.width + 3, 2);
        let to = from_u32(gpu, &expected).unwrap();
        op.gather(gpu, &from_u32(gpu, &from).unwrap(), &from_u32(gpu, &ids).unwrap(), &to).unwrap();
        for (to, &id) in expected.chunks_exact_mut(op.width).zip(&ids) {
            match from.chunks_exact(op.width).nth(id as usize) {
                Some(row) => to.copy_from_slice(row),
                None => to.fill(0),
            }
        }
        assert!(bits(gpu, &to) == expected, "gather {op:?}");
    }
    wrong_use_is_an_error(gpu);
    shapes().len()
}

fn scatters<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (ids, from) = (ids(&op), words(op.rows * op.width, 1));
        let mut expected = words(op.total * op.width + 3, 2);
        let to = from_u32(gpu, &expected).unwrap();
        op.scatter(gpu, &from_u32(gpu, &from).unwrap(), &from_u32(gpu, &ids).unwrap(), &to).unwrap();
        for (from, &id) in from.chunks_exact(op.width).zip(&ids) {
            if (id as usize) < op.total {
                expected[id as usize * op.width..][..op.width].copy_from_slice(from);
            }
        }
        assert!(bits(gpu, &to) == expected, "scatter {op:?}");
    }
    shapes().len()
}

fn wrong_use_is_an_error<G: Gpu>(gpu: &G) {
    let [small, large] = [2 * 3, 4 * 3].map(|count| from_u32(gpu, &words(count, 1)).unwrap());
    let op = Rows { rows: 2, width: 3, total: 4 };
    let (ids, id) = (from_u32(gpu, &[0, 3]).unwrap(), from_u32(gpu, &[0]).unwrap());
    let spare = from_u32(gpu, &words(5, 2)).unwrap();
    op.gather(gpu, &large, &ids, &small).unwrap();
    assert!(op.gather(gpu, &spare, &ids, &small).is_err(), "from");
    assert!(op.gather(gpu, &large, &id, &small).is_err(), "ids");
    assert!(op.gather(gpu, &large, &ids, &spare).is_err(), "to");
    op.scatter(gpu, &small, &ids, &large).unwrap();
    assert!(op.scatter(gpu, &small, &ids, &spare).is_err(), "to");
    assert!(op.scatter(gpu, &spare, &ids, &large).is_err(), "from");
    let none = gpu.alloc(0).unwrap();
    Rows { rows: 0, ..op }.gather(gpu, &large, &none, &none).unwrap();
    Rows { width: 0, ..op }.scatter(gpu, &none, &ids, &none).unwrap();
}
