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

const THREADS: u32 = 256u;

@compute @workgroup_size(256)
fn residual_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = group.y * groups.x + group.x;
    if tile > (shape.count - 1u) / THREADS {
        return; // before the product below, which may not fit 32 bits in the unused groups of a large grid
    }
    let i = tile * THREADS + thread;
    if i < shape.count {
        x[i] += y[i];
    }
}
