// Causal attention of H query heads over G key/value heads of width D, with the keys and values in a cache.
//
//   s[t] = scale * q . k[t]          for the keys t that the query may see: itself and those before it,
//   y    = sum over t of softmax(s)[t] * v[t]                         `window` positions in all
//   lse  = ln(sum over t of e^s[t])
//
// q, y: [rows, H * D]; lse: [rows, H]; keys, values: [slots, capacity, G, D], a slot holds one sequence, position
// p at p % capacity (with a window the capacity may be less than the sequence: a ring). Strides say how keys and
// values lie, so the same kernels read the rows of a projection, [rows, G * D]. Values are f32, or pairs of f16.
//
// How the work is split: a tile is 16 rows of queries that share a key/value head: a few tokens of one sequence
// times the query heads of the group (a group of more than 16 heads is several tiles). A workgroup of 256 threads
// takes a tile: thread 16 r + l is lane l of row r. It walks the keys 32 at a time with one running maximum, sum and
// output a row (the online softmax of Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022). For the
// products, 64 columns at a time of 16 rows and of 32 keys or values come to workgroup memory (15 KiB in all).
//
// Keys are taken in stretches of 128 positions, counted from position 0. A stretch gives a part: the maximum of its
// scores, the sum of its weights and the weighted sum of its values. A row's result is its parts, folded in
// order. Keys that a row does not see change nothing, to the bit. attention_forward makes the parts of a tile one
// after the other; attention_decode makes each in a workgroup of its own and attention_combine folds them. Both call
// the same two functions, so both give the same bits, whatever other rows there are.

struct Shape {
    heads: u32,           // H
    kv_heads: u32,        // G
    columns: u32,         // D / 4: q, y, keys and values are read four values at a time
    heads_per_tile: u32,  // query heads of a tile
    parts: u32,           // tiles that share the query heads of a key/value head
    tiles: u32,           // entries of `tiles`
    window: u32,
    scale: f32,
    half: u32,            // 1: keys and values are pairs of f16, 0: they are f32
    capacity: u32,
    slot_stride: u32,     // of keys and values, in fours of values
    head_stride: u32,
    position_stride: u32,
    stretches: u32,       // of keys that a row of `scratch` has room for
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
// An element is four f16, or two f32: then four values are two elements.
@group(0) @binding(1) var<storage, read> keys: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> values: array<vec2<u32>>;
// Tokens of one sequence: slot, position of the first, row of the first, number.
@group(0) @binding(3) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
// Parts [rows, H, stretches, D / 4 + 1]: the weighted sum of values, then (largest, sum, 0, 0).
@group(0) @binding(6) var<storage, read_write> scratch: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> keys_out: array<vec2<u32>>;
@group(0) @binding(10) var<storage, read_write> values_out: array<vec2<u32>>;

const KEYS: u32 = 32u;      // of a step
const STRETCH: u32 = 128u;  // keys of a part
const WIDTH: u32 = 16u;     // fours of columns in workgroup memory
const LINE: u32 = 17u;      // one more, so that threads that read one column of many lines meet different banks
const WEIGHTS: u32 = 33u;   // the same for the 32 weights of a row
const NOWHERE: u32 = 0xffffffffu;
const LOWEST: f32 = -3.4e38; // instead of minus infinity, which WGSL has not

var<workgroup> row_tile: array<vec4<f32>, 272>;  // [16 rows][LINE]
var<workgroup> key_tile: array<vec4<f32>, 544>;  // [32 keys][LINE], of keys, then of values
var<workgroup> weights: array<f32, 528>;         // [16 rows][WEIGHTS]: scores, then weights

// What a workgroup works on.
struct Tile {
    slot: u32,
    first: u32,   // position of the first token
    row: u32,     // row of the first token
    tokens: u32,
    kv_head: u32,
    head: u32,    // the first query head
    heads: u32,   // query heads
    start: u32,   // the first position that any of its rows sees
    end: u32,     // behind the last
}

// A thread's row of the tile.
struct Row {
    index: u32,   // row * H + head; NOWHERE: the tile has fewer rows
    start: u32,   // the positions that it sees
    end: u32,
}

// What a row has from some of its keys; a lane has columns lane, lane + 16, lane + 32 and lane + 48 (in fours).
struct Part {
    largest: f32, // score
    sum: f32,     // of weights e^(score - largest); 0: no key is seen
    y0: vec4<f32>, // of weights times values
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

fn tile_of(index: u32) -> Tile {
    let per_entry = shape.kv_heads * shape.parts;
    // The last tiles of a prompt see the most keys: they begin first, so that none ends alone.
    let entry = tiles[shape.tiles - 1u - index / per_entry];
    let kv_head = index % per_entry / shape.parts;
    let part = index % shape.parts;
    let group = shape.heads / shape.kv_heads;
    let head = part * shape.heads_per_tile;
    let heads = min(shape.heads_per_tile, group - head);
    return Tile(entry.x, entry.y, entry.z, entry.w, kv_head, kv_head * group + head, heads, first_seen(entry.y),
        entry.y + entry.w);
}

fn row_of(tile: Tile, row: u32) -> Row {
    let token = row / shape.heads_per_tile;
    let head = row % shape.heads_per_tile;
    if token >= tile.tokens || head >= tile.heads {
        return Row(NOWHERE, 0u, 0u);
    }
    let position = tile.first + token;
    return Row((tile.row + token) * shape.heads + tile.head + head, first_seen(position), position + 1u);
}

// Where the cache has a position of the tile's head. Of what no row sees nothing is read: it may be anything.
fn place_of(tile: Tile, position: u32) -> u32 {
    if position < tile.start || position >= tile.end {
        return NOWHERE;
    }
    return tile.slot * shape.slot_stride + tile.kv_head * shape.head_stride
        + position % shape.capacity * shape.position_stride;
}

// Two f16 from the halves of a word, low half first. In integers, as conversions of WGSL need a capability that the
// portable set has not. A number below 2^-14 has no leading 1: it is 0.5 and its bits as last bits, less 0.5. Infinity
// becomes 65536.
fn unpack(word: u32) -> vec2<f32> {
    let halves = vec2<u32>(word & 0xffffu, word >> 16u);
    let sizes = halves & vec2<u32>(0x7fffu);
    let normal = bitcast<vec2<f32>>(sizes << vec2<u32>(13u)) * 0x1p112f; // exponents count from 15, not from 127
    let small = bitcast<vec2<f32>>(sizes | vec2<u32>(0x3f000000u)) - 0.5;
    let size = select(normal, small, sizes < vec2<u32>(0x0400u));
    return select(size, -size, halves > vec2<u32>(0x7fffu));
}

// The reverse, rounded to the nearest, ties to even; what is too large becomes infinity.
fn pack(values: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(values);
    let sizes = bits & vec2<u32>(0x7fffffffu);
    let even = (sizes >> vec2<u32>(13u)) & vec2<u32>(1u);
    let normal = (sizes + vec2<u32>(0xfffu) + even - vec2<u32>(0x38000000u)) >> vec2<u32>(13u);
    // Added to 0.5, whose last bit is the smallest f16, the number is rounded to one.
    let small = bitcast<vec2<u32>>(abs(values) + 0.5) - vec2<u32>(0x3f000000u);
    var halves = select(min(normal, vec2<u32>(0x7c00u)), small, sizes < vec2<u32>(0x38800000u));
    halves = halves | ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u));
    return halves.x | (halves.y << 16u);
}

fn key_at(i: u32) -> vec4<f32> {
    if shape.half == 1u {
        let four = keys[i];
        return vec4<f32>(unpack(four.x), unpack(four.y));
    }
    return vec4<f32>(bitcast<vec2<f32>>(keys[2u * i]), bitcast<vec2<f32>>(keys[2u * i + 1u]));
}

fn value_at(i: u32) -> vec4<f32> {
    if shape.half == 1u {
        let four = values[i];
        return vec4<f32>(unpack(four.x), unpack(four.y));
    }
    return vec4<f32>(bitcast<vec2<f32>>(values[2u * i]), bitcast<vec2<f32>>(values[2u * i + 1u]));
}

// The products of this thread's row with keys `lane` and `lane + 16` of a step. The thread brings its lane of the
// row and of keys r and r + 16, which lie at `one` and `two`.
fn products(row: Row, one: u32, two: u32, thread: u32) -> vec2<f32> {
    let r = thread / 16u;
    let lane = thread % 16u;
    var sum_one = vec4<f32>();
    var sum_two = vec4<f32>();
    for (var first = 0u; first < shape.columns; first += WIDTH) {
        let c = first + lane;
        let inside = c < shape.columns;
        var of_row = vec4<f32>();
        var of_one = vec4<f32>();
        var of_two = vec4<f32>();
        if inside && row.index != NOWHERE {
            of_row = q[row.index * shape.columns + c] * shape.scale;
        }
        if inside && one != NOWHERE {
            of_one = key_at(one + c);
        }
        if inside && two != NOWHERE {
            of_two = key_at(two + c);
        }
        row_tile[r * LINE + lane] = of_row;
        key_tile[r * LINE + lane] = of_one;
        key_tile[(r + 16u) * LINE + lane] = of_two;
        workgroupBarrier();
        let width = min(WIDTH, shape.columns - first);
        for (var i = 0u; i < width; i++) {
            let a = row_tile[r * LINE + i];
            sum_one = fma(a, key_tile[lane * LINE + i], sum_one);
            sum_two = fma(a, key_tile[(lane + 16u) * LINE + i], sum_two);
        }
        workgroupBarrier();
    }
    return vec2<f32>(
        (sum_one.x + sum_one.y) + (sum_one.z + sum_one.w),
        (sum_two.x + sum_two.y) + (sum_two.z + sum_two.w),
    );
}

// `start` and the 32 weights of this thread's row times column `first + lane` of the values.
fn gather(start: vec4<f32>, one: u32, two: u32, first: u32, thread: u32) -> vec4<f32> {
    let r = thread / 16u;
    let lane = thread % 16u;
    let c = first + lane;
    let inside = c < shape.columns;
    var of_one = vec4<f32>();
    var of_two = vec4<f32>();
    if inside && one != NOWHERE {
        of_one = value_at(one + c);
    }
    if inside && two != NOWHERE {
        of_two = value_at(two + c);
    }
    key_tile[r * LINE + lane] = of_one;
    key_tile[(r + 16u) * LINE + lane] = of_two;
    workgroupBarrier();
    var sum = start;
    for (var i = 0u; i < KEYS; i++) {
        sum = fma(vec4<f32>(weights[r * WEIGHTS + i]), key_tile[i * LINE + lane], sum);
    }
    workgroupBarrier();
    return sum;
}

// e^x of x <= 0, which may be as low as LOWEST. What is less than e^-100 counts for nothing beside a weight of 1, and
// the exponential of a device need not know infinity.
fn weight(x: f32) -> f32 {
    return exp(max(x, -100.0));
}

// e^(before - after), exactly 1 where nothing changes: a step that a row does not see must leave no trace.
fn shrink(before: f32, after: f32) -> f32 {
    return select(weight(before - after), 1.0, before == after);
}

// The part of this thread's row from one stretch of keys.
fn part_of(tile: Tile, row: Row, stretch: u32, thread: u32) -> Part {
    let r = thread / 16u;
    let lane = thread % 16u;
    var part = Part(LOWEST, 0.0, vec4<f32>(), vec4<f32>(), vec4<f32>(), vec4<f32>());
    let start = max(stretch * STRETCH, tile.start / KEYS * KEYS);
    let end = min((stretch + 1u) * STRETCH, tile.end);
    for (var key = start; key < end; key += KEYS) {
        let one = place_of(tile, key + r);
        let two = place_of(tile, key + r + 16u);
        let scores = products(row, one, two, thread);

        let sees_one = key + lane >= row.start && key + lane < row.end;
        let sees_two = key + lane + 16u >= row.start && key + lane + 16u < row.end;
        let score_one = select(LOWEST, scores.x, sees_one);
        let score_two = select(LOWEST, scores.y, sees_two);
        weights[r * WEIGHTS + lane] = score_one;
        weights[r * WEIGHTS + lane + 16u] = score_two;
        workgroupBarrier();
        var largest = part.largest;
        for (var i = 0u; i < KEYS; i++) {
            largest = max(largest, weights[r * WEIGHTS + i]);
        }
        workgroupBarrier(); // nobody overwrites the scores before all have read them
        weights[r * WEIGHTS + lane] = select(0.0, weight(score_one - largest), sees_one);
        weights[r * WEIGHTS + lane + 16u] = select(0.0, weight(score_two - largest), sees_two);

        let factor = shrink(part.largest, largest);
        part.largest = largest;
        part.y0 = gather(part.y0 * factor, one, two, 0u, thread); // its barrier is that of the weights too
        if shape.columns > 16u {
            part.y1 = gather(part.y1 * factor, one, two, 16u, thread);
        }
        if shape.columns > 32u {
            part.y2 = gather(part.y2 * factor, one, two, 32u, thread);
        }
        if shape.columns > 48u {
            part.y3 = gather(part.y3 * factor, one, two, 48u, thread);
        }
        var sum = 0.0;
        for (var i = 0u; i < KEYS; i++) {
            sum += weights[r * WEIGHTS + i];
        }
        part.sum = fma(part.sum, factor, sum);
        // The barriers of the next products stand between these reads and the next scores.
    }
    return part;
}

// `total` with one more part. Multiply-adds are spelt out, lest a compiler fuse them in one kernel only.
fn fold(total: Part, part: Part) -> Part {
    if part.sum == 0.0 {
        return total;
    }
    if total.sum == 0.0 {
        return part;
    }
    let largest = max(total.largest, part.largest);
    let a = shrink(total.largest, largest);
    let b = shrink(part.largest, largest);
    let a4 = vec4<f32>(a);
    return Part(
        largest,
        fma(total.sum, a, part.sum * b),
        fma(total.y0, a4, part.y0 * b),
        fma(total.y1, a4, part.y1 * b),
        fma(total.y2, a4, part.y2 * b),
        fma(total.y3, a4, part.y3 * b),
    );
}

fn store_result(row: Row, total: Part, lane: u32) {
    if row.index == NOWHERE {
        return;
    }
    let inverse = 1.0 / total.sum;
    let at = row.index * shape.columns + lane;
    if lane < shape.columns {
        y[at] = total.y0 * inverse;
    }
    if lane + 16u < shape.columns {
        y[at + 16u] = total.y1 * inverse;
    }
    if lane + 32u < shape.columns {
        y[at + 32u] = total.y2 * inverse;
    }
    if lane + 48u < shape.columns {
        y[at + 48u] = total.y3 * inverse;
    }
    if lane == 0u {
        lse[row.index] = total.largest + log(total.sum);
    }
}

// y and lse are assigned.
@compute @workgroup_size(256)
fn attention_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so tiles fill two
    if index >= shape.tiles * shape.kv_heads * shape.parts {
        return;
    }
    let tile = tile_of(index);
    let row = row_of(tile, thread / 16u);
    var total = Part(LOWEST, 0.0, vec4<f32>(), vec4<f32>(), vec4<f32>(), vec4<f32>());
    for (var stretch = tile.start / STRETCH; stretch * STRETCH < tile.end; stretch++) {
        total = fold(total, part_of(tile, row, stretch, thread));
    }
    store_result(row, total, thread % 16u);
}

// Where `scratch` has a part of a row.
fn part_at(row: Row, number: u32) -> u32 {
    return (row.index * shape.stretches + number) * (shape.columns + 1u);
}

// Parts are assigned: one a workgroup, group.z counts the stretches of the tile.
@compute @workgroup_size(256)
fn attention_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= shape.tiles * shape.kv_heads * shape.parts {
        return;
    }
    let tile = tile_of(index);
    let row = row_of(tile, thread / 16u);
    let lane = thread % 16u;
    // Behind the tile's last stretch this walks no keys, and leaves a part that attention_combine does not read.
    let part = part_of(tile, row, tile.start / STRETCH + group.z, thread);
    if row.index == NOWHERE {
        return;
    }
    let at = part_at(row, group.z);
    if lane < shape.columns {
        scratch[at + lane] = part.y0;
    }
    if lane + 16u < shape.columns {
        scratch[at + lane + 16u] = part.y1;
    }
    if lane + 32u < shape.columns {
        scratch[at + lane + 32u] = part.y2;
    }
    if lane + 48u < shape.columns {
        scratch[at + lane + 48u] = part.y3;
    }
    if lane == 0u {
        scratch[at + shape.columns] = vec4<f32>(part.largest, part.sum, 0.0, 0.0);
    }
}

// y and lse are assigned.
@compute @workgroup_size(256)
fn attention_combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= shape.tiles * shape.kv_heads * shape.parts {
        return;
    }
    let tile = tile_of(index);
    let row = row_of(tile, thread / 16u);
    let lane = thread % 16u;
    if row.index == NOWHERE {
        return;
    }
    var total = Part(LOWEST, 0.0, vec4<f32>(), vec4<f32>(), vec4<f32>(), vec4<f32>());
    let first = tile.start / STRETCH;
    for (var stretch = first; stretch * STRETCH < tile.end; stretch++) {
        let at = part_at(row, stretch - first);
        let head = scratch[at + shape.columns];
        var part = Part(head.x, head.y, vec4<f32>(), vec4<f32>(), vec4<f32>(), vec4<f32>());
        if lane < shape.columns {
            part.y0 = scratch[at + lane];
        }
        if lane + 16u < shape.columns {
            part.y1 = scratch[at + lane + 16u];
        }
        if lane + 32u < shape.columns {
            part.y2 = scratch[at + lane + 32u];
        }
        if lane + 48u < shape.columns {
            part.y3 = scratch[at + lane + 48u];
        }
        total = fold(total, part);
    }
    store_result(row, total, lane);
}

// New keys and values k, v: [rows, G * D] into their caches. A workgroup takes the tokens of an entry of `tiles`.
@compute @workgroup_size(256)
fn attention_append(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= shape.tiles {
        return;
    }
    let entry = tiles[index];
    let width = shape.kv_heads * shape.columns;
    for (var i = thread; i < entry.w * width; i += 256u) {
        let token = i / width;
        let head = i % width / shape.columns;
        let to = entry.x * shape.slot_stride + head * shape.head_stride
            + (entry.y + token) % shape.capacity * shape.position_stride + i % shape.columns;
        let key = k[entry.z * width + i];
        let value = v[entry.z * width + i];
        if shape.half == 1u {
            keys_out[to] = vec2<u32>(pack(key.xy), pack(key.zw));
            values_out[to] = vec2<u32>(pack(value.xy), pack(value.zw));
        } else {
            keys_out[2u * to] = bitcast<vec2<u32>>(key.xy);
            keys_out[2u * to + 1u] = bitcast<vec2<u32>>(key.zw);
            values_out[2u * to] = bitcast<vec2<u32>>(value.xy);
            values_out[2u * to + 1u] = bitcast<vec2<u32>>(value.zw);
        }
    }
}
