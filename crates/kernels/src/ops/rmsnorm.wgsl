// RMSNorm, forward and backward, f32.
//
//   r[row]      = 1 / sqrt(mean over c of x[row,c]^2 + eps)
//   y[row,c]    = x[row,c] * r[row] * (offset + weight[c])
//
//   dx[row,c]   = r * g[c] * dy[row,c] - x[row,c] * r^3 / dim * sum over j of x[row,j] * g[j] * dy[row,j]
//   dweight[c] += sum over rows of dy[row,c] * x[row,c] * r[row]            with g = offset + weight
//
// x, y, dx, dy, addend: [rows, dim]; weight, dweight: [dim]; scratch: r [rows], then sums [chunks, dim]. offset is 1
// where a file stores weight - 1, else 0.
//
// rmsnorm_forward and rmsnorm_backward: a workgroup takes a row. Its 256 threads walk the row 256 columns
// apart, and what they summed is added as a tree, in one fixed order (`sums.wgsl`).
//
// dweight is summed in two stages, for there may be few columns and very many rows: heads times tokens. Rows are cut
// into chunks. rmsnorm_backward_weight: a workgroup takes 32 columns of a chunk, 8 threads a column walk its rows 8
// apart; rmsnorm_backward_weight_total: 8 threads a column walk the chunks.
//
// rmsnorm_backward_in_place writes dx over dy. The sums for dweight need dy, so they are made first, and
// rmsnorm_backward_scales makes the r that they need. All bits are those of rmsnorm_backward.
//
// Multiply-adds are spelt out, lest a compiler fuse them in one kernel only.
//
// rmsnorm_add_forward first adds what a block made to the residual stream, x += addend: the norm reads the sum
// anyway. Its bits are those of an addition and rmsnorm_forward. rmsnorm_small_forward and rmsnorm_small_add_forward are
// for short rows, such as the heads of q and k: a workgroup takes 8 rows, with 32 threads each.

struct Shape {
    rows: u32,
    dim: u32,
    eps: f32,
    offset: f32,
}

// Of rmsnorm_backward: a Shape, and what happens to dx.
struct Gradient {
    rows: u32,
    dim: u32,
    eps: f32,
    offset: f32,
    accumulate: u32, // 1: add to dx, 0: assign
}

// Of the sums for dweight.
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
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>;
@group(0) @binding(6) var<storage, read> scratch_in: array<f32>; // where it is only read
@group(0) @binding(7) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(8) var<storage, read_write> x_inout: array<f32>; // x, where it is written as well
@group(0) @binding(9) var<storage, read> addend: array<f32>;
@group(0) @binding(10) var<storage, read_write> gradient_inout: array<f32>; // dy, then dx

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn rmsnorm_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so rows fill two
    if row >= shape.rows {
        return;
    }
    let start = row * shape.dim;

    var squares = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        squares = fma(x[start + c], x[start + c], squares);
    }
    let r = 1.0 / sqrt(sum_of_workgroup(squares, thread) / f32(shape.dim) + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = x[start + c] * r * (shape.offset + weight[c]);
    }
}

// x += addend, then y from x. Each thread reads back only what it wrote itself, which needs no barrier.
@compute @workgroup_size(256)
fn rmsnorm_add_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    let start = row * shape.dim;

    var squares = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let value = x_inout[start + c] + addend[start + c];
        x_inout[start + c] = value;
        squares = fma(value, value, squares);
    }
    let r = 1.0 / sqrt(sum_of_workgroup(squares, thread) / f32(shape.dim) + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = x_inout[start + c] * r * (shape.offset + weight[c]);
    }
}

const LANES: u32 = 32u; // threads of a short row
const ROWS: u32 = THREADS / LANES;

// The sum over the 32 threads of a row, given to each of them.
fn sum_of_lanes(value: f32, thread: u32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width = width / 2u) {
        if thread % LANES < width {
            partial[thread] += partial[thread + width];
        }
        workgroupBarrier();
    }
    return partial[thread / LANES * LANES];
}

@compute @workgroup_size(256)
fn rmsnorm_small_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = (group.y * groups.x + group.x) * ROWS + thread / LANES;
    let start = row * shape.dim;
    // The other rows of the workgroup wait at barriers, so a thread beyond the last row walks no columns
    // instead of returning.
    let dim = select(0u, shape.dim, row < shape.rows);

    var squares = 0.0;
    for (var c = thread % LANES; c < dim; c += LANES) {
        squares = fma(x[start + c], x[start + c], squares);
    }
    let r = 1.0 / sqrt(sum_of_lanes(squares, thread) / f32(shape.dim) + shape.eps);

    for (var c = thread % LANES; c < dim; c += LANES) {
        y[start + c] = x[start + c] * r * (shape.offset + weight[c]);
    }
}

// x += addend, then y from x.
@compute @workgroup_size(256)
fn rmsnorm_small_add_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = (group.y * groups.x + group.x) * ROWS + thread / LANES;
    let start = row * shape.dim;
    let dim = select(0u, shape.dim, row < shape.rows);

    var squares = 0.0;
    for (var c = thread % LANES; c < dim; c += LANES) {
        let value = x_inout[start + c] + addend[start + c];
        x_inout[start + c] = value;
        squares = fma(value, value, squares);
    }
    let r = 1.0 / sqrt(sum_of_lanes(squares, thread) / f32(shape.dim) + shape.eps);

    for (var c = thread % LANES; c < dim; c += LANES) {
        y[start + c] = x_inout[start + c] * r * (shape.offset + weight[c]);
    }
}

// dx is assigned or added to. r is written for rmsnorm_backward_weight, which runs next.
@compute @workgroup_size(256)
fn rmsnorm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= gradient.rows {
        return;
    }
    let start = row * gradient.dim;

    var squares = 0.0;
    var products = 0.0;
    for (var c = thread; c < gradient.dim; c += THREADS) {
        let value = x[start + c];
        squares = fma(value, value, squares);
        products = fma(value * (gradient.offset + weight[c]), dy[start + c], products);
    }
    let dim = f32(gradient.dim);
    let sums = sums_of_workgroup(vec2<f32>(squares, products), thread);
    let r = 1.0 / sqrt(sums.x / dim + gradient.eps);
    let along_x = sums.y / dim * r * r * r;

    for (var c = thread; c < gradient.dim; c += THREADS) {
        var value = fma(-x[start + c], along_x, r * (gradient.offset + weight[c]) * dy[start + c]);
        if gradient.accumulate == 1u {
            value += dx[start + c];
        }
        dx[start + c] = value;
    }
    if thread == 0u {
        scratch[row] = r;
    }
}

// dx over dy. Each thread overwrites only what it read itself.
@compute @workgroup_size(256)
fn rmsnorm_backward_in_place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    let start = row * shape.dim;

    var squares = 0.0;
    var products = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let value = x[start + c];
        squares = fma(value, value, squares);
        products = fma(value * (shape.offset + weight[c]), gradient_inout[start + c], products);
    }
    let dim = f32(shape.dim);
    let sums = sums_of_workgroup(vec2<f32>(squares, products), thread);
    let r = 1.0 / sqrt(sums.x / dim + shape.eps);
    let along_x = sums.y / dim * r * r * r;

    for (var c = thread; c < shape.dim; c += THREADS) {
        let of_y = r * (shape.offset + weight[c]) * gradient_inout[start + c];
        gradient_inout[start + c] = fma(-x[start + c], along_x, of_y);
    }
}

// r alone, for rmsnorm_backward_weight where dy is to be overwritten.
@compute @workgroup_size(256)
fn rmsnorm_backward_scales(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    var squares = 0.0;
    for (var c = thread; c < shape.dim; c += THREADS) {
        let value = x[row * shape.dim + c];
        squares = fma(value, value, squares);
    }
    let r = 1.0 / sqrt(sum_of_workgroup(squares, thread) / f32(shape.dim) + shape.eps);
    if thread == 0u {
        scratch[row] = r;
    }
}

// The sum of the 8 threads of a column, right in the first of them.
fn sum_of_column(value: f32, local: vec3<u32>) -> f32 {
    partial[local.y * 32u + local.x] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var lane = 0u; lane < 8u; lane++) {
        sum += partial[lane * 32u + local.x];
    }
    return sum;
}

// The sums of each chunk of rows.
@compute @workgroup_size(32, 8)
fn rmsnorm_backward_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    let first = group.y * split.chunk_rows;
    var sum = 0.0;
    if c < split.dim {
        for (var row = first + local.y; row < min(first + split.chunk_rows, split.rows); row += 8u) {
            let i = row * split.dim + c;
            sum += dy[i] * x[i] * scratch[row];
        }
    }
    sum = sum_of_column(sum, local);
    if local.y == 0u && c < split.dim {
        scratch[split.rows + group.y * split.dim + c] = sum;
    }
}

// dweight is added to.
@compute @workgroup_size(32, 8)
fn rmsnorm_backward_weight_total(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    var sum = 0.0;
    if c < split.dim {
        for (var chunk = local.y; chunk < split.chunks; chunk += 8u) {
            sum += scratch_in[split.rows + chunk * split.dim + c];
        }
    }
    sum = sum_of_column(sum, local);
    if local.y == 0u && c < split.dim {
        dweight[c] += sum;
    }
}
