//! The decoder as a graph: the forward pass of [`crate::reference`], with ONNX's operations for its loops.
//!
//! Beyond the symbols of [`crate::config`]: P tokens of the past, in the cache; S tokens that are new; T = P + S. Without a
//! cache T = S.
//!
//! Which token sees which is decided by positions alone. A token's position is the number of tokens before it, not counting
//! padding; so padding may stand anywhere, and the rows of a batch may have pasts of different lengths.

use std::collections::HashMap;

use wootz_formats::onnx::Dim;
use wootz_kernels::DType;

use super::graph::{Graph, Name};
use crate::config::{DecoderConfig, Head, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope};
use crate::names::{Part, Place, TensorId, canonical};
use crate::rope::frequencies;

/// Added to the score of a token that is not to be seen: beside it every score vanishes. It is finite, so that a row of
/// padding, which sees nothing, has a mean of something and no NaN that would spread.
const UNSEEN: f32 = -1e30;

/// Where the keys and values of earlier tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// There are none.
    None,
    /// They are inputs; they come out with the new ones after them.
    Given,
}

/// The graph of a decoder whose matrices are written in `dtype`. All numbers are F32 where something is computed.
pub(super) fn decoder(config: &DecoderConfig, cache: Cache, dtype: DType) -> Graph {
    let mut graph = Graph::default();
    let ids = graph.input("input_ids", DType::I64, &[BATCH, SEQUENCE]);
    let positions = TokenPositions::of(&mut graph, cache, &ids);
    let shapes = canonical(config).into_iter().collect();
    let (masks, turns) = (Vec::new(), Vec::new());
    let mut decoder = Decoder { config, cache, dtype, shapes, graph, positions, masks, turns };
    decoder.logits(&ids);
    decoder.graph
}

struct Decoder<'a> {
    config: &'a DecoderConfig,
    cache: Cache,
    /// Type of the matrices.
    dtype: DType,
    /// Of every weight, in canonical orientation.
    shapes: HashMap<TensorId, Vec<usize>>,
    graph: Graph,
    positions: TokenPositions,
    /// What is added to the scores `[B, 1, 1, S, T]`, for each window that a layer has.
    masks: Vec<(Option<usize>, Name)>,
    /// Cosine and sine `[B, S, 1, D/2]`, for each rotation that a layer has.
    turns: Vec<(Rope, [Name; 2])>,
}

/// Positions, as whole numbers.
#[derive(Clone)]
struct TokenPositions {
    /// Of all tokens, `[B, T]`.
    all: Name,
    /// Of the new ones, `[B, S]`.
    new: Name,
    /// 1 for a token, 0 for padding, `[B, T]`.
    tokens: Name,
}

const BATCH: Dim = Dim::Named("batch");
const SEQUENCE: Dim = Dim::Named("sequence");
const PAST: Dim = Dim::Named("past_sequence");
const TOTAL: Dim = Dim::Named("past_sequence + sequence");

impl TokenPositions {
    /// Padding has the position of the token before it.
    fn of(graph: &mut Graph, cache: Cache, ids: &Name) -> Self {
        graph.enter("positions");
        let tokens = match cache {
            Cache::None => graph.ones_like(ids),
            Cache::Given => graph.input("attention_mask", DType::I64, &[BATCH, TOTAL]),
        };
        let count = graph.sums(&tokens);
        let one = graph.int(1);
        let all = graph.subtract(&count, &one);
        let new = match cache {
            Cache::None => all.clone(),
            Cache::Given => graph.last_like(&all, ids),
        };
        TokenPositions { all, new, tokens }
    }
}

impl Decoder<'_> {
    /// From tokens to logits: `[B, S]` → `[B, S, V]`.
    fn logits(&mut self, ids: &Name) {
        let config = self.config;
        let mut x = self.embed(ids); // [B, S, C]
        for layer in 0..config.n_layers() {
            let at = |part| Place::Layer(layer, part);

            let n = self.norm(&x, at(Part::AttnNorm)); // [B, S, C]
            let a = self.attention(&n, layer); // [B, S, C]
            let a = self.after(a, at(Part::AttnPostNorm));
            x = self.graph.add(&x, &a);

            let n = self.norm(&x, at(Part::MlpNorm)); // [B, S, C]
            let m = self.mlp(&n, layer); // [B, S, C]
            let m = self.after(m, at(Part::MlpPostNorm));
            x = self.graph.add(&x, &m);
        }
        let n = self.norm(&x, Place::FinalNorm); // [B, S, C]
        self.graph.enter("head");
        let head = match config.head {
            Head::Tied => {
                let table = self.stored(TensorId::weight(Place::Embed)); // [V, C]
                let table = self.graph.transpose(&table, &[1, 0]);
                self.graph.cast(&table, self.dtype, DType::F32)
            }
            Head::Untied => self.matrix(Place::Head),
        };
        let mut logits = self.graph.product(&n, &head); // [B, S, V]
        if let Some(cap) = config.logit_softcap {
            let small = self.graph.scale(&logits, 1.0 / cap);
            let bent = self.graph.tanh(&small);
            let cap = self.graph.number(cap);
            logits = self.graph.multiply(&bent, &cap);
        }
        let shape = [BATCH, SEQUENCE, Dim::Fixed(config.vocab_size)];
        self.graph.output(logits, "logits", DType::F32, &shape);
        // First, where a program looks that knows no names.
        self.graph.model.outputs.rotate_right(1);
    }

    /// Each token's row of the table: `[B, S]` → `[B, S, C]`; with learned positions, the position's row is added.
    fn embed(&mut self, ids: &Name) -> Name {
        self.graph.enter("embed");
        let x = self.lookup(Place::Embed, ids);
        let x = self.graph.scale(&x, self.config.embedding_scale);
        match self.config.positions {
            Positions::Learned => {
                let positions = self.positions.new.clone();
                let rows = self.lookup(Place::PosEmbed, &positions);
                self.graph.add(&x, &rows)
            }
            Positions::Rotary => x,
        }
    }

    /// Causal self-attention: `[B, S, C]` → `[B, S, C]`.
    ///
    /// The H/G query heads that share a head of keys and values are a dimension of their own, which keys and values do
    /// not have: they are never copied.
    fn attention(&mut self, x: &Name, layer: usize) -> Name {
        let config = self.config;
        let (groups, width) = (config.n_kv_heads as i64, config.head_dim as i64);
        let shared = config.n_heads as i64 / groups; // H/G
        let q = self.heads(x, layer, Part::Q, config.n_heads); // [B, S, H, D]
        let k = self.heads(x, layer, Part::K, config.n_kv_heads); // [B, S, G, D]
        let v = self.heads(x, layer, Part::V, config.n_kv_heads);
        let q = self.placed(q, layer, Part::QNorm);
        let k = self.placed(k, layer, Part::KNorm);
        let mask = self.mask(config.layers[layer].window); // [B, 1, 1, S, T]

        self.graph.enter(format!("layers.{layer}.attention"));
        let g = &mut self.graph;
        let q = g.scale(&q, config.attention_scale);
        let q = g.reshape(&q, &[0, 0, groups, shared, width]);
        let q = g.transpose(&q, &[0, 2, 3, 1, 4]); // [B, G, H/G, S, D]
        let k = self.cached(&k, layer, "key"); // [B, G, T, D]
        let v = self.cached(&v, layer, "value");

        let g = &mut self.graph;
        let k = g.transpose(&k, &[0, 1, 3, 2]); // [B, G, D, T]
        let k = g.unsqueeze(&k, &[2]); // [B, G, 1, D, T]
        let v = g.unsqueeze(&v, &[2]); // [B, G, 1, T, D]
        let scores = g.product(&q, &k); // [B, G, H/G, S, T]
        let scores = g.add(&scores, &mask);
        let weights = g.softmax(&scores);
        let y = g.product(&weights, &v); // [B, G, H/G, S, D]
        let y = g.transpose(&y, &[0, 3, 1, 2, 4]); // [B, S, G, H/G, D]
        let y = g.reshape(&y, &[0, 0, config.q_dim() as i64]);
        self.linear(&y, Place::Layer(layer, Part::O))
    }

    /// Queries, keys or values: `[B, S, C]` → `[B, S, heads, D]`.
    fn heads(&mut self, x: &Name, layer: usize, part: Part, heads: usize) -> Name {
        let x = self.linear(x, Place::Layer(layer, part));
        self.graph.reshape(&x, &[0, 0, heads as i64, self.config.head_dim as i64])
    }

    /// Queries or keys, normed and turned as the model has it: `[B, S, heads, D]` → the same.
    fn placed(&mut self, x: Name, layer: usize, norm: Part) -> Name {
        let x = match self.config.qk_norm {
            QkNorm::None => x,
            QkNorm::PerHead => self.rms_norm(&x, Place::Layer(layer, norm)),
        };
        match &self.config.layers[layer].rope {
            None => x,
            Some(rope) => self.turn(&x, rope),
        }
    }

    /// Pairs `(i, i + D/2)` of a head turned by the angle of the token's position: `[B, S, heads, D]` → the same.
    fn turn(&mut self, x: &Name, rope: &Rope) -> Name {
        let [cos, sin] = self.cos_and_sin(rope); // [B, S, 1, D/2]
        let g = &mut self.graph;
        let [a, b] = g.halves(x, self.config.head_dim / 2);
        let (a_cos, b_sin) = (g.multiply(&a, &cos), g.multiply(&b, &sin));
        let (a_sin, b_cos) = (g.multiply(&a, &sin), g.multiply(&b, &cos));
        let (a, b) = (g.subtract(&a_cos, &b_sin), g.add(&b_cos, &a_sin));
        g.join(&a, &b, -1)
    }

    /// Computed of the positions, as transformers does: a table would be as long as the longest text.
    fn cos_and_sin(&mut self, rope: &Rope) -> [Name; 2] {
        if let Some((_, turn)) = self.turns.iter().find(|(known, _)| known == rope) {
            return turn.clone();
        }
        let (frequencies, magnitude) = frequencies(rope, self.config.head_dim); // [D/2]
        self.graph.enter("positions");
        let positions = self.positions.new.clone();
        let g = &mut self.graph;
        let positions = g.cast(&positions, DType::I64, DType::F32);
        let positions = g.unsqueeze(&positions, &[2, 3]); // [B, S, 1, 1]
        let frequencies = g.numbers(&frequencies);
        let angles = g.multiply(&positions, &frequencies); // [B, S, 1, D/2]
        let (cos, sin) = (g.cos(&angles), g.sin(&angles));
        let turn = [g.scale(&cos, magnitude), g.scale(&sin, magnitude)];
        self.turns.push((rope.clone(), turn.clone()));
        turn
    }

    /// Of tokens within the window before a token, and itself: 0. Of all others: something that is never seen.
    fn mask(&mut self, window: Option<usize>) -> Name {
        if let Some((_, mask)) = self.masks.iter().find(|(known, _)| *known == window) {
            return mask.clone();
        }
        self.graph.enter("positions");
        let TokenPositions { all, new, tokens } = self.positions.clone();
        let g = &mut self.graph;
        let zero = g.int(0);
        let tokens = g.greater(&tokens, &zero);
        let tokens = g.unsqueeze(&tokens, &[1]); // [B, 1, T]
        let keys = g.unsqueeze(&all, &[1]); // [B, 1, T]
        let queries = g.unsqueeze(&new, &[2]); // [B, S, 1]
        let before = g.less_or_equal(&keys, &queries); // [B, S, T]
        let mut seen = g.and(&before, &tokens);
        if let Some(window) = window {
            let window = g.int(i64::try_from(window).unwrap_or(i64::MAX));
            let first = g.subtract(&queries, &window);
            let near = g.greater(&keys, &first);
            seen = g.and(&seen, &near);
        }
        let (zero, unseen) = (g.number(0.0), g.number(UNSEEN));
        let mask = g.choose(&seen, &zero, &unseen);
        let mask = g.unsqueeze(&mask, &[1, 2]); // [B, 1, 1, S, T]
        self.masks.push((window, mask.clone()));
        mask
    }

    /// New keys or values after those of the past: `[B, S, G, D]` → `[B, G, T, D]`.
    fn cached(&mut self, new: &Name, layer: usize, what: &str) -> Name {
        let g = &mut self.graph;
        let new = g.transpose(new, &[0, 2, 1, 3]); // [B, G, S, D]
        match self.cache {
            Cache::None => new,
            Cache::Given => {
                let (heads, width) = (self.config.n_kv_heads, self.config.head_dim);
                let shape = |tokens| [BATCH, Dim::Fixed(heads), tokens, Dim::Fixed(width)];
                let past = format!("past_key_values.{layer}.{what}");
                let past = g.input(&past, DType::F32, &shape(PAST)); // [B, G, P, D]
                let all = g.join(&past, &new, 2);
                g.output(all, &format!("present.{layer}.{what}"), DType::F32, &shape(TOTAL))
            }
        }
    }

    /// Widen, bend, narrow: `[B, S, C]` → `[B, S, F]` → `[B, S, C]`. Where there is a gate, the bent gate multiplies.
    fn mlp(&mut self, x: &Name, layer: usize) -> Name {
        let at = |part| Place::Layer(layer, part);
        let up = self.linear(x, at(Part::Up)); // [B, S, F]
        let hidden = match self.config.mlp {
            Mlp::Gelu => self.gelu(&up),
            Mlp::SwiGlu => {
                let gate = self.linear(x, at(Part::Gate));
                let bent = self.graph.sigmoid(&gate);
                let bent = self.graph.multiply(&gate, &bent);
                self.graph.multiply(&bent, &up)
            }
            Mlp::GeGlu => {
                let gate = self.linear(x, at(Part::Gate));
                let bent = self.gelu(&gate);
                self.graph.multiply(&bent, &up)
            }
        };
        self.linear(&hidden, at(Part::Down))
    }

    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    fn gelu(&mut self, x: &Name) -> Name {
        let g = &mut self.graph;
        let cube = g.power(x, 3.0);
        let cube = g.scale(&cube, 0.044_715);
        let inner = g.add(x, &cube);
        let inner = g.scale(&inner, std::f32::consts::FRAC_2_PI.sqrt());
        let tanh = g.tanh(&inner);
        let one = g.number(1.0);
        let sum = g.add(&tanh, &one);
        let product = g.multiply(x, &sum);
        g.scale(&product, 0.5)
    }

    /// What half a block gives, on its way to x: Gemma norms it once more. `[B, S, C]` → `[B, S, C]`
    fn after(&mut self, out: Name, place: Place) -> Name {
        match self.config.placement {
            NormPlacement::Pre => out,
            NormPlacement::Sandwich => self.norm(&out, place),
        }
    }

    /// Every row brought to a size of about 1, then its columns scaled: `[B, S, C]` → `[B, S, C]`.
    fn norm(&mut self, x: &Name, place: Place) -> Name {
        match self.config.norm {
            Norm::LayerNorm => {
                self.enter(place);
                let weight = self.stored(TensorId::weight(place));
                let bias = self.stored(TensorId::bias(place));
                self.graph.layer_norm(x, &weight, &bias, self.config.norm_eps)
            }
            Norm::RmsNorm | Norm::RmsNormOnePlus => self.rms_norm(x, place),
        }
    }

    /// Over the innermost dimension. Weights are as `Norm::RmsNorm` has them: the 1 is in them already.
    fn rms_norm(&mut self, x: &Name, place: Place) -> Name {
        self.enter(place);
        let weight = self.stored(TensorId::weight(place));
        let g = &mut self.graph;
        let squares = g.power(x, 2.0);
        let mean = g.mean(&squares);
        let eps = g.number(self.config.norm_eps);
        let sum = g.add(&mean, &eps);
        let size = g.sqrt(&sum);
        let normed = g.divide(x, &size);
        g.multiply(&normed, &weight)
    }

    /// `x W + b`, with `W [K, N]` and `b [N]`, where there is one: `[.., K]` → `[.., N]`.
    fn linear(&mut self, x: &Name, place: Place) -> Name {
        self.enter(place);
        let weight = self.matrix(place);
        let y = self.graph.product(x, &weight);
        let bias = TensorId::bias(place);
        if !self.shapes.contains_key(&bias) {
            return y;
        }
        let bias = self.stored(bias);
        self.graph.add(&y, &bias)
    }

    /// The rows of a table: `[B, S]` → `[B, S, C]`.
    fn lookup(&mut self, place: Place, indices: &Name) -> Name {
        let table = self.stored(TensorId::weight(place));
        let rows = self.graph.rows(&table, indices);
        self.graph.cast(&rows, self.dtype, DType::F32)
    }

    /// A projection's matrix, `[inputs, outputs]`.
    fn matrix(&mut self, place: Place) -> Name {
        let weight = self.weight(TensorId::weight(place), true);
        self.graph.cast(&weight, self.dtype, DType::F32)
    }

    /// A vector, or a table of rows that is in the type of the matrices.
    fn stored(&mut self, id: TensorId) -> Name {
        self.weight(id, false)
    }

    fn weight(&mut self, id: TensorId, transposed: bool) -> Name {
        let shape = self.shapes.get(&id).map_or(&[][..], Vec::as_slice);
        self.graph.weight(id, shape, transposed)
    }

    /// Nodes that follow are named after this place.
    fn enter(&mut self, place: Place) {
        let id = TensorId::weight(place).to_string();
        self.graph.enter(id.trim_end_matches(".weight"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wootz_formats::onnx::Attribute;

    use super::*;
    use crate::arch::ARCHITECTURES;
    use crate::differences::{shrink, typical};

    fn graphs() -> impl Iterator<Item = (DecoderConfig, DType, Graph)> {
        let configs = ARCHITECTURES.iter().map(|architecture| shrink(&typical(architecture).unwrap()));
        let types = [DType::F32, DType::F16, DType::BF16];
        configs.flat_map(move |config| {
            let caches = [Cache::None, Cache::Given];
            let all = caches.into_iter().flat_map(|cache| types.map(|dtype| (cache, dtype)));
            all.map(|(cache, dtype)| (config.clone(), dtype, decoder(&config, cache, dtype)))
                .collect::<Vec<_>>()
        })
    }

    /// Nodes stand behind what they take, no name stands for two things, and every weight is used.
    #[test]
    fn graphs_hold_together() {
        for (config, _, graph) in graphs() {
            let model = &graph.model;
            let mut known = HashSet::new();
            let weights = graph.weights.iter().map(|weight| weight.id.to_string());
            let inputs = model.inputs.iter().map(|input| input.name.clone());
            let constants = model.constants.iter().map(|constant| constant.name.clone());
            for name in weights.chain(inputs).chain(constants) {
                assert!(known.insert(name.clone()), "{name} is there twice");
            }
            for node in &model.nodes {
                for input in &node.inputs {
                    assert!(known.contains(input), "{}: {input} is not there yet", node.name);
                }
                for name in node.outputs.iter().chain([&node.name]) {
                    assert!(known.insert(name.clone()), "{name} is there twice");
                }
            }
            assert!(model.outputs.iter().all(|output| known.contains(&output.name)));

            let used: HashSet<&String> = model.nodes.iter().flat_map(|node| &node.inputs).collect();
            let ids: HashSet<TensorId> = graph.weights.iter().map(|weight| weight.id).collect();
            assert_eq!(ids, canonical(&config).into_iter().map(|(id, _)| id).collect());
            assert!(ids.iter().all(|id| used.contains(&id.to_string())));
        }
    }

    /// What is stored in 16 bits is widened before anything is computed with it.
    #[test]
    fn nothing_is_computed_in_16_bits() {
        for (_, dtype, graph) in graphs() {
            let matrices = graph.weights.iter().filter(|weight| weight.shape.len() == 2);
            let mut narrow: HashSet<String> = matrices.map(|weight| weight.id.to_string()).collect();
            let mut widened = 0;
            for node in &graph.model.nodes {
                let takes = node.inputs.iter().any(|input| narrow.contains(input));
                match node.op {
                    "Gather" | "Transpose" if takes => narrow.extend(node.outputs.iter().cloned()),
                    "Cast" => {
                        assert_eq!(node.attributes, [("to", Attribute::Type(DType::F32))]);
                        widened += usize::from(takes);
                    }
                    other => assert!(!takes || dtype == DType::F32, "{}: {other}", node.name),
                }
            }
            assert_eq!(widened > 0, dtype != DType::F32);
        }
    }
}
