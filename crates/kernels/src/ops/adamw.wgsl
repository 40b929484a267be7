// A step of AdamW, f32, in place.
//
//   g   = grad_scale * gradient
//   m  += fresh1 * (g - m)                        fresh1 = 1 - beta1
//   v   = beta2 * v + fresh2 * g^2                fresh2 = 1 - beta2
//   w   = keep * w - lr * m / (sqrt(v) * root + eps)
//
// keep = 1 - learning rate * weight decay, lr = learning rate / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t): the
// host computes them in f64 and rounds them once.
//
// w, gradient, m, v: [count], in any order that is the same for all four. Weights that are multiplied in bf16 are moved in
// f32, for a step of a millionth of a weight is nothing in bf16: then w is the f32 copy that the optimiser keeps ("master
// weights"), from which matmul/round.wgsl makes what the products read.
//
// A thread takes an element.

struct Step {
    count: u32,
    grad_scale: f32,
    fresh1: f32,
    beta2: f32,
    fresh2: f32,
    root: f32,
    eps: f32,
    lr: f32,
    keep: f32,
}

var<immediate> step: Step;

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(256)
fn adamw_update(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, step.count);
    if i < step.count {
        let g = gradient[i] * step.grad_scale;
        let new_m = m[i] + step.fresh1 * (g - m[i]);
        let new_v = step.beta2 * v[i] + step.fresh2 * (g * g);
        w[i] = step.keep * w[i] - step.lr * new_m / (sqrt(new_v) * step.root + step.eps);
        m[i] = new_m;
        v[i] = new_v;
    }
}
