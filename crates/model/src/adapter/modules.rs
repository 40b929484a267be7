//! The matrices of a file that an adapter may change ("modules"), and the projections that are in each.
//!
//! A file's adapter has one pair `a`, `b` for each of the base's matrices, and the base may have q, k and v in one
//! (GPT-2), or rows in another order (a Llama in GGUF). Here a projection has its own pair, and its rows are the
//! projection's outputs. [`Module::split`] goes from the file to here, [`Module::join`] back.
//!
//! ```text
//!   q, k, v read from one:  the same a for all three, and each its rows of b
//!   q, k, v of their own a: a = [aq; ak; av]   b = [bq  0  0]   rank rq + rk + rv
//!                                                  [ 0 bk  0]
//!                                                  [ 0  0 bv]
//! ```

use std::collections::HashMap;

use wootz_formats::Format;
use wootz_kernels::Pool;
use wootz_kernels::exec::Weight;

use super::Scales;
use crate::arch::Architecture;
use crate::config::DecoderConfig;
use crate::error::{Result, fail};
use crate::lora::{Adapter, Lora, Magnitude, Scaling};
use crate::names::{Kind, Place, Source};

/// A matrix of the base's file.
pub(super) struct Module {
    /// Its name there, without `.weight`.
    pub name: String,
    /// Columns (k).
    pub inputs: usize,
    /// Rows (n), of all projections that are in it.
    pub outputs: usize,
    /// The projections that are in it.
    parts: Vec<Source>,
    /// Whether the file holds `[inputs, outputs]`.
    pub transposed: bool,
}

/// The change of a module.
pub(super) struct Change {
    /// `[rank, inputs]`, row-major.
    pub a: Vec<f32>,
    /// `[outputs, rank]`, row-major.
    pub b: Vec<f32>,
    /// Rank (r).
    pub rank: usize,
    /// What the scale is made of.
    pub alpha: f32,
    /// How.
    pub scaling: Scaling,
    /// `[outputs]`: the lengths of the changed rows, where they are learnt.
    pub magnitude: Option<Vec<f32>>,
    /// The ranks of the projections where their pairs stand in blocks, as drawn above.
    pub blocks: Option<Vec<usize>>,
    /// What became of the scales when several changes were joined.
    pub scales: Scales,
}

impl Change {
    /// What b a is multiplied with, before it is rounded.
    pub fn scale(&self) -> f64 {
        scale(self.alpha, self.rank, self.scaling)
    }
}

/// The modules of a model of this configuration in files of this format, in the order of the forward pass.
pub(super) fn modules(
    architecture: &Architecture,
    config: &DecoderConfig,
    format: Format,
) -> Result<Vec<Module>> {
    let mut all: Vec<Module> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for source in architecture.tensors(config, format)? {
        let is_projection = matches!(source.to.place, Place::Layer(_, part) if part.is_projection());
        if !is_projection || source.to.kind != Kind::Weight {
            continue;
        }
        let &[rows, cols] = &source.stored[..] else {
            fail!("tensor `{}`: expected a matrix, found {:?}", source.name, source.stored)
        };
        let transposed = source.transform.transpose;
        let [outputs, inputs] = if transposed { [cols, rows] } else { [rows, cols] };
        let name = source.name.strip_suffix(".weight").unwrap_or(&source.name).to_owned();
        let at = *index.entry(name.clone()).or_insert(all.len());
        if at == all.len() {
            all.push(Module { name, inputs, outputs, parts: Vec::new(), transposed });
        }
        all[at].parts.push(source);
    }
    Ok(all)
}

impl Module {
    /// The layer that it is in.
    pub fn layer(&self) -> Option<usize> {
        match self.parts.first()?.to.place {
            Place::Layer(layer, _) => Some(layer),
            Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => None,
        }
    }

    /// The change of each projection in it.
    pub fn split(&self, pool: &Pool, change: &Change) -> Vec<(Place, Lora)> {
        let blocks = change.blocks.as_deref().filter(|ranks| self.are_blocks(change, ranks));
        let mut first = 0;
        let mut all = Vec::new();
        for (index, source) in self.parts.iter().enumerate() {
            let (columns, alpha) = match blocks {
                None => (0..change.rank, change.alpha),
                Some(ranks) => {
                    let columns = first..first + ranks[index];
                    first = columns.end;
                    (columns.clone(), alpha_of_rank(change, columns.len()))
                }
            };
            let rank = columns.len();
            if rank == 0 {
                continue;
            }
            let a = &change.a[columns.start * self.inputs..columns.end * self.inputs];
            let mut b = Vec::with_capacity(source.rows() * rank);
            for row in 0..source.rows() {
                let at = source.stored_row(row) * change.rank;
                b.extend_from_slice(&change.b[at + columns.start..at + columns.end]);
            }
            let lora = Lora {
                a: Weight::from_f32(pool, [rank, self.inputs], a),
                b: Weight::from_f32(pool, [source.rows(), rank], &b),
                alpha,
                scaling: change.scaling,
                magnitude: change.magnitude.as_ref().map(|m| {
                    Magnitude::new((0..source.rows()).map(|row| m[source.stored_row(row)]).collect())
                }),
            };
            all.push((source.to.place, lora));
        }
        all
    }

    /// Whether b is zero outside the blocks of these ranks: another program may have trained on.
    fn are_blocks(&self, change: &Change, ranks: &[usize]) -> bool {
        if ranks.len() != self.parts.len()
            || ranks.iter().try_fold(0usize, |sum, &r| sum.checked_add(r)) != Some(change.rank)
        {
            return false;
        }
        let mut first = 0;
        self.parts.iter().zip(ranks).all(|(source, &rank)| {
            let own = first..first + rank;
            first = own.end;
            (0..source.rows()).all(|row| {
                let b = &change.b[source.stored_row(row) * change.rank..][..change.rank];
                b.iter().enumerate().all(|(column, &value)| own.contains(&column) || value == 0.0)
            })
        })
    }

    /// The change of the whole module; `None` where the adapter changes none of its projections.
    ///
    /// # Errors
    /// Only some of them have lengths of their own: the file has one for every output of the module, or none.
    pub fn join(&self, adapter: &Adapter) -> Result<Option<Change>> {
        let parts: Vec<Option<&Lora>> =
            self.parts.iter().map(|source| adapter.parts.get(&source.to.place)).collect();
        let Some(&first) = parts.iter().flatten().next() else { return Ok(None) };
        let magnitude = self.magnitude(&parts)?;
        let a = values(&first.a)?;
        let mut is_shared = true;
        for lora in &parts {
            is_shared &= match lora {
                Some(lora) if std::ptr::eq(*lora, first) => true,
                Some(lora) if lora.alpha == first.alpha && lora.scaling == first.scaling => {
                    same_bits(&values(&lora.a)?, &a)
                }
                Some(_) | None => false,
            };
        }
        if is_shared {
            let rank = first.rank();
            let mut b = vec![0.0; self.outputs * rank];
            for (source, lora) in self.parts.iter().zip(&parts) {
                let Some(lora) = lora else { continue };
                place(&mut b, rank, source, 0, &values(&lora.b)?, lora.rank(), 1.0);
            }
            let (alpha, scaling) = (first.alpha, first.scaling);
            let scales = Scales::Kept;
            return Ok(Some(Change { a, b, rank, alpha, scaling, magnitude, blocks: None, scales }));
        }

        let ranks: Vec<usize> = parts.iter().map(|lora| lora.map_or(0, Lora::rank)).collect();
        let rank = ranks.iter().sum();
        let mut change = Change {
            a: Vec::with_capacity(rank * self.inputs),
            b: vec![0.0; self.outputs * rank],
            rank,
            alpha: 0.0,
            scaling: first.scaling,
            magnitude,
            blocks: None,
            scales: Scales::Kept,
        };
        let scale = scale(first.alpha, first.rank(), first.scaling);
        let alpha = match first.scaling {
            Scaling::Rank => scale * rank as f64,
            Scaling::RootOfRank => scale * (rank as f64).sqrt(),
        };
        change.alpha = alpha as f32;
        if f64::from(change.alpha) != alpha {
            change.scales = Scales::Rounded;
        }
        let mut column = 0;
        for (source, lora) in self.parts.iter().zip(&parts) {
            let Some(lora) = lora else { continue };
            change.a.extend(values(&lora.a)?);
            let factor = self::scale(lora.alpha, lora.rank(), lora.scaling) / scale;
            if !is_power_of_two(factor) {
                change.scales = Scales::Rounded;
            }
            place(&mut change.b, rank, source, column, &values(&lora.b)?, lora.rank(), factor as f32);
            column += lora.rank();
        }
        change.blocks = Some(ranks);
        Ok(Some(change))
    }

    /// The lengths of all outputs, as the file has them.
    fn magnitude(&self, parts: &[Option<&Lora>]) -> Result<Option<Vec<f32>>> {
        fn own<'a>(lora: &Option<&'a Lora>) -> Option<&'a Magnitude> {
            lora.and_then(|lora| lora.magnitude.as_ref())
        }
        if parts.iter().all(|lora| own(lora).is_none()) {
            return Ok(None);
        }
        let mut all = vec![0.0; self.outputs];
        for (source, lora) in self.parts.iter().zip(parts) {
            let Some(magnitude) = own(lora).filter(|magnitude| magnitude.m.len() == source.rows()) else {
                fail!(
                    "`{}` holds several projections, and only some have lengths (DoRA); expected all of them to be targets",
                    self.name
                )
            };
            for (row, m) in magnitude.m.read()?.iter().enumerate() {
                all[source.stored_row(row)] = *m;
            }
        }
        Ok(Some(all))
    }
}

/// The α with which a block of this rank has the scale of the whole.
fn alpha_of_rank(change: &Change, rank: usize) -> f32 {
    let share = rank as f64 / change.rank as f64;
    let alpha = f64::from(change.alpha);
    match change.scaling {
        Scaling::Rank => (alpha * share) as f32,
        Scaling::RootOfRank => (alpha * share.sqrt()) as f32,
    }
}

/// What a change is multiplied with, before it is rounded.
fn scale(alpha: f32, rank: usize, scaling: Scaling) -> f64 {
    let (alpha, rank) = (f64::from(alpha), rank as f64);
    match scaling {
        Scaling::Rank => alpha / rank,
        Scaling::RootOfRank => alpha / rank.sqrt(),
    }
}

/// Whether a product with it is exact (but at the ends of the range).
pub(super) fn is_power_of_two(factor: f64) -> bool {
    let mantissa = factor.to_bits() << 12;
    factor.is_normal() && factor > 0.0 && mantissa == 0
}

/// Puts the rows of one projection's b, times a factor, where the module has them, from column `column` on.
fn place(
    b: &mut [f32],
    width: usize,
    source: &Source,
    column: usize,
    values: &[f32],
    rank: usize,
    factor: f32,
) {
    for (row, values) in values.chunks_exact(rank).enumerate() {
        let at = source.stored_row(row) * width + column;
        for (b, value) in b[at..at + rank].iter_mut().zip(values) {
            *b = value * factor;
        }
    }
}

/// A matrix row by row.
///
/// # Errors
/// What a device meets that has it.
pub(crate) fn values(weight: &Weight) -> Result<Vec<f32>> {
    let matrix = weight.read()?;
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in out.chunks_exact_mut(matrix.cols().max(1)).enumerate() {
        matrix.decode_row(row, out);
    }
    Ok(out)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
