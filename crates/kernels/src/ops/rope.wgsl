// Rotary position embedding of q and k in one launch, f32, in place.
//
//   forward    y[i] = x[i] cos - x[i + D/2] sin       y[i + D/2] = x[i + D/2] cos + x[i] sin
//   backward   the same with -sin, over the gradients of q and k
//
// for each i < D/2 of every head of D values. q: [rows, q_heads, D]; k: [rows, k_heads, D]; cos, sin:
// [rows, D/2].
//
// A thread takes a pair (i, i + D/2) of a head: those of q first, then those of k, row by row.

struct Shape {
    rows: u32,
    q_heads: u32,
    k_heads: u32,
    half: u32, // D/2
    back: u32, // 1: turn back
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read> cos_table: array<f32>;
@group(0) @binding(3) var<storage, read> sin_table: array<f32>;

const THREADS: u32 = 256u;

// The pair (a, b), turned.
fn turn(a: f32, b: f32, cosine: f32, sine: f32) -> vec2<f32> {
    return vec2<f32>(a * cosine - b * sine, b * cosine + a * sine);
}

@compute @workgroup_size(256)
fn rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // Less than 2^31 pairs, so the product fits even in the unused groups of a large grid.
    let pair = (group.y * groups.x + group.x) * THREADS + thread;
    let heads = shape.q_heads + shape.k_heads;
    let head = pair / shape.half % heads;
    let row = pair / shape.half / heads;
    if row >= shape.rows {
        return;
    }
    let i = pair % shape.half;
    let cosine = cos_table[row * shape.half + i];
    var sine = sin_table[row * shape.half + i];
    if shape.back == 1u {
        sine = -sine;
    }

    if head < shape.q_heads {
        let first = (row * shape.q_heads + head) * 2u * shape.half + i;
        let turned = turn(q[first], q[first + shape.half], cosine, sine);
        q[first] = turned.x;
        q[first + shape.half] = turned.y;
    } else {
        let first = (row * shape.k_heads + head - shape.q_heads) * 2u * shape.half + i;
        let turned = turn(k[first], k[first + shape.half], cosine, sine);
        k[first] = turned.x;
        k[first + shape.half] = turned.y;
    }
}
