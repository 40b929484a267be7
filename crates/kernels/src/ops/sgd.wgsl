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
// A thread takes an element.

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

@compute @workgroup_size(256)
fn sgd_update(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, step.count);
    if i < step.count {
        let g = gradient[i] * step.grad_scale + step.weight_decay * w[i];
        w[i] = w[i] - step.lr * g;
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
        let g = gradient[i] * step.grad_scale + step.weight_decay * w[i];
        let new_m = step.momentum * m[i] + g;
        let along = select(new_m, g + step.momentum * new_m, step.nesterov != 0u);
        w[i] = w[i] - step.lr * along;
        m[i] = new_m;
    }
}
