// The product of two tiles, for kernels whose workgroup of 16 x 16 threads makes 64 x 64 outputs:
//
//   out[i,j] += sum over p of A[i,p] B[p,j]
//
// A kernel brings some values of p of 64 rows of A, and of 64 columns of B, into workgroup memory, waits, multiplies, and
// waits; and so on. A thread walks p from 0 upward, alone, for 4 x 4 outputs: rows 4 (thread / 16) and columns
// 4 (thread % 16), and the three after each. `tiles_matrices.wgsl` is the same with cooperative matrices.

const TILE: u32 = 64u;

// Element [p * 16 + q] holds rows (columns) 4q .. 4q+3 at depth p. One thread writes a whole vec4: two that wrote single
// components of one vector would race.
var<workgroup> tile_a: array<vec4<f32>, 512>; // [depth 32][16]
var<workgroup> tile_b: array<vec4<f32>, 512>;

var<private> block: mat4x4<f32>; // a row of outputs a column of the matrix

fn put_a(p: u32, four: u32, rows: vec4<f32>) {
    tile_a[p * 16u + four] = rows;
}

fn put_b(p: u32, four: u32, columns: vec4<f32>) {
    tile_b[p * 16u + four] = columns;
}

fn begin_sums(thread: u32) {
    block = mat4x4<f32>();
}

fn multiply_tiles(depth: u32, thread: u32) {
    for (var p = 0u; p < depth; p++) {
        let av = tile_a[p * 16u + thread / 16u];
        let bv = tile_b[p * 16u + thread % 16u];
        block[0] = fma(vec4<f32>(av.x), bv, block[0]);
        block[1] = fma(vec4<f32>(av.y), bv, block[1]);
        block[2] = fma(vec4<f32>(av.z), bv, block[2]);
        block[3] = fma(vec4<f32>(av.w), bv, block[3]);
    }
}

// The thread's outputs, row by row.
fn outputs(thread: u32) -> mat4x4<f32> {
    return block;
}
