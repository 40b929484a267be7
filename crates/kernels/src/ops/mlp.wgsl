// The activations of the MLP, forward and backward, f32; and the soft cap of logits.
//
//   mlp_activate   h = a(x)            mlp_activate_backward   dx    = dh * a'(x)
//   mlp_gated      h = a(gate) * up    mlp_gated_backward      dgate = dh * up * a'(gate)
//                                                              dup   = dh * a(gate)
//   mlp_soft_cap   x = cap * tanh(x / cap), in place
//
// a is x times a sigmoid, sigmoid(z) = 1 / (1 + e^-z), whose derivative is sigmoid(z) * (1 - sigmoid(z)):
//
//   gelu   z = 2 sqrt(2/pi) * (x + 0.044715 x^3)     x * sigmoid(z) is x/2 * (1 + tanh(z/2))
//   silu   z = x
//   a'     = sigmoid(z) + x * sigmoid(z) * (1 - sigmoid(z)) * dz/dx
//
// All buffers: `count` elements, whatever their shape; outputs are assigned. A thread takes one element.

struct Shape {
    count: u32,
    activation: u32, // GELU or SILU
}

struct Cap {
    count: u32,
    cap: f32,
}

var<immediate> shape: Shape;
var<immediate> soft: Cap;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> h: array<f32>;
@group(0) @binding(2) var<storage, read> dh: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;
@group(0) @binding(5) var<storage, read> up: array<f32>;
@group(0) @binding(6) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(7) var<storage, read_write> dup: array<f32>;
@group(0) @binding(8) var<storage, read_write> logits: array<f32>;

const GELU: u32 = 0u;
const SILU: u32 = 1u;
const TWICE_ROOT_2_OVER_PI: f32 = 1.5957691;
const CUBIC: f32 = 0.044715;

// sigmoid(z), and 1 - sigmoid(z) without subtracting. The argument of exp is never above 0, so nothing
// overflows.
fn sigmoid_and_rest(z: f32) -> vec2<f32> {
    let e = exp(-abs(z));
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    return select(vec2<f32>(small, large), vec2<f32>(large, small), z >= 0.0);
}

// a(value), and a'(value). Beyond the bounds of `near` the sigmoid is 0 or 1 to the last place, and powers
// of the value could only overflow.
fn activate(value: f32, activation: u32) -> vec2<f32> {
    var near = clamp(value, -104.0, 104.0);
    var z = near;
    var slope = 1.0;
    if activation == GELU {
        near = clamp(value, -12.0, 12.0);
        let square = near * near;
        z = TWICE_ROOT_2_OVER_PI * (near + CUBIC * square * near);
        slope = TWICE_ROOT_2_OVER_PI * (1.0 + 3.0 * CUBIC * square);
    }
    let s = sigmoid_and_rest(z);
    return vec2<f32>(value * s.x, s.x + near * s.x * s.y * slope);
}

@compute @workgroup_size(256)
fn mlp_activate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.count);
    if i < shape.count {
        h[i] = activate(x[i], shape.activation).x;
    }
}

@compute @workgroup_size(256)
fn mlp_activate_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.count);
    if i < shape.count {
        dx[i] = dh[i] * activate(x[i], shape.activation).y;
    }
}

@compute @workgroup_size(256)
fn mlp_gated(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.count);
    if i < shape.count {
        h[i] = activate(gate[i], shape.activation).x * up[i];
    }
}

@compute @workgroup_size(256)
fn mlp_gated_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.count);
    if i < shape.count {
        let a = activate(gate[i], shape.activation);
        dgate[i] = dh[i] * up[i] * a.y;
        dup[i] = dh[i] * a.x;
    }
}

// tanh(t) = (1 - e) / (1 + e) with e = e^-2t for t above 0, and the same with both signs turned below:
// WGSL's own tanh may overflow. The error is a few units in the last place of `cap`.
@compute @workgroup_size(256)
fn mlp_soft_cap(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, soft.count);
    if i < soft.count {
        let t = logits[i] / soft.cap;
        let e = exp(-2.0 * abs(t));
        let magnitude = soft.cap * ((1.0 - e) / (1.0 + e));
        logits[i] = select(-magnitude, magnitude, t >= 0.0);
    }
}
