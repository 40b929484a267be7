// Attention backward, over whole sequences one behind the other; the forward stands in forward.wgsl. The weights
// come again from the scores and lse, so that nothing of size T x T is stored (FlashAttention-2, Dao 2023).
//
//   p[t]  = e^(scale * q . k[t] - lse)
//   delta = dy . y
//   ds[t] = p[t] * (dy . v[t] - delta)
//   dq    = scale * sum over t of ds[t] * k[t]
//   dk[t] = scale * sum over queries of ds[t] * q
//   dv[t] =         sum over queries of p[t] * dy
//
// q, y, dy, dq: [rows, H * D]; k, v, dk, dv: [rows, G * D]; lse: [rows, H]. All gradients are assigned.
//
// How the work is split: attention_backward_delta leaves (lse, delta) of each row and query head in `stats`. Then
// attention_backward_queries takes the tiles of attention_forward: 16 rows (tokens times the query heads that
// share a key/value head), and walks the keys 32 at a time; attention_backward_keys takes 16 keys and walks the
// queries 32 at a time, one query head of the group after the other. In both, thread 16 r + l of 256 is lane l
// of row r; 64 columns at a time of the 16 rows and of the 32 others come to workgroup memory (15 KiB in all). Each
// output has one workgroup that adds up in a fixed order: no atomics, and its bits depend on its sequence alone.

struct Shape {
    heads: u32,          // H
    kv_heads: u32,       // G
    columns: u32,        // D / 4: everything is read four values at a time
    heads_per_tile: u32, // query heads of a tile of queries
    parts: u32,          // tiles of queries that share the query heads of a key/value head
    tiles: u32,          // entries of `tiles`
    window: u32,
    scale: f32,
    rows: u32,
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>;
// Tokens of one sequence. Of queries: row of position 0, position of the first token, row of the first token,
// number. Of keys: row of position 0, position of the first token, tokens of the sequence, number.
@group(0) @binding(4) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> lse: array<f32>;
@group(0) @binding(7) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(8) var<storage, read_write> stats_out: array<vec2<f32>>;
@group(0) @binding(9) var<storage, read_write> dq: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> dv: array<vec4<f32>>;

const STEP: u32 = 32u;     // keys, or queries, that are walked at a time
const WIDTH: u32 = 16u;    // fours of columns in workgroup memory
const LINE: u32 = 17u;     // one more, so that threads that read one column of many lines meet different banks
const WEIGHTS: u32 = 33u;  // the same for the 32 weights of a row
const NOWHERE: u32 = 0xffffffffu;

const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const DY: u32 = 3u;

var<workgroup> row_tile: array<vec4<f32>, 272>;  // [16 rows][LINE]
var<workgroup> step_tile: array<vec4<f32>, 544>; // [32][LINE]
var<workgroup> weights: array<f32, 528>;         // [16 rows][WEIGHTS]

// Where a thread reads: its row of the tile, and the two lines of the step that it brings.
struct Places {
    row: u32,
    one: u32,
    two: u32,
}

// Four of them for a thread.
struct Sums {
    y0: vec4<f32>,
    y1: vec4<f32>,
    y2: vec4<f32>,
    y3: vec4<f32>,
}

fn first_seen(position: u32) -> u32 {
    if position >= shape.window {
        return position + 1u - shape.window;
    }
    return 0u;
}

fn element(which: u32, i: u32) -> vec4<f32> {
    switch which {
        case 0u: { return q[i]; }
        case 1u: { return k[i]; }
        case 2u: { return v[i]; }
        default: { return dy[i]; }
    }
}

// Column `c` of the line at `place`; 0 where there is none.
fn load(which: u32, place: u32, c: u32) -> vec4<f32> {
    if place == NOWHERE || c >= shape.columns {
        return vec4<f32>();
    }
    return element(which, place + c);
}

// `scale` times the products of this thread's row with lines `lane` and `lane + 16` of the step.
fn products(scale: f32, of_row: u32, of_step: u32, at: Places, thread: u32) -> vec2<f32> {
    let r = thread / 16u;
    let lane = thread % 16u;
    var one = vec4<f32>();
    var two = vec4<f32>();
    for (var first = 0u; first < shape.columns; first += WIDTH) {
        row_tile[r * LINE + lane] = load(of_row, at.row, first + lane) * scale;
        step_tile[r * LINE + lane] = load(of_step, at.one, first + lane);
        step_tile[(r + 16u) * LINE + lane] = load(of_step, at.two, first + lane);
        workgroupBarrier();
        let width = min(WIDTH, shape.columns - first);
        for (var i = 0u; i < width; i++) {
            let a = row_tile[r * LINE + i];
            one = fma(a, step_tile[lane * LINE + i], one);
            two = fma(a, step_tile[(lane + 16u) * LINE + i], two);
        }
        workgroupBarrier();
    }
    return vec2<f32>((one.x + one.y) + (one.z + one.w), (two.x + two.y) + (two.z + two.w));
}

// `start` and the 32 weights of this thread's row times column `first + lane` of the step.
fn gather_columns(start: vec4<f32>, of_step: u32, at: Places, first: u32, thread: u32) -> vec4<f32> {
    let r = thread / 16u;
    let lane = thread % 16u;
    step_tile[r * LINE + lane] = load(of_step, at.one, first + lane);
    step_tile[(r + 16u) * LINE + lane] = load(of_step, at.two, first + lane);
    workgroupBarrier();
    var sum = start;
    for (var i = 0u; i < STEP; i++) {
        sum = fma(vec4<f32>(weights[r * WEIGHTS + i]), step_tile[i * LINE + lane], sum);
    }
    workgroupBarrier();
    return sum;
}

// The same of every column. The barriers also stand between the weights' writes, their reads and the next writes.
fn gather(start: Sums, of_step: u32, at: Places, thread: u32) -> Sums {
    var sums = start;
    sums.y0 = gather_columns(sums.y0, of_step, at, 0u, thread);
    if shape.columns > 16u {
        sums.y1 = gather_columns(sums.y1, of_step, at, 16u, thread);
    }
    if shape.columns > 32u {
        sums.y2 = gather_columns(sums.y2, of_step, at, 32u, thread);
    }
    if shape.columns > 48u {
        sums.y3 = gather_columns(sums.y3, of_step, at, 48u, thread);
    }
    return sums;
}

// The weight of a score. One that is seen is at most lse, but for rounding; others may be anything. Less than e^-100
// counts for nothing.
fn weight(sees: bool, score: f32, row_lse: f32) -> f32 {
    return select(0.0, exp(clamp(score - row_lse, -100.0, 0.0)), sees);
}

// stats is assigned. A workgroup takes 16 rows and heads, with 16 threads each.
@compute @workgroup_size(256)
fn attention_backward_delta(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let r = thread / 16u;
    let lane = thread % 16u;
    let index = (group.y * groups.x + group.x) * 16u + r;
    let exists = index < shape.rows * shape.heads;
    var sum = vec4<f32>();
    if exists {
        for (var c = lane; c < shape.columns; c += 16u) {
            let i = index * shape.columns + c;
            sum = fma(dy[i], y[i], sum);
        }
    }
    weights[r * WEIGHTS + lane] = (sum.x + sum.y) + (sum.z + sum.w);
    workgroupBarrier();
    if exists && lane == 0u {
        var delta = 0.0;
        for (var i = 0u; i < 16u; i++) {
            delta += weights[r * WEIGHTS + i];
        }
        stats_out[index] = vec2<f32>(lse[index], delta);
    }
}

// dq is assigned.
@compute @workgroup_size(256)
fn attention_backward_queries(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let per_entry = shape.kv_heads * shape.parts;
    let index = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so tiles fill two
    if index >= shape.tiles * per_entry {
        return;
    }
    let r = thread / 16u;
    let lane = thread % 16u;
    // The last tiles of a sequence see the most keys: they begin first, so that none ends alone.
    let entry = tiles[shape.tiles - 1u - index / per_entry];
    let kv_head = index % per_entry / shape.parts;
    let token = r / shape.heads_per_tile;
    let of_group = index % shape.parts * shape.heads_per_tile + r % shape.heads_per_tile;
    let group_size = shape.heads / shape.kv_heads;
    let exists = token < entry.w && of_group < group_size;
    let row = (entry.z + token) * shape.heads + kv_head * group_size + of_group; // row * H + head
    let position = entry.y + token;
    let end = entry.y + entry.w;
    var places = Places(NOWHERE, NOWHERE, NOWHERE);
    var stat = vec2<f32>();
    if exists {
        places.row = row * shape.columns;
        stat = stats[row];
    }

    var sums = Sums();
    for (var key = first_seen(entry.y) / STEP * STEP; key < end; key += STEP) {
        places.one = NOWHERE;
        places.two = NOWHERE;
        if key + r < end {
            places.one = ((entry.x + key + r) * shape.kv_heads + kv_head) * shape.columns;
        }
        if key + r + 16u < end {
            places.two = ((entry.x + key + r + 16u) * shape.kv_heads + kv_head) * shape.columns;
        }
        let scores = products(shape.scale, Q, K, places, thread);
        let dweights = products(1.0, DY, V, places, thread);
        let one = key + lane;
        let two = key + lane + 16u;
        let start = first_seen(position);
        let p_one = weight(exists && one >= start && one <= position, scores.x, stat.x);
        let p_two = weight(exists && two >= start && two <= position, scores.y, stat.x);
        weights[r * WEIGHTS + lane] = p_one * (dweights.x - stat.y);
        weights[r * WEIGHTS + lane + 16u] = p_two * (dweights.y - stat.y);
        sums = gather(sums, K, places, thread);
    }

    if exists {
        let at = places.row + lane;
        if lane < shape.columns {
            dq[at] = sums.y0 * shape.scale;
        }
        if lane + 16u < shape.columns {
            dq[at + 16u] = sums.y1 * shape.scale;
        }
        if lane + 32u < shape.columns {
            dq[at + 32u] = sums.y2 * shape.scale;
        }
        if lane + 48u < shape.columns {
            dq[at + 48u] = sums.y3 * shape.scale;
        }
    }
}

// dk and dv are assigned. Nobody else adds to them: the workgroup walks all query heads of the group.
@compute @workgroup_size(256)
fn attention_backward_keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= shape.tiles * shape.kv_heads {
        return;
    }
    let r = thread / 16u;
    let lane = thread % 16u;
    let entry = tiles[index / shape.kv_heads]; // the first keys of a sequence are seen by the most queries
    let kv_head = index % shape.kv_heads;
    let group_size = shape.heads / shape.kv_heads;
    let exists = r < entry.w;
    let position = entry.y + r;
    var places = Places(NOWHERE, NOWHERE, NOWHERE);
    if exists {
        places.row = ((entry.x + position) * shape.kv_heads + kv_head) * shape.columns;
    }
    // Behind the last query that sees any of these keys.
    let last = entry.y + entry.w - 1u;
    var end = entry.z;
    if end - last > shape.window {
        end = last + shape.window;
    }

    var dkeys = Sums();
    var dvalues = Sums();
    for (var head = kv_head * group_size; head < (kv_head + 1u) * group_size; head++) {
        for (var query = entry.y / STEP * STEP; query < end; query += STEP) {
            places.one = NOWHERE;
            places.two = NOWHERE;
            if query + r < end {
                places.one = ((entry.x + query + r) * shape.heads + head) * shape.columns;
            }
            if query + r + 16u < end {
                places.two = ((entry.x + query + r + 16u) * shape.heads + head) * shape.columns;
            }
            let scores = products(shape.scale, K, Q, places, thread);
            let dweights = products(1.0, V, DY, places, thread);
            let one = query + lane;
            let two = query + lane + 16u;
            var stat_one = vec2<f32>();
            var stat_two = vec2<f32>();
            if one < end {
                stat_one = stats[(entry.x + one) * shape.heads + head];
            }
            if two < end {
                stat_two = stats[(entry.x + two) * shape.heads + head];
            }
            let sees_one = exists && one < end && position <= one && position >= first_seen(one);
            let sees_two = exists && two < end && position <= two && position >= first_seen(two);
            let p_one = weight(sees_one, scores.x, stat_one.x);
            let p_two = weight(sees_two, scores.y, stat_two.x);
            weights[r * WEIGHTS + lane] = p_one;
            weights[r * WEIGHTS + lane + 16u] = p_two;
            dvalues = gather(dvalues, DY, places, thread);
            weights[r * WEIGHTS + lane] = p_one * (dweights.x - stat_one.y);
            weights[r * WEIGHTS + lane + 16u] = p_two * (dweights.y - stat_two.y);
            dkeys = gather(dkeys, Q, places, thread);
        }
    }

    if exists {
        let at = places.row + lane;
        if lane < shape.columns {
            dk[at] = dkeys.y0 * shape.scale;
            dv[at] = dvalues.y0;
        }
        if lane + 16u < shape.columns {
            dk[at + 16u] = dkeys.y1 * shape.scale;
            dv[at + 16u] = dvalues.y1;
        }
        if lane + 32u < shape.columns {
            dk[at + 32u] = dkeys.y2 * shape.scale;
            dv[at + 32u] = dvalues.y2;
        }
        if lane + 48u < shape.columns {
            dk[at + 48u] = dkeys.y3 * shape.scale;
            dv[at + 48u] = dvalues.y3;
        }
    }
}
