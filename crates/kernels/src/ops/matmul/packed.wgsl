// The products of a linear layer with packed weights, forward and backward; f32 but for the weights.
//
//   forward      y[m,n]  = sum over k of x[m,k] w[n,k]  (+ bias[n])
//   backward     dx[m,k] = sum over n of dy[m,n] w[n,k]
//                dw[n,k] = sum over m of dy[m,n] x[m,k]
//   lookup       y[m,k]  = scale * w[ids[m],k]              an embedding, whose table is packed as well
//
// or that is added to what is there. Of forward the whole sum is rounded first, with the bias.
//
// x, dx: [rows, depth]; y, dy: [rows, width] (of a lookup [rows, depth]); bias: [width]; ids: [rows]. w and dw (f32) lie in
// panels of 32 output channels, as on the CPU (crates/kernels/src/panels): `weights(panel, quad, lane)`, of a file for each
// layout, gives the weights of channel 32 panel + lane for k = 4 quad .. 4 quad + 4. A matrix too large for one buffer
// comes in several, some panels each: `first` is the first channel of this one.
//
// One order of sums. k is cut into stretches of 128; a stretch is summed from its first value to its last, and stretches are
// added from the first to the last. Both forward kernels keep to it, so that a row of y has the same bits whether it comes
// alone or among others.

struct Shape {
    rows: u32,        // m
    width: u32,       // n of the whole matrix: a row of y and dy
    depth: u32,       // k
    panel_words: u32, // of a panel of w
    panels: u32,      // in this buffer
    first: u32,       // channel of the first panel
    scale: f32,       // what is looked up is multiplied by
    flags: u32,       // HAS_BIAS, ADDS
}

const HAS_BIAS: u32 = 1u; // forward: a bias is added
const ADDS: u32 = 2u;     // the result is added to what is there

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;
@group(0) @binding(7) var<storage, read> ids: array<u32>;

const STRETCH: u32 = 32u; // quads: 128 values of k

// Four neighbours of a row of x, zeros beyond its end.
fn inputs(row: u32, quad: u32) -> vec4<f32> {
    let k = 4u * quad;
    let at = row * shape.depth + k;
    if k + 4u <= shape.depth {
        return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
    }
    var four = vec4<f32>();
    for (var i = 0u; k + i < shape.depth; i++) {
        four[i] = x[at + i];
    }
    return four;
}

fn store(row: u32, channel: u32, sum: f32) {
    let at = row * shape.width + channel;
    var value = sum;
    if (shape.flags & HAS_BIAS) != 0u {
        value += bias[channel];
    }
    if (shape.flags & ADDS) != 0u {
        value += y[at];
    }
    y[at] = value;
}

// ---- few rows: each weight is read once, by the thread of its channel ----
//
// A workgroup takes a panel and up to 8 rows: 32 channels, and 8 threads a channel, which take a stretch of k each. After
// every eight stretches their sums are added, in order.

const FEW: u32 = 8u;
var<workgroup> sums: array<f32, 2048>; // [stretch 8][row 8][channel 32]

@compute @workgroup_size(32, 8)
fn packed_matvec(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let lane = local.x;
    let slice = local.y;
    let first_row = group.y * FEW;
    let count = min(FEW, shape.rows - first_row);
    let quads = (shape.depth + 3u) / 4u;
    let stretches = (quads + STRETCH - 1u) / STRETCH;

    var total = 0.0; // of row `slice`
    for (var round = 0u; round < stretches; round += 8u) {
        var sum: array<f32, 8>;
        let start = (round + slice) * STRETCH;
        let end = min(start + STRETCH, quads);
        for (var quad = start; quad < end; quad++) {
            let weight = weights(group.x, quad, lane);
            for (var row = 0u; row < count; row++) {
                let input = inputs(first_row + row, quad);
                sum[row] = fma(input.x, weight.x, sum[row]);
                sum[row] = fma(input.y, weight.y, sum[row]);
                sum[row] = fma(input.z, weight.z, sum[row]);
                sum[row] = fma(input.w, weight.w, sum[row]);
            }
        }
        for (var row = 0u; row < count; row++) {
            sums[(slice * FEW + row) * 32u + lane] = sum[row];
        }
        workgroupBarrier();
        if slice < count {
            for (var i = 0u; i < min(8u, stretches - round); i++) {
                total += sums[(i * FEW + slice) * 32u + lane];
            }
        }
        workgroupBarrier(); // nobody overwrites sums before they have been read
    }

    let channel = shape.first + group.x * 32u + lane;
    if slice < count && channel < shape.width {
        store(first_row + slice, channel, total);
    }
}

// ---- many rows: tiles of 64 rows and 64 channels, four by four a thread ----
//
// For each eight quads of k half of the threads bring the weights into workgroup memory, and half the inputs. Element
// [p * 16 + q] of a tile holds rows (channels) 4q .. 4q+3 at depth p. One thread writes a whole vec4: two that wrote
// single components of one vector would race.

const TILE: u32 = 64u;
var<workgroup> tile_a: array<vec4<f32>, 512>; // [depth 32][16]
var<workgroup> tile_b: array<vec4<f32>, 512>;

fn store_row(row: u32, channel: u32, values: vec4<f32>) {
    if row >= shape.rows {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if channel + i < shape.width {
            store(row, channel + i, values[i]);
        }
    }
}

fn inputs_or_zeros(row: u32, quad: u32, quads: u32) -> vec4<f32> {
    if row < shape.rows && quad < quads {
        return inputs(row, quad);
    }
    return vec4<f32>();
}

fn weights_or_zeros(channel: u32, quad: u32, quads: u32) -> vec4<f32> {
    if channel < 32u * shape.panels && quad < quads {
        return weights(channel / 32u, quad, channel % 32u);
    }
    return vec4<f32>();
}

@compute @workgroup_size(16, 16)
fn packed_matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_channel = group.x * TILE; // in this buffer
    let quads = (shape.depth + 3u) / 4u;
    let four = thread % 16u * 4u;     // rows or channels that this thread brings
    let own_quad = thread % 128u / 16u;

    var total0 = vec4<f32>();
    var total1 = vec4<f32>();
    var total2 = vec4<f32>();
    var total3 = vec4<f32>();
    for (var stretch = 0u; stretch < quads; stretch += STRETCH) {
        var sum0 = vec4<f32>();
        var sum1 = vec4<f32>();
        var sum2 = vec4<f32>();
        var sum3 = vec4<f32>();
        for (var start = stretch; start < min(stretch + STRETCH, quads); start += 8u) {
            let quad = start + own_quad;
            var part: mat4x4<f32>;
            if thread < 128u {
                for (var i = 0u; i < 4u; i++) {
                    part[i] = inputs_or_zeros(first_row + four + i, quad, quads);
                }
            } else {
                for (var i = 0u; i < 4u; i++) {
                    part[i] = weights_or_zeros(first_channel + four + i, quad, quads);
                }
            }
            part = transpose(part);
            for (var i = 0u; i < 4u; i++) {
                let at = (own_quad * 4u + i) * 16u + four / 4u;
                if thread < 128u {
                    tile_a[at] = part[i];
                } else {
                    tile_b[at] = part[i];
                }
            }
            workgroupBarrier();
            for (var p = 0u; p < 32u; p++) {
                let av = tile_a[p * 16u + local.y];
                let bv = tile_b[p * 16u + local.x];
                sum0 = fma(vec4<f32>(av.x), bv, sum0);
                sum1 = fma(vec4<f32>(av.y), bv, sum1);
                sum2 = fma(vec4<f32>(av.z), bv, sum2);
                sum3 = fma(vec4<f32>(av.w), bv, sum3);
            }
            workgroupBarrier();
        }
        total0 += sum0;
        total1 += sum1;
        total2 += sum2;
        total3 += sum3;
    }

    let row = first_row + 4u * local.y;
    let own = first_channel + 4u * local.x;
    if own < 32u * shape.panels {
        store_row(row, shape.first + own, total0);
        store_row(row + 1u, shape.first + own, total1);
        store_row(row + 2u, shape.first + own, total2);
        store_row(row + 3u, shape.first + own, total3);
    }
}

// ---- backward: tiles of 64 rows and 64 values of k; a panel of 32 channels at a time ----

fn gradients(row: u32, channel: u32) -> f32 {
    if row < shape.rows && channel < shape.width {
        return dy[row * shape.width + channel];
    }
    return 0.0;
}

fn store_gradients(row: u32, k: u32, values: vec4<f32>) {
    if row >= shape.rows {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if k + i < shape.depth {
            let at = row * shape.depth + k + i;
            var value = values[i];
            if (shape.flags & ADDS) != 0u {
                value += dx[at];
            }
            dx[at] = value;
        }
    }
}

@compute @workgroup_size(16, 16)
fn packed_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_quad = group.x * 16u;
    let quads = (shape.depth + 3u) / 4u;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var panel = 0u; panel < shape.panels; panel++) {
        // 32 channels by 16 quads of k, and 32 channels by 16 times four rows: two of each a thread.
        for (var i = thread; i < 512u; i += 256u) {
            let quad = first_quad + i / 32u;
            var four = vec4<f32>();
            if quad < quads {
                four = weights(panel, quad, i % 32u);
            }
            tile_b[i % 32u * 16u + i / 32u] = four;
        }
        for (var i = thread; i < 512u; i += 256u) {
            let channel = shape.first + panel * 32u + i % 32u;
            let row = first_row + i / 32u * 4u;
            tile_a[i % 32u * 16u + i / 32u] = vec4<f32>(
                gradients(row, channel),
                gradients(row + 1u, channel),
                gradients(row + 2u, channel),
                gradients(row + 3u, channel),
            );
        }
        workgroupBarrier();
        for (var p = 0u; p < 32u; p++) {
            let av = tile_a[p * 16u + local.y];
            let bv = tile_b[p * 16u + local.x];
            sum0 = fma(vec4<f32>(av.x), bv, sum0);
            sum1 = fma(vec4<f32>(av.y), bv, sum1);
            sum2 = fma(vec4<f32>(av.z), bv, sum2);
            sum3 = fma(vec4<f32>(av.w), bv, sum3);
        }
        workgroupBarrier();
    }

    let row = first_row + 4u * local.y;
    let k = 4u * (first_quad + local.x);
    store_gradients(row, k, sum0);
    store_gradients(row + 1u, k, sum1);
    store_gradients(row + 2u, k, sum2);
    store_gradients(row + 3u, k, sum3);
}

// ---- the weights' gradient: tiles of 64 channels and 64 values of k; 16 rows at a time ----

@compute @workgroup_size(16, 16)
fn packed_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_channel = group.y * TILE; // in this buffer
    let first_quad = group.x * 16u;
    let four = thread % 16u;
    let p_own = thread / 16u;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var start = 0u; start < shape.rows; start += 16u) {
        let row = start + p_own;
        let channel = shape.first + first_channel + 4u * four;
        tile_a[p_own * 16u + four] = vec4<f32>(
            gradients(row, channel),
            gradients(row, channel + 1u),
            gradients(row, channel + 2u),
            gradients(row, channel + 3u),
        );
        tile_b[p_own * 16u + four] = inputs_or_zeros(row, first_quad + four, (shape.depth + 3u) / 4u);
        workgroupBarrier();
        for (var p = 0u; p < 16u; p++) {
            let av = tile_a[p * 16u + local.y];
            let bv = tile_b[p * 16u + local.x];
            sum0 = fma(vec4<f32>(av.x), bv, sum0);
            sum1 = fma(vec4<f32>(av.y), bv, sum1);
            sum2 = fma(vec4<f32>(av.z), bv, sum2);
            sum3 = fma(vec4<f32>(av.w), bv, sum3);
        }
        workgroupBarrier();
    }

    let channel = first_channel + 4u * local.y;
    let k = 4u * (first_quad + local.x);
    store_weights(channel, k, sum0);
    store_weights(channel + 1u, k, sum1);
    store_weights(channel + 2u, k, sum2);
    store_weights(channel + 3u, k, sum3);
}

// Channels beyond the matrix, which fill the last panel, get zeros: their dy counts as zero.
fn store_weights(channel: u32, k: u32, values: vec4<f32>) {
    if channel >= 32u * shape.panels {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if k + i < shape.depth {
            let at = channel / 32u * shape.panel_words + (k + i) * 32u + channel % 32u;
            var value = values[i];
            if (shape.flags & ADDS) != 0u {
                value += dw[at];
            }
            dw[at] = value;
        }
    }
}

// ---- lookup: a workgroup takes 64 quads of a row ----

// An id that is not below `width` counts as a row of zeros, which the first part of the matrix writes.
@compute @workgroup_size(64)
fn packed_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let quads = (shape.depth + 3u) / 4u;
    let tiles = (quads + 63u) / 64u; // of a row
    let tile = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so the tiles fill two
    let row = tile / tiles;
    let quad = tile % tiles * 64u + thread;
    if row >= shape.rows || quad >= quads {
        return;
    }
    let id = ids[row];
    var four = vec4<f32>();
    if id < shape.width {
        if id < shape.first || id >= shape.first + 32u * shape.panels {
            return; // in another part
        }
        let own = id - shape.first;
        four = shape.scale * weights(own / 32u, quad, own % 32u);
    } else if shape.first > 0u {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let k = 4u * quad + i;
        if k < shape.depth {
            let at = row * shape.depth + k;
            var value = four[i];
            if (shape.flags & ADDS) != 0u {
                value += y[at];
            }
            y[at] = value;
        }
    }
}
