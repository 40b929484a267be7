// Dropout: each element is left out with probability p, and what stays is divided by 1 - p.
//
//   out  = factor * x           dx += factor * dy           factor = 1 / (1 - p) or 0
//
// x, out, dy, dx: [count].
//
// Whether an element stays is a function of the key and its position, the CPU's, bit for bit: number n of the stream
// is
//
//   mix(key + (n + 1) * 0x9e3779b97f4a7c15)
//   mix(z):   z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
//             z = (z ^ (z >> 27)) * 0x94d049bb133111eb
//             z ^ (z >> 31)
//
// in 64 bits, and elements 2n and 2n + 1 have its lower and its upper half: they stay if it is at least `least`. WGSL
// has 32 bits, so that a number is two words here, lower and upper, and a product of words is put together from
// products of their halves.
//
// A thread takes two elements.

struct Draw {
    count: u32,
    key_low: u32,
    key_high: u32,
    least: u32,
    factor: f32,
}

var<immediate> draw: Draw;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

// a * b, of 32 bits each.
fn product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    // Neither sum overflows: (2^16 - 1)^2 + 2 * (2^16 - 1) = 2^32 - 1.
    let middle = a_high * b_low + (low >> 16u);
    let carried = a_low * b_high + (middle & 0xffffu);
    return vec2((carried << 16u) | (low & 0xffffu), a_high * b_high + (middle >> 16u) + (carried >> 16u));
}

// The lower 64 bits of a * b.
fn multiply(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = product(a.x, b.x);
    return vec2(low.x, low.y + a.x * b.y + a.y * b.x);
}

fn add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2(low, a.y + b.y + u32(low < a.x));
}

// z ^ (z >> n), for n below 32.
fn fold(z: vec2<u32>, n: u32) -> vec2<u32> {
    return z ^ vec2((z.x >> n) | (z.y << (32u - n)), z.y >> n);
}

// The factors of elements 2n and 2n + 1.
fn factors(n: u32) -> vec2<f32> {
    // n + 1 is at most 2^31.
    let position = multiply(vec2(n + 1u, 0u), vec2(0x7f4a7c15u, 0x9e3779b9u));
    var z = add(vec2(draw.key_low, draw.key_high), position);
    z = multiply(fold(z, 30u), vec2(0x1ce4e5b9u, 0xbf58476du));
    z = multiply(fold(z, 27u), vec2(0x133111ebu, 0x94d049bbu));
    z = fold(z, 31u);
    return select(vec2(0.0), vec2(draw.factor), z >= vec2(draw.least));
}

// out is assigned.
@compute @workgroup_size(256)
fn dropout_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pairs = (draw.count - 1u) / 2u + 1u;
    let n = element(group, groups, thread, pairs);
    if n >= pairs {
        return;
    }
    let of_pair = factors(n);
    out[2u * n] = of_pair.x * x[2u * n];
    if 2u * n + 1u < draw.count {
        out[2u * n + 1u] = of_pair.y * x[2u * n + 1u];
    }
}

// dx is added to.
@compute @workgroup_size(256)
fn dropout_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pairs = (draw.count - 1u) / 2u + 1u;
    let n = element(group, groups, thread, pairs);
    if n >= pairs {
        return;
    }
    let of_pair = factors(n);
    dx[2u * n] += of_pair.x * dy[2u * n];
    if 2u * n + 1u < draw.count {
        dx[2u * n + 1u] += of_pair.y * dy[2u * n + 1u];
    }
}
