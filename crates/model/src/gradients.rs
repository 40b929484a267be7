//! The gradients of a decoder's parameters.

use crate::config::{DecoderConfig, Head};
use crate::decoder::Model;
use crate::error::Result;
use crate::lora::{Adapter, Lora};
use crate::names::{Place, Source, TensorId, canonical};
use std::collections::HashMap;
use wootz_kernels::exec::Values;
use wootz_kernels::ops::Write;
use wootz_kernels::panels;

/// A gradient for each parameter that is trained: a matrix `[n, k]` in f32 panels `[n/32][k][32]`, as the weights lie
/// (see [`wootz_kernels::panels`]); everything else as it is. Each is where its parameter is. A bias is trained if its weight
/// is.
pub struct Gradients {
    /// In the order of [`canonical`], an adapter's behind the others.
    order: Vec<TensorId>,
    /// By [`Kind`].
    tensors: [HashMap<Place, Values>; 5],
    /// Those that no product overwrites, so that a new sum begins with zeros.
    added: Vec<TensorId>,
    write: Write,
}

impl Gradients {
    /// Zeros for the parameters at the places that `trained` says yes to.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new(model: &Model, trained: impl Fn(Place) -> bool) -> Result<Gradients> {
        let tensors = canonical(model.config()).into_iter().filter(|(id, _)| trained(id.place));
        Gradients::of(model, tensors)
    }

    /// Zeros for the parameters of an adapter, and those beside it that `trained` says yes to.
    ///
    /// # Errors
    /// A device without memory.
    pub fn of_adapter(
        model: &Model,
        adapter: &Adapter,
        trained: impl Fn(Place) -> bool,
    ) -> Result<Gradients> {
        // What is given a length is not trained itself: to its own gradient that length would be no constant.
        let is_fixed = |place| adapter.parts.get(&place).is_some_and(|lora: &Lora| lora.magnitude.is_some());
        let all = canonical(model.config()).into_iter();
        let others = all.filter(|(id, _)| trained(id.place) && !is_fixed(id.place));
        Gradients::of(model, others.chain(adapter.tensors()))
    }

    fn of(model: &Model, tensors: impl Iterator<Item = (TensorId, Vec<usize>)>) -> Result<Gradients> {
        let mut gradients = Gradients {
            order: Vec::new(),
            tensors: Default::default(),
            added: Vec::new(),
            write: Write::Set,
        };
        for (id, shape) in tensors {
            let values = Values::zeroed(model.exec_at(id.place), &shape)?;
            gradients.order.push(id);
            gradients.tensors[id.kind as usize].insert(id.place, values);
            let is_product = match id.place {
                Place::Embed => model.config().head == Head::Tied,
                Place::PosEmbed | Place::FinalNorm => false,
                Place::Head => true,
                Place::Layer(_, part) => part.is_projection(),
            };
            if !is_product {
                gradients.added.push(id);
            }
        }
        Ok(gradients)
    }

    /// The first place of the forward pass that has a gradient; `None` if none has. Backward goes no further.
    pub(crate) fn first(&self) -> Option<Place> {
        self.order.iter().map(|id| id.place).min()
    }

    /// Bytes that [`Gradients::new`] takes for all parameters of some places.
    pub fn bytes(config: &DecoderConfig, of: impl Fn(Place) -> bool) -> usize {
        let all = canonical(config);
        all.iter().filter(|(id, _)| of(id.place)).map(|(_, shape)| 4 * panel_len(shape)).sum()
    }

    /// Begins a backward pass, whose gradients replace those that are there, or are added to them.
    ///
    /// # Errors
    /// What a device meets.
    pub fn begin(&mut self, write: Write) -> Result<()> {
        self.write = write;
        if write == Write::Set {
            for id in self.added.clone() {
                self.get_mut(id).map_or(Ok(()), Values::clear)?;
            }
        }
        Ok(())
    }

    /// Whether products replace or add.
    pub(crate) fn write(&self) -> Write {
        self.write
    }

    /// One gradient; `None` if the parameter is not trained.
    pub fn get(&self, id: TensorId) -> Option<&Values> {
        self.tensors[id.kind as usize].get(&id.place)
    }

    /// One gradient; `None` if the parameter is not trained.
    pub fn get_mut(&mut self, id: TensorId) -> Option<&mut Values> {
        self.tensors[id.kind as usize].get_mut(&id.place)
    }

    /// The gradients of weight and bias at each of several different places. Panics when two are the same.
    pub(crate) fn at<const N: usize>(&mut self, places: [Place; N]) -> [Pair<'_>; N] {
        let keys = places.each_ref();
        let [weights, biases, ..] = &mut self.tensors;
        let mut weights = weights.get_disjoint_mut(keys).into_iter();
        let mut biases = biases.get_disjoint_mut(keys).into_iter();
        std::array::from_fn(|_| Pair { weight: weights.next().flatten(), bias: biases.next().flatten() })
    }

    /// All gradients, in the order of [`canonical`], an adapter's behind the others.
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, &Values)> + Clone {
        self.order.iter().filter_map(|&id| Some((id, self.get(id)?)))
    }

    /// The gradients as a file holds the parameters: under its names, in its orientation and with its padding, whose
    /// gradient is 0. `sources` say where in the file each parameter is.
    ///
    /// # Errors
    /// What a device meets that has some of them.
    pub fn in_file(&self, sources: &[Source]) -> Result<Vec<Stored>> {
        let mut stored: Vec<Stored> = Vec::new();
        let mut index_of: HashMap<&str, usize> = HashMap::new();
        for source in sources {
            let Some(gradient) = self.get(source.to) else { continue };
            let gradient = gradient.read()?;
            let index = *index_of.entry(&source.name).or_insert_with(|| {
                let values = vec![0.0; source.stored.iter().product()];
                stored.push(Stored { name: source.name.clone(), shape: source.stored.clone(), values });
                stored.len() - 1
            });
            let values = &mut stored[index].values;
            for row in 0..source.rows() {
                for col in 0..source.cols() {
                    let is_matrix = source.shape.len() == 2;
                    let at = if is_matrix { panels::index(source.cols(), row, col) } else { row };
                    values[source.stored_element(row, col)] = gradient[at];
                }
            }
        }
        Ok(stored)
    }
}

/// A tensor as a file holds it.
pub struct Stored {
    /// The file's name of it.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// The gradients at one place, as far as there are any.
pub(crate) struct Pair<'a> {
    pub weight: Option<&'a mut Values>,
    pub bias: Option<&'a mut Values>,
}

/// Elements of a tensor of this canonical shape, a matrix in panels.
fn panel_len(shape: &[usize]) -> usize {
    match shape {
        &[rows, cols] => panels::len([rows, cols]),
        other => other.iter().product(),
    }
}
