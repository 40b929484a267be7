// The products of a linear layer with packed weights, forward and backward; f32 but for the weights.
//
//   forward      y[m,n]  = sum over k of x[m,k] w[n,k]  (+ bias[n])
//   backward     dx[m,k] = sum over n of dy[m,n] w[n,k]
//                dw[n,k] = sum over m of dy[m,n] x[m,k]
//   lookup       y[m,k]  = scale * w[ids[m],k]              an embedding, whose table is packed as well
//
// or that is added to what is there. Of forward the whole sum is rounded first, with the bias.
//
// x, dx: [rows, depth]; y, dy: [rows, width] (of a lookup [rows, depth]); bias: [width]; ids: [rows]. w and dw (f32) lie in
// panels of 32 output channels, as on the CPU (crates/kernels/src/panels): `weights(panel, quad, lane)`, of a file for each
// layout, gives the weights of channel 32 panel + lane for k = 4 quad .. 4 quad + 4. A matrix too large for one buffer
// comes in several, some panels each: `first` is the first channel of this one.
//
// `packed_forward.wgsl` has the kernels of forward and lookup, `packed_gradients.wgsl` those of backward.

struct Shape {
    rows: u32,        // m
    width: u32,       // n of the whole matrix: a row of y and dy
    depth: u32,       // k
    panel_words: u32, // of a panel of w
    panels: u32,      // in this buffer
    first: u32,       // channel of the first panel
    scale: f32,       // what is looked up is multiplied by
    flags: u32,       // HAS_BIAS, ADDS
}

const HAS_BIAS: u32 = 1u; // forward: a bias is added
const ADDS: u32 = 2u;     // the result is added to what is there

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;
@group(0) @binding(7) var<storage, read> ids: array<u32>;

// Four neighbours of a row of x, zeros beyond its end.
fn inputs(row: u32, quad: u32) -> vec4<f32> {
    let k = 4u * quad;
    let at = row * shape.depth + k;
    if k + 4u <= shape.depth {
        return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
    }
    var four = vec4<f32>();
    for (var i = 0u; k + i < shape.depth; i++) {
        four[i] = x[at + i];
    }
    return four;
}

fn inputs_or_zeros(row: u32, quad: u32, quads: u32) -> vec4<f32> {
    if row < shape.rows && quad < quads {
        return inputs(row, quad);
    }
    return vec4<f32>();
}
