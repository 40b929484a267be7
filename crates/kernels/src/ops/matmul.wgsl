// The products of a linear layer, forward and backward, f32.
//
//   forward      y[m,n]   = sum over k of x[m,k] w[n,k]  (+ bias[n])
//   backward     dx[m,k]  = sum over n of dy[m,n] w[n,k]
//                dw[n,k] += sum over m of dy[m,n] x[m,k]
//                dbias[n]  = sum over m of dy[m,n], or that is added
//
// x, dx: [M, K]; w, dw: [N, K]; y, dy: [M, N]; bias, dbias: [N].
//
// The first three are one kernel, `matmul`: out[i,j] = sum over p of A(i,p) B(j,p), where two strides say how
// A and B lie in memory:
//                 out  i  j  p   A(i,p) = a[i*a_row + p*a_depth]   B(j,p) = b[j*b_row + p*b_depth]
//   forward       y    m  n  k   x:  a_row K, a_depth 1            w:  b_row K, b_depth 1
//   dx            dx   m  k  n   dy: a_row N, a_depth 1            w:  b_row 1, b_depth K
//   dw            dw   n  k  m   dy: a_row 1, a_depth N            x:  b_row 1, b_depth K
//
// How the work is split: a workgroup of 16 x 16 threads makes a tile of 64 x 64 outputs, a thread 4 x 4 of
// them. For each 16 values of p the workgroup brings 64 rows of A and of B into workgroup memory (8 KiB),
// then each thread multiplies. A thread walks p from 0 upward, alone: the bits of an output depend neither on
// the number of rows nor on the tile that it falls into.

struct Product {
    rows: u32,  // of out
    cols: u32,
    depth: u32, // values of p
    a_row: u32,
    a_depth: u32,
    b_row: u32,
    b_depth: u32,
    has_bias: u32,   // 1: add bias[j]
    accumulate: u32, // 1: add to out, 0: assign
}

struct Columns {
    rows: u32,
    cols: u32,
    accumulate: u32, // 1: add to dbias, 0: assign
}

var<immediate> product: Product;
var<immediate> columns: Columns;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dbias: array<f32>;

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;

// Element [p * 16 + q] holds rows 4q .. 4q+3 at depth p. One thread writes a whole vec4: two that wrote
// single components of one vector would race.
var<workgroup> tile_a: array<vec4<f32>, 256>;
var<workgroup> tile_b: array<vec4<f32>, 256>;

fn load_a(i: u32, p: u32) -> f32 {
    if i < product.rows && p < product.depth {
        return a[i * product.a_row + p * product.a_depth];
    }
    return 0.0; // beyond the edge: adds nothing
}

fn load_b(j: u32, p: u32) -> f32 {
    if j < product.cols && p < product.depth {
        return b[j * product.b_row + p * product.b_depth];
    }
    return 0.0;
}

fn store(i: u32, j: u32, sum: f32) {
    if i < product.rows && j < product.cols {
        let at = i * product.cols + j;
        var value = sum;
        if product.has_bias == 1u {
            value += bias[j];
        }
        if product.accumulate == 1u {
            value += out[at];
        }
        out[at] = value;
    }
}

fn store_row(i: u32, j: u32, sums: vec4<f32>) {
    store(i, j, sums.x);
    store(i, j + 1u, sums.y);
    store(i, j + 2u, sums.z);
    store(i, j + 3u, sums.w);
}

@compute @workgroup_size(16, 16)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_col = group.x * TILE;

    // Neighbouring threads load neighbouring addresses: along p where p is contiguous, else along the rows.
    var a_p = thread % DEPTH;
    var a_q = thread / DEPTH;
    if product.a_depth != 1u {
        a_p = thread / 16u;
        a_q = thread % 16u;
    }
    var b_p = thread % DEPTH;
    var b_q = thread / DEPTH;
    if product.b_depth != 1u {
        b_p = thread / 16u;
        b_q = thread % 16u;
    }
    let a_i = first_row + 4u * a_q;
    let b_j = first_col + 4u * b_q;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var start = 0u; start < product.depth; start += DEPTH) {
        let pa = start + a_p;
        let pb = start + b_p;
        tile_a[a_p * 16u + a_q] =
            vec4<f32>(load_a(a_i, pa), load_a(a_i + 1u, pa), load_a(a_i + 2u, pa), load_a(a_i + 3u, pa));
        tile_b[b_p * 16u + b_q] =
            vec4<f32>(load_b(b_j, pb), load_b(b_j + 1u, pb), load_b(b_j + 2u, pb), load_b(b_j + 3u, pb));
        workgroupBarrier();
        for (var p = 0u; p < DEPTH; p++) {
            let av = tile_a[p * 16u + local.y];
            let bv = tile_b[p * 16u + local.x];
            sum0 = fma(vec4<f32>(av.x), bv, sum0);
            sum1 = fma(vec4<f32>(av.y), bv, sum1);
            sum2 = fma(vec4<f32>(av.z), bv, sum2);
            sum3 = fma(vec4<f32>(av.w), bv, sum3);
        }
        workgroupBarrier();
    }

    let i = first_row + 4u * local.y;
    let j = first_col + 4u * local.x;
    store_row(i, j, sum0);
    store_row(i + 1u, j, sum1);
    store_row(i + 2u, j, sum2);
    store_row(i + 3u, j, sum3);
}

// A workgroup takes 32 columns; 8 threads a column walk the rows 8 apart.
var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(32, 8)
fn matmul_backward_bias(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let j = group.x * 32u + local.x;
    var sum = 0.0;
    if j < columns.cols {
        for (var i = local.y; i < columns.rows; i += 8u) {
            sum += dy[i * columns.cols + j];
        }
    }
    partial[local.y * 32u + local.x] = sum;
    workgroupBarrier();

    if local.y == 0u && j < columns.cols {
        sum = 0.0;
        for (var lane = 0u; lane < 8u; lane++) {
            sum += partial[lane * 32u + local.x];
        }
        if columns.accumulate == 1u {
            sum += dbias[j];
        }
        dbias[j] = sum;
    }
}
