// What a device multiplies and adds at most: the yardstick of its benchmarks.
//
//   y[i] = sum over 8 chains and 4 lanes of v after `rounds` times v = v a + b, from v = x[i] + chain
//
// Nothing but registers is touched between the first line and the last. The 8 chains are independent, so that no
// multiply-add waits for the one before it.

struct Shape {
    count: u32,
    rounds: u32,
    a: f32,
    b: f32,
    groups_x: u32,
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn peak_multiply_add(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.y * shape.groups_x + group.x) * 256u + thread;
    if i >= shape.count {
        return;
    }
    let a = vec4<f32>(shape.a);
    let b = vec4<f32>(shape.b);
    let start = vec4<f32>(x[i]);
    var v0 = start;
    var v1 = start + 1.0;
    var v2 = start + 2.0;
    var v3 = start + 3.0;
    var v4 = start + 4.0;
    var v5 = start + 5.0;
    var v6 = start + 6.0;
    var v7 = start + 7.0;
    for (var round = 0u; round < shape.rounds; round++) {
        v0 = fma(v0, a, b);
        v1 = fma(v1, a, b);
        v2 = fma(v2, a, b);
        v3 = fma(v3, a, b);
        v4 = fma(v4, a, b);
        v5 = fma(v5, a, b);
        v6 = fma(v6, a, b);
        v7 = fma(v7, a, b);
    }
    let sum = ((v0 + v1) + (v2 + v3)) + ((v4 + v5) + (v6 + v7));
    y[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
