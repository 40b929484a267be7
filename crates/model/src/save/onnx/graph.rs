//! A graph of ONNX's operations, built by calling them: each method adds a node and gives the name of what comes out.
//!
//! Types and shapes are the caller's affair, as in ONNX itself. Constants are kept once, however often they are asked for.

use wootz_formats::onnx::{Attribute, Constant, Dim, Model, Node, Value};
use wootz_kernels::DType;

use crate::names::TensorId;

/// The name of a value of the graph: of an input, a weight, a constant or what a node gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(String);

/// A weight that nodes take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weight {
    /// Which one it is; its name is the graph's name of it.
    pub id: TensorId,
    /// Its shape in the graph.
    pub shape: Vec<usize>,
    /// `[inputs, outputs]`, as products take it, and not as it is canonically.
    pub transposed: bool,
}

/// A graph that is being built.
#[derive(Default)]
pub(super) struct Graph {
    pub model: Model,
    pub weights: Vec<Weight>,
    /// Where in the network the next nodes are: the beginning of their names.
    place: String,
}

/// What a slice takes for "to the end".
const END: i64 = i64::MAX;

impl Graph {
    /// Nodes that follow are named after this place.
    pub fn enter(&mut self, place: impl Into<String>) {
        self.place = place.into();
    }

    /// An input of the model.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Name {
        self.model.inputs.push(Value { name: name.to_owned(), dtype, shape: shape.to_vec() });
        Name(name.to_owned())
    }

    /// Makes what the newest node gives an output of the model, under this name.
    pub fn output(&mut self, newest: Name, name: &str, dtype: DType, shape: &[Dim]) -> Name {
        let outputs = self.model.nodes.last_mut().into_iter().flat_map(|node| &mut node.outputs);
        outputs.filter(|output| **output == newest.0).for_each(|output| name.clone_into(output));
        self.model.outputs.push(Value { name: name.to_owned(), dtype, shape: shape.to_vec() });
        Name(name.to_owned())
    }

    /// A weight, in the canonical shape and orientation or transposed, whatever type it is written in.
    pub fn weight(&mut self, id: TensorId, canonical: &[usize], transposed: bool) -> Name {
        if !self.weights.iter().any(|weight| weight.id == id) {
            let mut shape = canonical.to_vec();
            if transposed {
                shape.reverse();
            }
            self.weights.push(Weight { id, shape, transposed });
        }
        Name(id.to_string())
    }

    /// A number.
    pub fn number(&mut self, number: f32) -> Name {
        self.constant(DType::F32, &[], number.to_le_bytes().to_vec())
    }

    /// A vector of numbers.
    pub fn numbers(&mut self, numbers: &[f32]) -> Name {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(DType::F32, &[numbers.len()], bytes)
    }

    /// A whole number.
    pub fn int(&mut self, int: i64) -> Name {
        self.constant(DType::I64, &[], int.to_le_bytes().to_vec())
    }

    /// A vector of whole numbers.
    fn ints(&mut self, ints: &[i64]) -> Name {
        let bytes = ints.iter().flat_map(|int| int.to_le_bytes()).collect();
        self.constant(DType::I64, &[ints.len()], bytes)
    }

    fn constant(&mut self, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Name {
        let all = &mut self.model.constants;
        let same = |known: &&Constant| (known.dtype, &*known.shape, &known.bytes) == (dtype, shape, &bytes);
        if let Some(known) = all.iter().find(same) {
            return Name(known.name.clone());
        }
        let name = format!("constant.{}", all.len());
        all.push(Constant { name: name.clone(), dtype, shape: shape.to_vec(), bytes });
        Name(name)
    }

    /// A node of one output.
    fn node(&mut self, op: &'static str, inputs: &[&Name]) -> Name {
        self.node_with(op, inputs, &[])
    }

    fn node_with(
        &mut self,
        op: &'static str,
        inputs: &[&Name],
        attributes: &[(&'static str, Attribute)],
    ) -> Name {
        let [name] = self.node_of(op, inputs, attributes, ["out"]);
        name
    }

    /// A node whose outputs are called as it is, with these endings. (To some readers values and nodes are of one kind: no
    /// two may have one name.)
    fn node_of<const N: usize>(
        &mut self,
        op: &'static str,
        inputs: &[&Name],
        attributes: &[(&'static str, Attribute)],
        endings: [&str; N],
    ) -> [Name; N] {
        let name = format!("{}/{op}.{}", self.place, self.model.nodes.len());
        let outputs = endings.map(|ending| Name(format!("{name}.{ending}")));
        self.model.nodes.push(Node {
            name,
            op,
            inputs: inputs.iter().map(|name| name.0.clone()).collect(),
            outputs: outputs.iter().map(|name| name.0.clone()).collect(),
            attributes: attributes.to_vec(),
        });
        outputs
    }
}

/// Arithmetic, element by element; shapes are broadcast.
impl Graph {
    pub fn add(&mut self, a: &Name, b: &Name) -> Name {
        self.node("Add", &[a, b])
    }

    pub fn subtract(&mut self, a: &Name, b: &Name) -> Name {
        self.node("Sub", &[a, b])
    }

    pub fn multiply(&mut self, a: &Name, b: &Name) -> Name {
        self.node("Mul", &[a, b])
    }

    pub fn divide(&mut self, a: &Name, b: &Name) -> Name {
        self.node("Div", &[a, b])
    }

    /// `x · factor`
    pub fn scale(&mut self, x: &Name, factor: f32) -> Name {
        if factor == 1.0 {
            return x.clone();
        }
        let factor = self.number(factor);
        self.multiply(x, &factor)
    }

    pub fn power(&mut self, x: &Name, exponent: f32) -> Name {
        let exponent = self.number(exponent);
        self.node("Pow", &[x, &exponent])
    }

    pub fn sqrt(&mut self, x: &Name) -> Name {
        self.node("Sqrt", &[x])
    }

    pub fn cos(&mut self, x: &Name) -> Name {
        self.node("Cos", &[x])
    }

    pub fn sin(&mut self, x: &Name) -> Name {
        self.node("Sin", &[x])
    }

    pub fn tanh(&mut self, x: &Name) -> Name {
        self.node("Tanh", &[x])
    }

    pub fn sigmoid(&mut self, x: &Name) -> Name {
        self.node("Sigmoid", &[x])
    }

    /// `x`, or where it has another type, `x` in this one.
    pub fn cast(&mut self, x: &Name, from: DType, to: DType) -> Name {
        if from == to {
            return x.clone();
        }
        self.node_with("Cast", &[x], &[("to", Attribute::Type(to))])
    }

    pub fn less_or_equal(&mut self, a: &Name, b: &Name) -> Name {
        self.node("LessOrEqual", &[a, b])
    }

    pub fn greater(&mut self, a: &Name, b: &Name) -> Name {
        self.node("Greater", &[a, b])
    }

    pub fn and(&mut self, a: &Name, b: &Name) -> Name {
        self.node("And", &[a, b])
    }

    /// `a` where the condition holds, elsewhere `b`.
    pub fn choose(&mut self, condition: &Name, a: &Name, b: &Name) -> Name {
        self.node("Where", &[condition, a, b])
    }
}

/// Sums, products and norms, over the innermost dimension.
impl Graph {
    /// `a b`, for matrices in the two innermost dimensions.
    pub fn product(&mut self, a: &Name, b: &Name) -> Name {
        self.node("MatMul", &[a, b])
    }

    /// The mean of each row, as a row of one element.
    pub fn mean(&mut self, x: &Name) -> Name {
        let last = ("axes", Attribute::Ints(vec![-1]));
        self.node_with("ReduceMean", &[x], &[last, ("keepdims", Attribute::Int(1))])
    }

    pub fn softmax(&mut self, x: &Name) -> Name {
        self.node_with("Softmax", &[x], &[("axis", Attribute::Int(-1))])
    }

    pub fn layer_norm(&mut self, x: &Name, weight: &Name, bias: &Name, eps: f32) -> Name {
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(eps))];
        self.node_with("LayerNormalization", &[x, weight, bias], &attributes)
    }

    /// Of each element of a row the sum of all up to it.
    pub fn sums(&mut self, x: &Name) -> Name {
        let axis = self.int(1);
        self.node("CumSum", &[x, &axis])
    }
}

/// Shapes.
impl Graph {
    /// The row of a table for each index.
    pub fn rows(&mut self, table: &Name, indices: &Name) -> Name {
        self.node_with("Gather", &[table, indices], &[("axis", Attribute::Int(0))])
    }

    /// A dimension of size 0 stays as it is; one of -1 takes what is left.
    pub fn reshape(&mut self, x: &Name, shape: &[i64]) -> Name {
        let shape = self.ints(shape);
        self.node("Reshape", &[x, &shape])
    }

    /// Dimension `i` of what comes out is dimension `order[i]` of `x`.
    pub fn transpose(&mut self, x: &Name, order: &[i64]) -> Name {
        self.node_with("Transpose", &[x], &[("perm", Attribute::Ints(order.to_vec()))])
    }

    /// Puts in a dimension of size 1 at each of these places.
    pub fn unsqueeze(&mut self, x: &Name, places: &[i64]) -> Name {
        let places = self.ints(places);
        self.node("Unsqueeze", &[x, &places])
    }

    pub fn join(&mut self, a: &Name, b: &Name, dimension: i64) -> Name {
        self.node_with("Concat", &[a, b], &[("axis", Attribute::Int(dimension))])
    }

    /// The two halves of the innermost dimension, `half` elements each.
    pub fn halves(&mut self, x: &Name, half: usize) -> [Name; 2] {
        let sizes = self.ints(&[half as i64; 2]);
        self.node_of("Split", &[x, &sizes], &[("axis", Attribute::Int(-1))], ["first", "second"])
    }

    /// A tensor of the shape of `x`, of ones.
    pub fn ones_like(&mut self, x: &Name) -> Name {
        let shape = self.node("Shape", &[x]);
        let one = Constant {
            name: String::new(),
            dtype: DType::I64,
            shape: vec![1],
            bytes: 1i64.to_le_bytes().to_vec(),
        };
        self.node_with("ConstantOfShape", &[&shape], &[("value", Attribute::Tensor(one))])
    }

    /// The last elements of each row of `x`, as many as a row of `like` has.
    pub fn last_like(&mut self, x: &Name, like: &Name) -> Name {
        let count = [("start", Attribute::Int(1)), ("end", Attribute::Int(2))];
        let count = self.node_with("Shape", &[like], &count);
        let start = self.node("Neg", &[&count]);
        let (end, dimension) = (self.ints(&[END]), self.ints(&[1]));
        self.node("Slice", &[x, &start, &end, &dimension])
    }
}
