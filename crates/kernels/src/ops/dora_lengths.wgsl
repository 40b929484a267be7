// The lengths of the rows of w + s b a, for DoRA (ops/dora.wgsl).
//
//   lengths[n] = sqrt(sum over k of (w[n,k] + s * sum over r of b[n,r] a[r,k])^2), at least 1e-30
//
// w: [width, depth], in panels of 32 channels as in matmul/packed.wgsl: `weights(panel, quad, lane)`, of a file for each
// layout, gives four of its values. a: [rank, depth], b: [width, rank], in panels of f32. w may come in several buffers,
// some panels each: `first` is the first channel of this one.
//
// A workgroup takes a panel of w: 32 channels, and 8 threads a channel, which take the quads of k 8 apart. Sums of squares are
// pairs of floats: thousands of squares lose nothing.

struct Shape {
    width: u32, // n of the whole matrix
    depth: u32, // k
    rank: u32,  // r
    panel_words: u32, // of a panel of w
    first: u32, // channel of the first panel
    zero: u32,  // always 0, which the compiler does not know
    scale: f32, // s
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> lengths: array<f32>;

const TINY: f32 = 1e-30; // what divides by it stays finite

var<workgroup> partial: array<vec2<f32>, 256>;

// Element [row, k] of a; 0 beyond the end of a row.
fn factor(row: u32, k: u32) -> f32 {
    if k >= shape.depth {
        return 0.0;
    }
    return a[(row / 32u * shape.depth + k) * 32u + row % 32u];
}

@compute @workgroup_size(32, 8)
fn dora_lengths(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let lane = local.x;
    let of_b = (shape.first / 32u + group.x) * shape.rank * 32u + lane;

    var sum = vec2<f32>();
    for (var quad = local.y; quad < (shape.depth + 3u) / 4u; quad += 8u) {
        let k = 4u * quad;
        var change = vec4<f32>();
        for (var r = 0u; r < shape.rank; r++) {
            let of_a = vec4<f32>(factor(r, k), factor(r, k + 1u), factor(r, k + 2u), factor(r, k + 3u));
            change = fma(vec4<f32>(b[of_b + r * 32u]), of_a, change);
        }
        let value = fma(vec4<f32>(shape.scale), change, weights(group.x, quad, lane));
        sum = plus(sum, vec2<f32>(dot(value, value), 0.0), shape.zero);
    }
    partial[local.y * 32u + lane] = sum;
    workgroupBarrier();

    let channel = shape.first + group.x * 32u + lane;
    if local.y == 0u && channel < shape.width {
        for (var slice = 1u; slice < 8u; slice++) {
            sum = plus(sum, partial[slice * 32u + lane], shape.zero);
        }
        lengths[channel] = max(sqrt(sum.x), TINY);
    }
}
