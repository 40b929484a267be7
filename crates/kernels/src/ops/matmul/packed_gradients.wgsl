// Gradients of products with packed weights: see `packed.wgsl`. The sums of a tile are those of `tiles.wgsl`, or
// `tiles_matrices.wgsl`.

// ---- of the inputs: tiles of 64 rows and 64 values of k; a panel of 32 channels at a time ----

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
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_quad = group.x * 16u;
    let quads = (shape.depth + 3u) / 4u;

    begin_sums(thread);
    for (var panel = 0u; panel < shape.panels; panel++) {
        // 32 channels by 16 quads of k, and 32 channels by 16 times four rows: two of each a thread.
        for (var i = thread; i < 512u; i += 256u) {
            let quad = first_quad + i / 32u;
            var four = vec4<f32>();
            if quad < quads {
                four = weights(panel, quad, i % 32u);
            }
            put_b(i % 32u, i / 32u, four);
        }
        for (var i = thread; i < 512u; i += 256u) {
            let channel = shape.first + panel * 32u + i % 32u;
            let row = first_row + i / 32u * 4u;
            let four = vec4<f32>(
                gradients(row, channel),
                gradients(row + 1u, channel),
                gradients(row + 2u, channel),
                gradients(row + 3u, channel),
            );
            put_a(i % 32u, i / 32u, four);
        }
        workgroupBarrier();
        multiply_tiles(32u, thread);
        workgroupBarrier();
    }

    let block = outputs(thread);
    for (var i = 0u; i < 4u; i++) {
        store_gradients(first_row + thread / 16u * 4u + i, 4u * (first_quad + thread % 16u), block[i]);
    }
}

// ---- of the weights: tiles of 64 channels and 64 values of k; 16 rows at a time ----

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

@compute @workgroup_size(16, 16)
fn packed_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_channel = group.y * TILE; // in this buffer
    let first_quad = group.x * 16u;
    let four = thread % 16u;
    let p_own = thread / 16u;

    begin_sums(thread);
    for (var start = 0u; start < shape.rows; start += 16u) {
        let row = start + p_own;
        let channel = shape.first + first_channel + 4u * four;
        let of_channels = vec4<f32>(
            gradients(row, channel),
            gradients(row, channel + 1u),
            gradients(row, channel + 2u),
            gradients(row, channel + 3u),
        );
        put_a(p_own, four, of_channels);
        put_b(p_own, four, inputs_or_zeros(row, first_quad + four, (shape.depth + 3u) / 4u));
        workgroupBarrier();
        multiply_tiles(16u, thread);
        workgroupBarrier();
    }

    let block = outputs(thread);
    for (var i = 0u; i < 4u; i++) {
        store_weights(first_channel + thread / 16u * 4u + i, 4u * (first_quad + four), block[i]);
    }
}
