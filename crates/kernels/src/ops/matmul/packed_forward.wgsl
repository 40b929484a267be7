// Products and lookups with packed weights, forward: see `packed.wgsl`.
//
// One order of sums. k is cut into stretches of 128; a stretch is summed from its first value to its last, and stretches are
// added from the first to the last. Both forward kernels keep to it, so that a row of y has the same bits whether it comes
// alone or among others.

const STRETCH: u32 = 32u; // quads: 128 values of k

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

// ---- many rows: tiles of 64 rows and 64 channels ----
//
// For each eight quads of k half of the threads bring the weights into workgroup memory, and half the inputs.

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

fn weights_or_zeros(channel: u32, quad: u32, quads: u32) -> vec4<f32> {
    if channel < 32u * shape.panels && quad < quads {
        return weights(channel / 32u, quad, channel % 32u);
    }
    return vec4<f32>();
}

@compute @workgroup_size(16, 16)
fn packed_matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_channel = group.x * TILE; // in this buffer
    let quads = (shape.depth + 3u) / 4u;
    let four = thread % 16u;            // times 4: rows or channels that this thread brings
    let own_quad = thread % 128u / 16u;

    var totals: mat4x4<f32>;
    for (var stretch = 0u; stretch < quads; stretch += STRETCH) {
        begin_sums(thread);
        for (var start = stretch; start < min(stretch + STRETCH, quads); start += 8u) {
            let quad = start + own_quad;
            var part: mat4x4<f32>;
            for (var i = 0u; i < 4u; i++) {
                if thread < 128u {
                    part[i] = inputs_or_zeros(first_row + 4u * four + i, quad, quads);
                } else {
                    part[i] = weights_or_zeros(first_channel + 4u * four + i, quad, quads);
                }
            }
            part = transpose(part);
            for (var i = 0u; i < 4u; i++) {
                if thread < 128u {
                    put_a(4u * own_quad + i, four, part[i]);
                } else {
                    put_b(4u * own_quad + i, four, part[i]);
                }
            }
            workgroupBarrier();
            multiply_tiles(32u, thread);
            workgroupBarrier();
        }
        totals += outputs(thread);
    }

    let row = first_row + thread / 16u * 4u;
    let own = first_channel + 4u * (thread % 16u);
    if own < 32u * shape.panels {
        for (var i = 0u; i < 4u; i++) {
            store_row(row + i, shape.first + own, totals[i]);
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
