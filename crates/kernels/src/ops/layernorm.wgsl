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
// x, y, dx, dy, addend: [rows, dim]; weight, bias, dweight, dbias: [dim]; scratch: mean and s [rows, 2], then sums
// [chunks, 2, dim].
//
// layernorm_forward and layernorm_backward: a workgroup takes a row. Its 256 threads walk the row 256 columns
// apart, and what they summed is added as a tree, in one fixed order (`sums.wgsl`). The variance takes a second walk:
// squares of differences lose nothing where the mean is large.
//
// dweight and dbias are summed in two stages. Rows are cut into chunks. layernorm_backward_weight: a workgroup takes 32
// columns of a chunk, 8 threads a column walk its rows 8 apart; layernorm_backward_weight_total: 8 threads a column walk
// the chunks.
//
// layernorm_add_forward first adds what a block made to the residual stream, x += addend: the norm reads the
// sum anyway. Its bits are those of an addition and layernorm_forward: multiply-adds are spelt out, lest a compiler fuse
// them in one kernel only.

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

// Of the sums for dweight and dbias.
struct Chunks {
    rows: u32,
    dim: u32,
    chunk_rows: u32,
    chunks: u32,
}

var<immediate> shape: Shape;
var<immediate> split: Chunks;
var<immediate> gradient: Gradient;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> scratch: array<f32>;
@group(0) @binding(7) var<storage, read> scratch_in: array<f32>; // where it is only read
@group(0) @binding(8) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(10) var<storage, read_write> x_inout: array<f32>; // x, where it is written as well
@group(0) @binding(11) var<storage, read> addend: array<f32>;

var<workgroup> partial: array<vec2<f32>, 256>;

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
        squares = fma(difference, difference, squares);
    }
    let s = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = fma((x[start + c] - mean) * s, weight[c], bias[c]);
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
        squares = fma(difference, difference, squares);
    }
    let s = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = fma((x_inout[start + c] - mean) * s, weight[c], bias[c]);
    }
}

// dx is assigned or added to. Mean and s are written for layernorm_backward_weight, which runs next.
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
        squares = fma(difference, difference, squares);
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
        scratch[2u * row] = mean;
        scratch[2u * row + 1u] = s;
    }
}

// The sums of the 8 threads of a column, right in the first of them.
fn sums_of_column(values: vec2<f32>, local: vec3<u32>) -> vec2<f32> {
    partial[local.y * 32u + local.x] = values;
    workgroupBarrier();
    var sums = vec2<f32>();
    for (var lane = 0u; lane < 8u; lane++) {
        sums += partial[lane * 32u + local.x];
    }
    return sums;
}

// Where the sums of a chunk begin.
fn sums_at(chunk: u32) -> u32 {
    return 2u * (split.rows + chunk * split.dim);
}

// The sums of each chunk of rows.
@compute @workgroup_size(32, 8)
fn layernorm_backward_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    let first = group.y * split.chunk_rows;
    var sums = vec2<f32>(); // for dweight and dbias
    if c < split.dim {
        for (var row = first + local.y; row < min(first + split.chunk_rows, split.rows); row += 8u) {
            let i = row * split.dim + c;
            let n = (x[i] - scratch[2u * row]) * scratch[2u * row + 1u];
            sums += vec2<f32>(dy[i] * n, dy[i]);
        }
    }
    sums = sums_of_column(sums, local);
    if local.y == 0u && c < split.dim {
        scratch[sums_at(group.y) + c] = sums.x;
        scratch[sums_at(group.y) + split.dim + c] = sums.y;
    }
}

// dweight and dbias are added to.
@compute @workgroup_size(32, 8)
fn layernorm_backward_weight_total(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    var sums = vec2<f32>();
    if c < split.dim {
        for (var chunk = local.y; chunk < split.chunks; chunk += 8u) {
            sums += vec2<f32>(scratch_in[sums_at(chunk) + c], scratch_in[sums_at(chunk) + split.dim + c]);
        }
    }
    sums = sums_of_column(sums, local);
    if local.y == 0u && c < split.dim {
        dweight[c] += sums.x;
        dbias[c] += sums.y;
    }
}
