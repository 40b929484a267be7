//! The parameters of a model that is loaded, in canonical form.

use wootz_kernels::Matrix;

use super::Tensors;
use crate::error::{Result, fail};
use crate::names::{Kind, Part, Place, TensorId};
use crate::weights::{Linear, NormWeights, Weights};

/// Block formats are decoded; the others come back bit for bit.
impl Tensors for Weights {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        let Some(values) = self.find(id) else { fail!("the loaded model has no tensor `{id}`") };
        out.clear();
        match values {
            Values::Vector(values) => out.extend_from_slice(values),
            Values::Matrix(matrix) => {
                out.resize(matrix.rows() * matrix.cols(), 0.0);
                for (row, out) in out.chunks_exact_mut(matrix.cols().max(1)).enumerate() {
                    matrix.decode_row(row, out);
                }
            }
        }
        Ok(())
    }
}

enum Values<'a> {
    Matrix(&'a Matrix),
    Vector(&'a [f32]),
}

impl Weights {
    fn find<'a>(&'a self, TensorId { place, kind }: TensorId) -> Option<Values<'a>> {
        let table = |matrix: &'a Option<Matrix>| match kind {
            Kind::Weight => matrix.as_ref().map(Values::Matrix),
            Kind::Bias => None,
        };
        let norm = |norm: &'a NormWeights| match kind {
            Kind::Weight => Some(Values::Vector(&norm.weight)),
            Kind::Bias => norm.bias.as_deref().map(Values::Vector),
        };
        let linear = |linear: &'a Linear| match kind {
            Kind::Weight => Some(Values::Matrix(&linear.weight)),
            Kind::Bias => linear.bias.as_deref().map(Values::Vector),
        };
        match place {
            Place::Embed => (kind == Kind::Weight).then_some(Values::Matrix(&self.embed)),
            Place::PosEmbed => table(&self.positions),
            Place::Head => table(&self.head),
            Place::FinalNorm => norm(&self.norm),
            Place::Layer(index, part) => {
                let layer = self.layers.get(index)?;
                match part {
                    Part::AttnNorm => norm(&layer.attn_norm),
                    Part::Q => linear(&layer.qkv[0]),
                    Part::K => linear(&layer.qkv[1]),
                    Part::V => linear(&layer.qkv[2]),
                    Part::QNorm => norm(&layer.qk_norm.as_ref()?[0]),
                    Part::KNorm => norm(&layer.qk_norm.as_ref()?[1]),
                    Part::O => linear(&layer.o),
                    Part::AttnPostNorm => norm(layer.attn_post_norm.as_ref()?),
                    Part::MlpNorm => norm(&layer.mlp_norm),
                    Part::Gate => linear(layer.gate.as_ref()?),
                    Part::Up => linear(&layer.up),
                    Part::Down => linear(&layer.down),
                    Part::MlpPostNorm => norm(layer.mlp_post_norm.as_ref()?),
                }
            }
        }
    }
}
