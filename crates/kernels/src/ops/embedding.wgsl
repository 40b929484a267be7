// A table of which rows are looked up: tokens' embeddings, or learned positions.
//
//   forward    x[r,c]  = scale * table[ids[r], c]             or x[r,c] += that
//   backward   d_table[ids[r], c] += scale * dx[r,c]
//
// x, dx: [rows, width] f32; ids: [rows]. The table [vocab, width] lies in panels of 32 rows, as the products
// read it (see `panels`), and its gradient in f32 panels:
//
//   f32    [vocab/32][width][32]
//   f16    [vocab/32][width][32], two neighbouring rows in a word of 32 bits
//   bf16   [vocab/32][width/2][32][2], two neighbouring columns in a word; an odd width is filled up
//
// Forward: a workgroup takes 256 columns of a row of x.
//
// Backward: two rows of x may look up the same row of the table, and must not add to it at once; nor may the
// order of the sum change from run to run. So the host sorts: `order` has the numbers 0 .. rows of x's rows,
// those that look up one row of the table next to each other and ascending, and `runs` [distinct, 3] has, for
// each row of the table that occurs, its id, where its part of `order` begins and how long that is. A workgroup
// takes 256 columns of such a row; a thread walks the rows of x of its column in this order, alone.

struct Lookup {
    rows: u32,
    width: u32,
    vocab: u32,
    accumulate: u32, // 1: add to x, 0: assign
    scale: f32,
}

struct Gradient {
    distinct: u32,
    width: u32,
    scale: f32,
}

var<immediate> lookup: Lookup;
var<immediate> gradient: Gradient;

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> table_words: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read> dx: array<f32>;
@group(0) @binding(5) var<storage, read> order: array<u32>;
@group(0) @binding(6) var<storage, read> runs: array<u32>;
@group(0) @binding(7) var<storage, read_write> d_table: array<f32>;

const THREADS: u32 = 256u;
const PANEL: u32 = 32u; // rows of a panel

// A row of some number of rows, and a column of it.
struct Place {
    row: u32,
    column: u32,
}

fn place(group: vec3<u32>, groups: vec3<u32>, thread: u32, width: u32) -> Place {
    let tile = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so the tiles fill two
    let tiles = (width - 1u) / THREADS + 1u; // of a row
    return Place(tile / tiles, tile % tiles * THREADS + thread);
}

// Where element [row, column] is in panels of `width` elements or words a row.
fn in_panels(row: u32, column: u32, width: u32) -> u32 {
    return (row / PANEL * width + column) * PANEL + row % PANEL;
}

// Whether this thread has an element of x, and its row is one of the table.
fn is_known(at: Place) -> bool {
    return at.row < lookup.rows && at.column < lookup.width && ids[at.row] < lookup.vocab;
}

fn store(at: Place, value: f32) {
    if at.row >= lookup.rows || at.column >= lookup.width {
        return;
    }
    let i = at.row * lookup.width + at.column;
    var sum = lookup.scale * value;
    if lookup.accumulate == 1u {
        sum += x[i];
    }
    x[i] = sum;
}

// An id that is not below `vocab` counts as a row of zeros.
@compute @workgroup_size(256)
fn embedding_forward_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = place(group, groups, thread, lookup.width);
    var value = 0.0;
    if is_known(at) {
        value = table[in_panels(ids[at.row], at.column, lookup.width)];
    }
    store(at, value);
}

@compute @workgroup_size(256)
fn embedding_forward_bf16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = place(group, groups, thread, lookup.width);
    var value = 0.0;
    if is_known(at) {
        let word = table_words[in_panels(ids[at.row], at.column / 2u, (lookup.width - 1u) / 2u + 1u)];
        // A bf16 is the upper half of an f32.
        value = bitcast<f32>(select(word << 16u, word & 0xffff0000u, at.column % 2u == 1u));
    }
    store(at, value);
}

// The f16 in the lower half. WGSL's unpack2x16float is not allowed on every device, and where it is, it may make
// zeros of numbers below 2^-14, the smallest normal f16. So the bits are put in their places: an f16 has 10 bits
// of mantissa and counts its exponent from -15, an f32 has 23 and counts from -127.
fn from_f16(bits: u32) -> f32 {
    let exponent = (bits >> 10u) & 31u;
    var magnitude = f32(bits & 0x3ffu) * 5.9604645e-8; // below the smallest normal: an integer times 2^-24
    if exponent > 0u {
        let shift = select(127u - 15u, 2u * (127u - 15u), exponent == 31u); // infinity stays infinity
        magnitude = bitcast<f32>(((bits & 0x7fffu) << 13u) + (shift << 23u));
    }
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

@compute @workgroup_size(256)
fn embedding_forward_f16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = place(group, groups, thread, lookup.width);
    var value = 0.0;
    if is_known(at) {
        let i = in_panels(ids[at.row], at.column, lookup.width);
        value = from_f16(table_words[i / 2u] >> (16u * (i % 2u)));
    }
    store(at, value);
}

// d_table is added to, where its rows occur.
@compute @workgroup_size(256)
fn embedding_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = place(group, groups, thread, gradient.width);
    if at.row >= gradient.distinct || at.column >= gradient.width {
        return;
    }
    let first = runs[3u * at.row + 1u];
    let end = first + runs[3u * at.row + 2u];
    let i = in_panels(runs[3u * at.row], at.column, gradient.width);
    var sum = d_table[i];
    for (var j = first; j < end; j++) {
        sum += gradient.scale * dx[order[j] * gradient.width + at.column];
    }
    d_table[i] = sum;
}
