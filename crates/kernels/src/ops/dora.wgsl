// A length of its own for each output's weights ("DoRA"), once the lengths l of the rows of w + s b a are known.
//
//   g  = m / l
//   y  = g * (y - bias) + bias         in place; y is what the product with LoRA has given, bias included
//   dv = g * dy
//   dm = sum over rows of dy * v / l   set, or added; v is y before, without the bias
//
// y, dy, dv, v: [rows, n]; g, m, l, bias, dm: [n]. To backward the lengths are constants.
//
// dora_gains, dora_forward and dora_backward: a thread takes an element. dora_magnitude_gradient: a workgroup takes 32
// columns; 8 threads a column walk the rows 8 apart, and what they summed is added in one fixed order.

struct Shape {
    rows: u32,
    n: u32,
    has_bias: u32, // 1 or 0
    adds: u32, // 1 if dm is added to, 0 if it is assigned
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> m: array<f32>;
@group(0) @binding(1) var<storage, read> lengths: array<f32>;
@group(0) @binding(2) var<storage, read_write> gains_out: array<f32>;
@group(0) @binding(3) var<storage, read> gains: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> dv: array<f32>;
@group(0) @binding(8) var<storage, read> v: array<f32>;
@group(0) @binding(9) var<storage, read_write> dm: array<f32>;

// gains_out is assigned.
@compute @workgroup_size(256)
fn dora_gains(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.n);
    if i < shape.n {
        gains_out[i] = m[i] / lengths[i];
    }
}

// y is overwritten.
@compute @workgroup_size(256)
fn dora_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let count = shape.rows * shape.n;
    let i = element(group, groups, thread, count);
    if i < count {
        let c = i % shape.n;
        if shape.has_bias != 0u {
            y[i] = gains[c] * (y[i] - bias[c]) + bias[c];
        } else {
            y[i] = gains[c] * y[i];
        }
    }
}

// dv is assigned.
@compute @workgroup_size(256)
fn dora_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let count = shape.rows * shape.n;
    let i = element(group, groups, thread, count);
    if i < count {
        dv[i] = gains[i % shape.n] * dy[i];
    }
}

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(32, 8)
fn dora_magnitude_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = (group.y * groups.x + group.x) * 32u + local.x;
    var sum = 0.0;
    if c < shape.n {
        for (var row = local.y; row < shape.rows; row += 8u) {
            let i = row * shape.n + c;
            sum += dy[i] * v[i] / lengths[c];
        }
    }
    partial[local.y * 32u + local.x] = sum;
    workgroupBarrier();

    if local.y == 0u && c < shape.n {
        sum = 0.0;
        for (var lane = 0u; lane < 8u; lane++) {
            sum += partial[lane * 32u + local.x];
        }
        if shape.adds != 0u {
            sum += dm[c];
        }
        dm[c] = sum;
    }
}
