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

@compute @workgroup_size(256)
fn sgd_update(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, step.count);
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
    let i = element(group, groups, thread, step.count);
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
    let word = element(group, groups, thread, words);
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
    let word = element(group, groups, thread, words);
    if word < words {
        var pair = to_bf16(moved_with_momentum(2u * word));
        if 2u * word + 1u < step.count {
            pair |= to_bf16(moved_with_momentum(2u * word + 1u)) << 16u;
        }
        rounded[word] = pair;
    }
}
