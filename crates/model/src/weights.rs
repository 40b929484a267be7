//! A decoder's parameters in memory, packed for the kernels.

use crate::arch::sources;
use crate::arch::{Architecture, identify};
use crate::config::{DecoderConfig, Head, Positions};
use crate::error::{Context, Result, fail};
use crate::names::{Kind, Part, Place, Source, TensorId, canonical};
use crate::quantize::{Informed, Mix, mix, round};
use std::collections::HashMap;
use wootz_formats::Checkpoint;
use wootz_kernels::exec::{Exec, Floats, Weight};
use wootz_kernels::{DType, Matrix, Pool, Precision, panels, quant};

/// A projection `y = x wᵀ + b`.
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Weight,
    /// `[outputs]`.
    pub bias: Option<Floats>,
}

/// A norm's factors, and LayerNorm's bias.
pub struct NormWeights {
    /// `[C]`, or `[D]` for the norms of q and k.
    pub weight: Floats,
    /// `[C]`; LayerNorm only.
    pub bias: Option<Floats>,
}

/// One block's parameters; what a configuration does not have is `None`.
pub struct Layer {
    /// Before attention.
    pub attn_norm: NormWeights,
    /// Queries, keys, values.
    pub qkv: [Linear; 3],
    /// Norms over the heads of q and k.
    pub qk_norm: Option<[NormWeights; 2]>,
    /// Attention's output.
    pub o: Linear,
    /// After attention.
    pub attn_post_norm: Option<NormWeights>,
    /// Before the MLP.
    pub mlp_norm: NormWeights,
    /// The gate, where the MLP has one.
    pub gate: Option<Linear>,
    /// Widening projection.
    pub up: Linear,
    /// Narrowing projection.
    pub down: Linear,
    /// After the MLP.
    pub mlp_post_norm: Option<NormWeights>,
}

/// All parameters.
pub struct Weights {
    /// `[V, C]`.
    pub embed: Weight,
    /// `[max_seq, C]`.
    pub positions: Option<Weight>,
    /// The blocks.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub norm: NormWeights,
    /// `[V, C]`, where it is not the embedding.
    pub head: Option<Weight>,
}

impl Weights {
    /// Reads and packs every tensor of an open model.
    ///
    /// # Errors
    /// What [`identify`] and [`sources`] find; a matrix whose type cannot be transposed.
    pub fn load(
        checkpoint: &Checkpoint,
        pool: &Pool,
        precision: Precision,
    ) -> Result<(&'static Architecture, DecoderConfig, Weights)> {
        Self::load_as(checkpoint, pool, precision, None)
    }

    /// [`Weights::load`], with the matrices rounded to the types of a mixture on the way. Those that are quantised
    /// already stay as they are.
    ///
    /// # Errors
    /// As [`Weights::load`], and a value that is not finite.
    pub fn load_as(
        checkpoint: &Checkpoint,
        pool: &Pool,
        precision: Precision,
        mix: Option<Mix>,
    ) -> Result<(&'static Architecture, DecoderConfig, Weights)> {
        let (architecture, config) = identify(checkpoint)?;
        let sources = sources(architecture, &config, checkpoint)?;
        checkpoint.read_ahead();
        let by_id: HashMap<TensorId, &Source> = sources.iter().map(|source| (source.to, source)).collect();
        let loader = Loader { checkpoint, pool, precision, sources: by_id, config: &config, mix };
        let weights = loader.all(&config).context(|| checkpoint.path().display().to_string())?;
        Ok((architecture, config, weights))
    }

    /// Parameters that `fill` makes up, matrices rounded to `dtype` (f32, f16 or bf16; learned positions stay f32):
    /// `fill(id, first, out)` sets the elements of a tensor from number `first` on, row-major, in its canonical shape. It
    /// is called for parts of tensors, from all threads.
    pub fn generate(
        config: &DecoderConfig,
        pool: &Pool,
        dtype: DType,
        fill: impl Fn(TensorId, usize, &mut [f32]) + Sync,
    ) -> Weights {
        let shapes: HashMap<TensorId, Vec<usize>> = canonical(config).into_iter().collect();
        let generator = Generator { shapes, pool, dtype, fill };
        let matrix = |place| generator.matrix(place);
        let layers = (0..config.n_layers()).map(|index| generator.layer(index)).collect();
        Weights {
            embed: matrix(Place::Embed),
            positions: match config.positions {
                Positions::Learned => Some(matrix(Place::PosEmbed)),
                Positions::Rotary => None,
            },
            layers,
            norm: generator.norm(Place::FinalNorm),
            head: match config.head {
                Head::Tied => None,
                Head::Untied => Some(matrix(Place::Head)),
            },
        }
    }

    /// Bytes of all parameters in memory.
    pub fn bytes(&self) -> usize {
        self.bytes_of(|_| true)
    }

    /// Bytes of the parameters in memory that are at some places; a block is at all of its places or at none.
    pub fn bytes_of(&self, has: impl Fn(Place) -> bool) -> usize {
        let linear =
            |linear: &Linear| linear.weight.bytes() + 4 * linear.bias.as_ref().map_or(0, Floats::len);
        let norm = |norm: &NormWeights| 4 * (norm.weight.len() + norm.bias.as_ref().map_or(0, Floats::len));
        let layer = |layer: &Layer| {
            let norms = [Some(&layer.attn_norm), Some(&layer.mlp_norm)];
            let optional = [layer.attn_post_norm.as_ref(), layer.mlp_post_norm.as_ref()];
            layer.qkv.iter().map(linear).sum::<usize>()
                + [Some(&layer.o), layer.gate.as_ref(), Some(&layer.up), Some(&layer.down)]
                    .into_iter()
                    .flatten()
                    .map(linear)
                    .sum::<usize>()
                + norms.into_iter().chain(optional).flatten().map(norm).sum::<usize>()
                + layer.qk_norm.iter().flatten().map(norm).sum::<usize>()
        };
        let matrix = |place, matrix: Option<&Weight>| matrix.filter(|_| has(place)).map_or(0, Weight::bytes);
        let layers = self.layers.iter().enumerate();
        matrix(Place::Embed, Some(&self.embed))
            + matrix(Place::PosEmbed, self.positions.as_ref())
            + layers.filter(|(i, _)| has(Place::Layer(*i, Part::O))).map(|(_, of)| layer(of)).sum::<usize>()
            + if has(Place::FinalNorm) { norm(&self.norm) } else { 0 }
            + matrix(Place::Head, self.head.as_ref())
    }

    /// The matrix of the output head.
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// The bytes that one decoded token reads: every matrix once, the embedding only as the head.
    pub fn bytes_per_token(&self) -> usize {
        let unused = if self.head.is_some() { self.embed.bytes() } else { 0 };
        self.bytes() - unused - self.positions.as_ref().map_or(0, Weight::bytes)
    }
}

/// One parameter, to be read.
enum Values<'a> {
    Matrix(&'a Weight),
    Vector(&'a Floats),
}

/// One parameter, to be changed.
pub enum Parameter<'a> {
    /// A projection's weight, an embedding or a table.
    Matrix(&'a mut Weight),
    /// A norm's factors, or a bias.
    Vector(&'a mut Floats),
}

impl Weights {
    /// Every parameter, in the order of [`canonical`].
    pub fn parameters_mut(&mut self) -> Vec<(TensorId, Parameter<'_>)> {
        let mut all = Vec::new();
        all.push((TensorId::weight(Place::Embed), Parameter::Matrix(&mut self.embed)));
        if let Some(table) = &mut self.positions {
            all.push((TensorId::weight(Place::PosEmbed), Parameter::Matrix(table)));
        }
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.parameters_mut(index, &mut all);
        }
        self.norm.parameters_mut(Place::FinalNorm, &mut all);
        if let Some(head) = &mut self.head {
            all.push((TensorId::weight(Place::Head), Parameter::Matrix(head)));
        }
        all
    }

    /// Puts other values in the place of a parameter's: row-major in its canonical shape, in f32. Panics where there are
    /// more or fewer.
    ///
    /// # Errors
    /// What a device meets that has the parameter.
    pub(crate) fn replace(&mut self, pool: &Pool, id: TensorId, values: &[f32]) -> Result<()> {
        for (_, parameter) in self.parameters_mut().into_iter().filter(|(other, _)| *other == id) {
            match parameter {
                Parameter::Matrix(matrix) => {
                    let shape = [matrix.rows(), matrix.cols()];
                    matrix.replace(|_| Matrix::from_f32(pool, shape, values))?;
                }
                Parameter::Vector(vector) => vector.write(values)?,
            }
        }
        Ok(())
    }

    /// A parameter's values in f32, row-major in its canonical shape, in place of what `out` held.
    ///
    /// # Errors
    /// The decoder has no such parameter; what a device meets that has it.
    pub fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        match self.get(id) {
            Some(Values::Vector(values)) => out.extend_from_slice(&values.read()?),
            Some(Values::Matrix(matrix)) => {
                let matrix = matrix.read()?;
                out.resize(matrix.rows() * matrix.cols(), 0.0);
                for (row, out) in out.chunks_exact_mut(matrix.cols().max(1)).enumerate() {
                    matrix.decode_row(row, out);
                }
            }
            None => fail!("tensor `{id}` is missing"),
        }
        Ok(())
    }

    /// A block's projection; `None` if there is none at this place.
    pub(crate) fn linear(&self, place: Place) -> Option<&Linear> {
        match place {
            Place::Layer(index, part) => self.layers.get(index)?.linear(part),
            Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => None,
        }
    }

    /// One parameter; `None` if the decoder has none of this name.
    fn get<'s>(&'s self, id: TensorId) -> Option<Values<'s>> {
        let norm = |norm: &'s NormWeights| match id.kind {
            Kind::Weight => Some(&norm.weight),
            Kind::Bias => norm.bias.as_ref(),
            Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude => None,
        };
        match (id.place, id.kind) {
            (Place::Embed, Kind::Weight) => Some(Values::Matrix(&self.embed)),
            (Place::PosEmbed, Kind::Weight) => self.positions.as_ref().map(Values::Matrix),
            (Place::Head, Kind::Weight) => self.head.as_ref().map(Values::Matrix),
            (
                Place::Embed | Place::PosEmbed | Place::Head,
                Kind::Bias | Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude,
            ) => None,
            (Place::FinalNorm, _) => norm(&self.norm).map(Values::Vector),
            (Place::Layer(index, part), kind) => {
                let layer = self.layers.get(index)?;
                let vector = match part {
                    Part::Q | Part::K | Part::V | Part::O | Part::Gate | Part::Up | Part::Down => {
                        let linear = layer.linear(part)?;
                        return match kind {
                            Kind::Weight => Some(Values::Matrix(&linear.weight)),
                            Kind::Bias => linear.bias.as_ref().map(Values::Vector),
                            Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude => None,
                        };
                    }
                    Part::AttnNorm => norm(&layer.attn_norm),
                    Part::QNorm => norm(&layer.qk_norm.as_ref()?[0]),
                    Part::KNorm => norm(&layer.qk_norm.as_ref()?[1]),
                    Part::AttnPostNorm => norm(layer.attn_post_norm.as_ref()?),
                    Part::MlpNorm => norm(&layer.mlp_norm),
                    Part::MlpPostNorm => norm(layer.mlp_post_norm.as_ref()?),
                };
                vector.map(Values::Vector)
            }
        }
    }

    /// Brings the matrices that `which` says yes to, by place and type, into another floating-point type: rounded where
    /// that has fewer bits. Positions stay in f32, for nothing is multiplied with them.
    ///
    /// # Errors
    /// What a device meets that has some of them.
    pub fn convert(&mut self, pool: &Pool, dtype: DType, which: impl Fn(Place, DType) -> bool) -> Result<()> {
        let mut values = Vec::new();
        for (id, parameter) in self.parameters_mut() {
            let Parameter::Matrix(matrix) = parameter else { continue };
            if !which(id.place, matrix.dtype()) {
                continue;
            }
            let dtype = if id.place == Place::PosEmbed { DType::F32 } else { dtype };
            if matrix.dtype() == dtype {
                continue;
            }
            let shape = [matrix.rows(), matrix.cols()];
            values.resize(panels::len(shape), 0.0);
            matrix.replace(|matrix| {
                matrix.decode(pool, &mut values);
                let mut converted = Matrix::zeroed(dtype, shape);
                converted.set(pool, &values);
                converted
            })?;
        }
        Ok(())
    }

    /// Moves the blocks from number `first` on to where `exec` computes, and the rest of the network with them as far as it
    /// can: a head of its own goes with the last block, an embedding (and with it a head that is the embedding) only when
    /// all blocks go.
    ///
    /// # Errors
    /// What the device meets. Some parameters may have moved then.
    pub(crate) fn bring(&mut self, exec: Exec, first: usize) -> Result<()> {
        for layer in self.layers.iter_mut().skip(first) {
            layer.bring(exec)?;
        }
        let (is_all, is_some) = (first == 0, first < self.layers.len());
        if is_all {
            self.embed.bring(exec)?;
            self.positions.iter_mut().try_for_each(|table| table.bring(exec))?;
        }
        if let Some(head) = self.head.as_mut().filter(|_| is_some) {
            head.bring(exec)?;
        }
        if is_all || is_some && self.head.is_some() {
            self.norm.bring(exec)?;
        }
        Ok(())
    }
}

impl Layer {
    /// A projection; `None` if this block has none there.
    pub fn linear(&self, part: Part) -> Option<&Linear> {
        let [q, k, v] = &self.qkv;
        match part {
            Part::Q => Some(q),
            Part::K => Some(k),
            Part::V => Some(v),
            Part::O => Some(&self.o),
            Part::Gate => self.gate.as_ref(),
            Part::Up => Some(&self.up),
            Part::Down => Some(&self.down),
            Part::AttnNorm
            | Part::QNorm
            | Part::KNorm
            | Part::AttnPostNorm
            | Part::MlpNorm
            | Part::MlpPostNorm => None,
        }
    }

    fn bring(&mut self, exec: Exec) -> Result<()> {
        let [q, k, v] = &mut self.qkv;
        for linear in [q, k, v, &mut self.o, &mut self.up, &mut self.down].into_iter().chain(&mut self.gate) {
            linear.weight.bring(exec)?;
            linear.bias.iter_mut().try_for_each(|bias| exec.bring(bias))?;
        }
        let norms = [&mut self.attn_norm, &mut self.mlp_norm].into_iter();
        let norms = norms.chain(&mut self.attn_post_norm).chain(&mut self.mlp_post_norm);
        for norm in norms.chain(self.qk_norm.iter_mut().flatten()) {
            norm.bring(exec)?;
        }
        Ok(())
    }

    fn parameters_mut<'a>(&'a mut self, index: usize, all: &mut Vec<(TensorId, Parameter<'a>)>) {
        let at = |part| Place::Layer(index, part);
        let [q, k, v] = &mut self.qkv;
        self.attn_norm.parameters_mut(at(Part::AttnNorm), all);
        q.parameters_mut(at(Part::Q), all);
        k.parameters_mut(at(Part::K), all);
        v.parameters_mut(at(Part::V), all);
        if let Some([q_norm, k_norm]) = &mut self.qk_norm {
            q_norm.parameters_mut(at(Part::QNorm), all);
            k_norm.parameters_mut(at(Part::KNorm), all);
        }
        self.o.parameters_mut(at(Part::O), all);
        if let Some(norm) = &mut self.attn_post_norm {
            norm.parameters_mut(at(Part::AttnPostNorm), all);
        }
        self.mlp_norm.parameters_mut(at(Part::MlpNorm), all);
        if let Some(gate) = &mut self.gate {
            gate.parameters_mut(at(Part::Gate), all);
        }
        self.up.parameters_mut(at(Part::Up), all);
        self.down.parameters_mut(at(Part::Down), all);
        if let Some(norm) = &mut self.mlp_post_norm {
            norm.parameters_mut(at(Part::MlpPostNorm), all);
        }
    }
}

impl Linear {
    fn parameters_mut<'a>(&'a mut self, place: Place, all: &mut Vec<(TensorId, Parameter<'a>)>) {
        all.push((TensorId::weight(place), Parameter::Matrix(&mut self.weight)));
        if let Some(bias) = &mut self.bias {
            all.push((TensorId::bias(place), Parameter::Vector(bias)));
        }
    }
}

impl NormWeights {
    fn bring(&mut self, exec: Exec) -> Result<()> {
        exec.bring(&mut self.weight)?;
        self.bias.iter_mut().try_for_each(|bias| exec.bring(bias))?;
        Ok(())
    }

    fn parameters_mut<'a>(&'a mut self, place: Place, all: &mut Vec<(TensorId, Parameter<'a>)>) {
        all.push((TensorId::weight(place), Parameter::Vector(&mut self.weight)));
        if let Some(bias) = &mut self.bias {
            all.push((TensorId::bias(place), Parameter::Vector(bias)));
        }
    }
}

struct Generator<'a, F> {
    shapes: HashMap<TensorId, Vec<usize>>,
    pool: &'a Pool,
    dtype: DType,
    fill: F,
}

impl<F: Fn(TensorId, usize, &mut [f32]) + Sync> Generator<'_, F> {
    fn layer(&self, index: usize) -> Layer {
        let at = |part| Place::Layer(index, part);
        let has = |part| self.shapes.contains_key(&TensorId::weight(at(part)));
        let linear = |part| self.linear(at(part));
        let norm = |part| self.norm(at(part));
        Layer {
            attn_norm: norm(Part::AttnNorm),
            qkv: [linear(Part::Q), linear(Part::K), linear(Part::V)],
            qk_norm: has(Part::QNorm).then(|| [norm(Part::QNorm), norm(Part::KNorm)]),
            o: linear(Part::O),
            attn_post_norm: has(Part::AttnPostNorm).then(|| norm(Part::AttnPostNorm)),
            mlp_norm: norm(Part::MlpNorm),
            gate: has(Part::Gate).then(|| linear(Part::Gate)),
            up: linear(Part::Up),
            down: linear(Part::Down),
            mlp_post_norm: has(Part::MlpPostNorm).then(|| norm(Part::MlpPostNorm)),
        }
    }

    fn linear(&self, place: Place) -> Linear {
        Linear { weight: self.matrix(place), bias: self.vector(TensorId::bias(place)).map(Floats::from) }
    }

    fn norm(&self, place: Place) -> NormWeights {
        let weight = self.vector(TensorId::weight(place)).unwrap_or_default();
        let bias = self.vector(TensorId::bias(place)).map(Floats::from);
        NormWeights { weight: weight.into(), bias }
    }

    fn vector(&self, id: TensorId) -> Option<Vec<f32>> {
        let mut values = vec![0.0; self.shapes.get(&id)?[0]];
        (self.fill)(id, 0, &mut values);
        Some(values)
    }

    /// Panel by panel: 32 rows are made up, and interleaved.
    fn matrix(&self, place: Place) -> Weight {
        let id = TensorId::weight(place);
        let [rows, cols] = match self.shapes.get(&id).map(Vec::as_slice) {
            Some(&[rows, cols]) => [rows, cols],
            _ => [0, 0],
        };
        let mut matrix = Matrix::zeroed(DType::F32, [rows, cols]);
        if let Some(values) = matrix.values_mut().filter(|values| !values.is_empty()) {
            self.pool.for_each_row(values, panels::LANES * cols, 1, |panel, values| {
                let first = panel * panels::LANES;
                let count = panels::LANES.min(rows - first);
                let mut row_major = vec![0.0; count * cols];
                (self.fill)(id, first * cols, &mut row_major);
                for (row, from) in row_major.chunks_exact(cols).enumerate() {
                    for (col, value) in from.iter().enumerate() {
                        values[panels::index(cols, row, col)] = *value;
                    }
                }
            });
        }
        if self.dtype == DType::F32 || place == Place::PosEmbed {
            return matrix.into();
        }
        let mut rounded = Matrix::zeroed(self.dtype, [rows, cols]);
        rounded.set(self.pool, matrix.values_mut().unwrap_or_default());
        rounded.into()
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    pool: &'a Pool,
    precision: Precision,
    sources: HashMap<TensorId, &'a Source>,
    config: &'a DecoderConfig,
    mix: Option<Mix>,
}

impl Loader<'_> {
    fn all(&self, config: &DecoderConfig) -> Result<Weights> {
        let embed = self.matrix(TensorId::weight(Place::Embed))?;
        let positions = match config.positions {
            Positions::Learned => Some(self.matrix(TensorId::weight(Place::PosEmbed))?),
            Positions::Rotary => None,
        };
        let layers = (0..config.n_layers()).map(|index| self.layer(index)).collect::<Result<_>>()?;
        let head = match config.head {
            Head::Tied => None,
            Head::Untied => Some(self.matrix(TensorId::weight(Place::Head))?),
        };
        Ok(Weights { embed, positions, layers, norm: self.norm(Place::FinalNorm)?, head })
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let at = |part| Place::Layer(index, part);
        let has = |part| self.sources.contains_key(&TensorId::weight(at(part)));
        let linear = |part| self.linear(at(part));
        let norm = |part| self.norm(at(part));
        let optional_norm = |part| if has(part) { norm(part).map(Some) } else { Ok(None) };
        Ok(Layer {
            attn_norm: norm(Part::AttnNorm)?,
            qkv: [linear(Part::Q)?, linear(Part::K)?, linear(Part::V)?],
            qk_norm: match optional_norm(Part::QNorm)? {
                Some(q) => Some([q, norm(Part::KNorm)?]),
                None => None,
            },
            o: linear(Part::O)?,
            attn_post_norm: optional_norm(Part::AttnPostNorm)?,
            mlp_norm: norm(Part::MlpNorm)?,
            gate: if has(Part::Gate) { Some(linear(Part::Gate)?) } else { None },
            up: linear(Part::Up)?,
            down: linear(Part::Down)?,
            mlp_post_norm: optional_norm(Part::MlpPostNorm)?,
        })
    }

    fn linear(&self, place: Place) -> Result<Linear> {
        Ok(Linear {
            weight: self.matrix(TensorId::weight(place))?,
            bias: self.vector(TensorId { place, kind: Kind::Bias })?.map(Floats::from),
        })
    }

    fn norm(&self, place: Place) -> Result<NormWeights> {
        let Some(weight) = self.vector(TensorId::weight(place))? else {
            fail!("tensor `{}` is missing", TensorId::weight(place))
        };
        let bias = self.vector(TensorId { place, kind: Kind::Bias })?.map(Floats::from);
        Ok(NormWeights { weight: weight.into(), bias })
    }

    fn matrix(&self, id: TensorId) -> Result<Weight> {
        let Some(source) = self.sources.get(&id) else { fail!("tensor `{id}` is missing") };
        let Some(tensor) = self.checkpoint.tensor(&source.name) else {
            fail!("tensor `{}` is missing", source.name)
        };
        let shape = [source.rows(), source.cols()];
        let dtype = tensor.dtype;
        let Some(row_bytes) = dtype.bytes(&[shape[1]]).filter(|_| DType::weights().any(|d| d == dtype))
        else {
            fail!(
                "tensor `{}`: {dtype} is no type of weights, or {} values no whole blocks",
                source.name,
                shape[1]
            )
        };
        if !source.transform.transpose {
            let packed = self.pack(source, dtype, |row| {
                let at = source.stored_row(row) * row_bytes;
                &tensor.bytes[at..at + row_bytes]
            });
            return packed.map(Weight::from);
        }
        if dtype.block_len() != 1 {
            fail!("tensor `{}`: {dtype} blocks cannot be transposed", source.name)
        }
        let size = dtype.block_bytes();
        let mut rows = Vec::with_capacity(shape[0] * row_bytes);
        for row in 0..shape[0] {
            for col in 0..shape[1] {
                let at = source.stored_element(row, col) * size;
                rows.extend_from_slice(&tensor.bytes[at..at + size]);
            }
        }
        self.pack(source, dtype, |row| &rows[row * row_bytes..(row + 1) * row_bytes]).map(Weight::from)
    }

    /// Packs a matrix whose rows are in `dtype`, in that or in the type that the mixture has for it.
    fn pack<'r>(
        &self,
        source: &Source,
        dtype: DType,
        row: impl Fn(usize) -> &'r [u8] + Sync,
    ) -> Result<Matrix> {
        let [rows, cols] = [source.rows(), source.cols()];
        let wanted = self.mix.and_then(|mix| {
            let tensor = mix::Tensor::of(self.config, std::slice::from_ref(source))?;
            Some(mix.dtype(&tensor, Informed::No))
        });
        let Some(wanted) = wanted.filter(|&wanted| wanted != dtype && dtype.block_len() == 1) else {
            return Ok(Matrix::pack(self.pool, dtype, [rows, cols], self.precision, row));
        };
        let whose = || format!("tensor `{}`", source.name);
        let (mut values, mut bytes) = (vec![0.0; rows * cols], Vec::new());
        for (i, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            quant::decode(dtype, row(i), values).context(whose)?;
        }
        round(self.pool, wanted, &values, cols, None, &mut bytes).context(whose)?;
        let row_bytes = bytes.len() / rows.max(1);
        Ok(Matrix::pack(self.pool, wanted, [rows, cols], self.precision, |row| {
            &bytes[row * row_bytes..(row + 1) * row_bytes]
        }))
    }

    /// A vector in f32; `None` if the model has none there.
    fn vector(&self, id: TensorId) -> Result<Option<Vec<f32>>> {
        let Some(source) = self.sources.get(&id) else { return Ok(None) };
        let Some(tensor) = self.checkpoint.tensor(&source.name) else {
            fail!("tensor `{}` is missing", source.name)
        };
        let size = tensor.dtype.block_bytes();
        if tensor.dtype.block_len() != 1 {
            fail!("tensor `{}`: expected plain numbers, found {}", source.name, tensor.dtype)
        }
        let bytes: Vec<u8> = (0..source.rows())
            .flat_map(|row| &tensor.bytes[source.stored_element(row, 0) * size..][..size])
            .copied()
            .collect();
        let mut values = vec![0.0; source.rows()];
        quant::decode(tensor.dtype, &bytes, &mut values).context(|| format!("tensor `{}`", source.name))?;
        Ok(Some(values))
    }
}
