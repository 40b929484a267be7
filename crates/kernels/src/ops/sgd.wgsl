// A step of gradient descent, f32, in place.
//
//   g   = grad_scale * gradient + weight_decay * w
//   m   = momentum * m + g
//   w  -= lr * g                         sgd_update: without momentum, and without m
//   w  -= lr * m                         sgd_update_momentum: heavy ball
//   w  -= lr * (g + momentum * m)        sgd_update_momentum with `nesterov`
//
// w, gradient, m: [count], in any order that is the same for all.
//
// The kernels that end in _bf16 move weights that are multiplied in bf16: w is the f32 copy that the optimiser keeps,
// and `rounded` what the products read, two neighbours in a word: element 2i in the lower half of word i, 2i + 1 in
// the upper.
//
// A thread takes one element, or one word of `rounded`.

struct Step {
    count: u32,
    nesterov: u32, // 1 or 0
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    grad_scale: f32,
}

var<immediate> step: Step;

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> rounded: array<u32>;

const THREADS: u32 = 256u;

// Each of these moves element i and returns its new weight.

fn moved(i: u32) -> f32 {
    let g = gradient[i] * step.grad_scale + step.weight_decay * w[i];
    let new_w = w[i] - step.lr * g;
    w[i] = new_w;
    return new_w;
}

fn moved_with_momentum(i: u32) -> f32 {
    let g = gradient[i] * step.grad_scale + step.weight_decay * w[i];
    let new_m = step.momentum * m[i] + g;
    let along = select(new_m, g + step.momentum * new_m, step.nesterov != 0u);
    let new_w = w[i] - step.lr * along;
    m[i] = new_m;
    w[i] = new_w;
    return new_w;
}

// The upper half of an f32, rounded to nearest and ties to even. NaN stays NaN.
fn to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// What this thread takes of `count`; `count` itself if nothing. The grid may have groups to spare: they are told
// before the number of their first element overflows.
fn index(group: vec3<u32>, groups: vec3<u32>, thread: u32, count: u32) -> u32 {
    let block = group.y * groups.x + group.x;
    if block > (count - 1u) / THREADS {
        return count;
    }
    return min(block * THREADS + thread, count);
}

@compute @workgroup_size(256)
fn sgd_update(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = index(group, groups, thread, step.count);
    if i < step.count {
        _ = moved(i);
    }
}

@compute @workgroup_size(256)
fn sgd_update_momentum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = index(group, groups, thread, step.count);
    if i < step.count {
        _ = moved_with_momentum(i);
    }
}

@compute @workgroup_size(256)
fn sgd_update_bf16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let words = (step.count - 1u) / 2u + 1u;
    let word = index(group, groups, thread, words);
    if word < words {
        var pair = to_bf16(moved(2u * word));
        if 2u * word + 1u < step.count { // else the last word's upper half is 0
            pair |= to_bf16(moved(2u * word + 1u)) << 16u;
        }
        rounded[word] = pair;
    }
}

@compute @workgroup_size(256)
fn sgd_update_momentum_bf16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let words = (step.count - 1u) / 2u + 1u;
    let word = index(group, groups, thread, words);
    if word < words {
        var pair = to_bf16(moved_with_momentum(2u * word));
        if 2u * word + 1u < step.count {
            pair |= to_bf16(moved_with_momentum(2u * word + 1u)) << 16u;
        }
        rounded[word] = pair;
    }
}
