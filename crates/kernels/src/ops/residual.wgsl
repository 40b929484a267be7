// x += y: what every block adds to the residual stream, f32.
//
// x, y: `count` elements. A thread takes one. Backward needs no kernel: the gradient of a sum is the gradient
// of both its terms.

struct Shape {
    count: u32,
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;

@compute @workgroup_size(256)
fn residual_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, shape.count);
    if i < shape.count {
        x[i] += y[i];
    }
}
