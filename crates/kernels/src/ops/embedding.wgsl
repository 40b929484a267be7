// The gradient of a table of which rows were looked up: tokens' embeddings, or learned positions. (The lookup itself is
// `packed_rows`, in matmul/packed.wgsl.)
//
//   d_table[ids[r], c] += scale * dx[r,c]
//
// dx: [rows, width] f32. The gradient [vocab, width] lies in f32 panels of 32 rows (see `panels`): [vocab/32][width][32]. A
// table too large for one buffer comes in several, some panels each, with a launch for the runs of each.
//
// Two rows of dx may be of the same row of the table, and must not add to it at once; nor may the order of the sum
// change from run to run. So the host sorts: `order` has the numbers 0 .. rows of dx's rows,
// those that look up one row of the table next to each other and ascending, and `runs` [distinct, 3] has, for
// each row of the table that occurs, its id, where its part of `order` begins and how long that is. A workgroup
// takes 256 columns of such a row; a thread walks the rows of dx of its column in this order, alone.

struct Gradient {
    distinct: u32,  // runs of this part of the table
    first_run: u32,
    first_row: u32, // of this part
    width: u32,
    scale: f32,
}

var<immediate> gradient: Gradient;

@group(0) @binding(0) var<storage, read> dx: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> runs: array<u32>;
@group(0) @binding(3) var<storage, read_write> d_table: array<f32>;

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
    let run = 3u * (gradient.first_run + at.row);
    let first = runs[run + 1u];
    let end = first + runs[run + 2u];
    let i = in_panels(runs[run] - gradient.first_row, at.column, gradient.width);
    var sum = d_table[i];
    for (var j = first; j < end; j++) {
        sum += gradient.scale * dx[order[j] * gradient.width + at.column];
    }
    d_table[i] = sum;
}
