enable wgpu_cooperative_matrix;

// The product of two tiles, as in `tiles.wgsl`, by subgroups of 32 threads that have cooperative matrices of 8 x 8. Of the
// 64 x 64 outputs a subgroup makes 32 x 16: four by two matrices. In which order the device sums is its own affair.
//
// In the end the outputs lie in workgroup memory, where each thread finds those that it has in `tiles.wgsl`.

const TILE: u32 = 64u;
const SECOND: u32 = 2048u; // where B begins

var<workgroup> tiles: array<f32, 4096>; // A: [depth 32][row 64], then B: [depth 32][column 64]; or outputs: [64][64]

var<private> sum00: coop_mat8x8<f32, C>;
var<private> sum01: coop_mat8x8<f32, C>;
var<private> sum10: coop_mat8x8<f32, C>;
var<private> sum11: coop_mat8x8<f32, C>;
var<private> sum20: coop_mat8x8<f32, C>;
var<private> sum21: coop_mat8x8<f32, C>;
var<private> sum30: coop_mat8x8<f32, C>;
var<private> sum31: coop_mat8x8<f32, C>;

fn put_a(p: u32, four: u32, rows: vec4<f32>) {
    let at = p * TILE + 4u * four;
    tiles[at] = rows.x;
    tiles[at + 1u] = rows.y;
    tiles[at + 2u] = rows.z;
    tiles[at + 3u] = rows.w;
}

fn put_b(p: u32, four: u32, columns: vec4<f32>) {
    let at = SECOND + p * TILE + 4u * four;
    tiles[at] = columns.x;
    tiles[at + 1u] = columns.y;
    tiles[at + 2u] = columns.z;
    tiles[at + 3u] = columns.w;
}

// The first row, and the first column, of the outputs of this thread's subgroup.
fn first_output(thread: u32) -> vec2<u32> {
    return vec2<u32>(thread / 128u * 32u, thread / 32u % 4u * 16u);
}

fn begin_sums(thread: u32) {
    if thread < TILE {
        tiles[thread] = 0.0; // 8 x 8 zeros
    }
    workgroupBarrier();
    sum00 = coopLoadT<coop_mat8x8<f32, C>>(&tiles[0], 8u);
    sum01 = sum00;
    sum10 = sum00;
    sum11 = sum00;
    sum20 = sum00;
    sum21 = sum00;
    sum30 = sum00;
    sum31 = sum00;
    workgroupBarrier();
}

fn multiply_tiles(depth: u32, thread: u32) {
    let first = first_output(thread);
    for (var p = 0u; p < depth; p += 8u) {
        let a = p * TILE + first.x;
        let b = SECOND + p * TILE + first.y;
        // Rows of A are columns in memory: neighbours along p are a line apart.
        let a0 = coopLoad<coop_mat8x8<f32, A>>(&tiles[a], TILE);
        let a1 = coopLoad<coop_mat8x8<f32, A>>(&tiles[a + 8u], TILE);
        let a2 = coopLoad<coop_mat8x8<f32, A>>(&tiles[a + 16u], TILE);
        let a3 = coopLoad<coop_mat8x8<f32, A>>(&tiles[a + 24u], TILE);
        let b0 = coopLoadT<coop_mat8x8<f32, B>>(&tiles[b], TILE);
        let b1 = coopLoadT<coop_mat8x8<f32, B>>(&tiles[b + 8u], TILE);
        sum00 = coopMultiplyAdd(a0, b0, sum00);
        sum01 = coopMultiplyAdd(a0, b1, sum01);
        sum10 = coopMultiplyAdd(a1, b0, sum10);
        sum11 = coopMultiplyAdd(a1, b1, sum11);
        sum20 = coopMultiplyAdd(a2, b0, sum20);
        sum21 = coopMultiplyAdd(a2, b1, sum21);
        sum30 = coopMultiplyAdd(a3, b0, sum30);
        sum31 = coopMultiplyAdd(a3, b1, sum31);
    }
}

// The thread's outputs, row by row. After a barrier: nobody reads the tiles any more.
fn outputs(thread: u32) -> mat4x4<f32> {
    let first = first_output(thread);
    let at = first.x * TILE + first.y;
    coopStoreT(sum00, &tiles[at], TILE);
    coopStoreT(sum01, &tiles[at + 8u], TILE);
    coopStoreT(sum10, &tiles[at + 8u * TILE], TILE);
    coopStoreT(sum11, &tiles[at + 8u * TILE + 8u], TILE);
    coopStoreT(sum20, &tiles[at + 16u * TILE], TILE);
    coopStoreT(sum21, &tiles[at + 16u * TILE + 8u], TILE);
    coopStoreT(sum30, &tiles[at + 24u * TILE], TILE);
    coopStoreT(sum31, &tiles[at + 24u * TILE + 8u], TILE);
    workgroupBarrier();
    var block: mat4x4<f32>;
    for (var row = 0u; row < 4u; row++) {
        let own = (thread / 16u * 4u + row) * TILE + thread % 16u * 4u;
        block[row] = vec4<f32>(tiles[own], tiles[own + 1u], tiles[own + 2u], tiles[own + 3u]);
    }
    return block;
}
