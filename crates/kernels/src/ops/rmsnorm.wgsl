// RMSNorm, forward and backward, f32.
//
//   r[row]      = 1 / sqrt(mean over c of x[row,c]^2 + eps)
//   y[row,c]    = x[row,c] * r[row] * (offset + weight[c])
//
//   dx[row,c]   = r * g[c] * dy[row,c] - x[row,c] * r^3 / dim * sum over j of x[row,j] * g[j] * dy[row,j]
//   dweight[c] += sum over rows of dy[row,c] * x[row,c] * r[row]            with g = offset + weight
//
// x, y, dx, dy: [rows, dim]; weight, dweight: [dim]; r: [rows]. offset is 1 where a file stores weight - 1,
// else 0.
//
// rmsnorm_forward and rmsnorm_backward: a workgroup takes a row. Its 256 threads walk the row 256 columns
// apart, and what they summed is added in workgroup memory as a tree, in one fixed order. No subgroup
// operation: their size differs from device to device. rmsnorm_backward_weight: a workgroup takes 32 columns;
// 8 threads a column walk the rows 8 apart.

struct Shape {
    rows: u32,
    dim: u32,
    eps: f32,
    offset: f32,
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> r_out: array<f32>;
@group(0) @binding(6) var<storage, read> r_in: array<f32>;
@group(0) @binding(7) var<storage, read_write> dweight: array<f32>;

const THREADS: u32 = 256u;
var<workgroup> partial: array<f32, 256>;

// The sum of every thread's `value`, given to every thread.
fn sum_of_workgroup(value: f32, thread: u32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            partial[thread] += partial[thread + width];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier(); // nobody overwrites `partial` before all have read it
    return sum;
}

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
        squares += x[start + c] * x[start + c];
    }
    let r = 1.0 / sqrt(sum_of_workgroup(squares, thread) / f32(shape.dim) + shape.eps);

    for (var c = thread; c < shape.dim; c += THREADS) {
        y[start + c] = x[start + c] * r * (shape.offset + weight[c]);
    }
}

// dx is assigned. r is written for rmsnorm_backward_weight, which runs next.
@compute @workgroup_size(256)
fn rmsnorm_backward(
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
        squares += value * value;
        products += value * (shape.offset + weight[c]) * dy[start + c];
    }
    let dim = f32(shape.dim);
    let r = 1.0 / sqrt(sum_of_workgroup(squares, thread) / dim + shape.eps);
    let along_x = sum_of_workgroup(products, thread) / dim * r * r * r;

    for (var c = thread; c < shape.dim; c += THREADS) {
        dx[start + c] = r * (shape.offset + weight[c]) * dy[start + c] - x[start + c] * along_x;
    }
    if thread == 0u {
        r_out[row] = r;
    }
}

// dweight is added to.
@compute @workgroup_size(32, 8)
fn rmsnorm_backward_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let c = group.x * 32u + local.x;
    var sum = 0.0;
    if c < shape.dim {
        for (var row = local.y; row < shape.rows; row += 8u) {
            let i = row * shape.dim + c;
            sum += dy[i] * x[i] * r_in[row];
        }
    }
    partial[local.y * 32u + local.x] = sum;
    workgroupBarrier();

    if local.y == 0u && c < shape.dim {
        sum = 0.0;
        for (var lane = 0u; lane < 8u; lane++) {
            sum += partial[lane * 32u + local.x];
        }
        dweight[c] += sum;
    }
}
