// LayerNorm, forward and backward, f32.
//
//   mean[row]   = mean over c of x[row,c]
//   s[row]      = 1 / sqrt(mean over c of (x[row,c] - mean)^2 + eps)
//   n[row,c]    = (x[row,c] - mean) * s
//   y[row,c]    = n[row,c] * weight[c] + bias[c]
//
//   dx[row,c]   = s * (dn[row,c] - mean over j of dn[row,j] - n[row,c] * mean over j of dn[row,j] * n[row,j])
//   dweight[c] += sum over rows of dy[row,c] * n[row,c]
//   dbias[c]   += sum over rows of dy[row,c]                                      with dn = dy * weight
//
// x, y, dx, dy, addend: [rows, dim]; weight, bias, dweight, dbias: [dim]; statistics: [rows, 2], mean and s.
//
// layernorm_forward and layernorm_backward: a workgroup takes a row. Its 256 threads walk the row 256 columns
// apart, and what they summed is added in workgroup memory as a tree, in one fixed order. The variance takes a
// second walk: squares of differences lose nothing where the mean is large. layernorm_backward_weight: a
// workgroup takes 32 columns; 8 threads a column walk the rows 8 apart.
//
// layernorm_add_forward first adds what a block made to the residual stream, x += addend: the norm reads the
// sum anyway.

struct Shape {
    rows: u32,
    dim: u32,
    eps: f32,
}

// Of layernorm_backward: a Shape, and what happens to dx.
struct Gradient {
    rows: u32,
    dim: u32,
    eps: f32,
    accumulate: u32, // 1: add to dx, 0: assign
}

var<immediate> shape: Shape;
var<immediate> gradient: Gradient;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> statistics_out: array<f32>;
@group(0) @binding(7) var<storage, read> statistics_in: array<f32>;
@group(0) @binding(8) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(10) var<storage, read_write> x_inout: array<f32>; // x, where it is written as well
@group(0) @binding(11) var<storage, read> addend: array<f32>;

const THREADS: u32 = 256u;
var<workgroup> partial: array<vec2<f32>, 256>;

// The sums of every thread's two values, given to every thread.
fn sums_of_workgroup(values: vec2<f32>, thread: u32) -> vec2<f32> {
    partial[thread] = values;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            partial[thread] += partial[thread + width];
        }
        workgroupBarrier();
    }
    let sums = partial[0];
    workgroupBarrier(); // nobody overwrites `partial` before all have read it
    return sums;
}

fn sum_of_workgroup(value: f32, thread: u32) -> f32 {
    return sums_of_workgroup(vec2<f32>(value, 0.0), thread).x;
}

@compute @workgroup_size(256)
fn layernorm_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so rows fill two
    if row >= shape.rows {
        return;
    }
    let start = row * shape.dim;
    let dim = f32(shape.dim);

    var sum = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        sum += x[start + c];
    }
    let mean = sum_of_workgroup(sum, thread) / dim;
    var squares = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let difference = x[start + c] - mean;
        squares += difference * difference;
    }
    let s = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = (x[start + c] - mean) * s * weight[c] + bias[c];
    }
}

// x += addend, then y from x. Each thread reads back only what it wrote itself, which needs no barrier.
@compute @workgroup_size(256)
fn layernorm_add_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    let start = row * shape.dim;
    let dim = f32(shape.dim);

    var sum = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let value = x_inout[start + c] + addend[start + c];
        x_inout[start + c] = value;
        sum += value;
    }
    let mean = sum_of_workgroup(sum, thread) / dim;
    var squares = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let difference = x_inout[start + c] - mean;
        squares += difference * difference;
    }
    let s = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = (x_inout[start + c] - mean) * s * weight[c] + bias[c];
    }
}

// dx is assigned or added to. The statistics are written for layernorm_backward_weight, which runs next.
@compute @workgroup_size(256)
fn layernorm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= gradient.rows {
        return;
    }
    let start = row * gradient.dim;
    let dim = f32(gradient.dim);

    var sum = 0.0;
    for (var c = thread; c < gradient.dim; c += THREADS) {
        sum += x[start + c];
    }
    let mean = sum_of_workgroup(sum, thread) / dim;
    var squares = 0.0;
    for (var c = thread; c < gradient.dim; c += THREADS) {
        let difference = x[start + c] - mean;
        squares += difference * difference;
    }
    let s = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + gradient.eps);

    var products = vec2<f32>(); // of dn with 1 and with n
    for (var c = thread; c < gradient.dim; c += THREADS) {
        let dn = dy[start + c] * weight[c];
        products += vec2<f32>(dn, dn * (x[start + c] - mean) * s);
    }
    let means = sums_of_workgroup(products, thread) / dim;

    for (var c = thread; c < gradient.dim; c += THREADS) {
        let n = (x[start + c] - mean) * s;
        var value = s * (dy[start + c] * weight[c] - means.x - n * means.y);
        if gradient.accumulate == 1u {
            value += dx[start + c];
        }
        dx[start + c] = value;
    }
    if thread == 0u {
        statistics_out[2u * row] = mean;
        statistics_out[2u * row + 1u] = s;
    }
}

// dweight and dbias are added to.
@compute @workgroup_size(32, 8)
fn layernorm_backward_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    var sums = vec2<f32>(); // for dweight and dbias
    if c < shape.dim {
        for (var row = local.y; row < shape.rows; row += 8u) {
            let i = row * shape.dim + c;
            let n = (x[i] - statistics_in[2u * row]) * statistics_in[2u * row + 1u];
            sums += vec2<f32>(dy[i] * n, dy[i]);
        }
    }
    partial[local.y * 32u + local.x] = sums;
    workgroupBarrier();

    if local.y == 0u && c < shape.dim {
        sums = vec2<f32>();
        for (var lane = 0u; lane < 8u; lane++) {
            sums += partial[lane * 32u + local.x];
        }
        dweight[c] += sums.x;
        dbias[c] += sums.y;
    }
}
