// Sums over a workgroup of 256 threads, as a tree in one fixed order: thread i and i + 128 first, then i and i + 64, and
// so on. `sums_subgroups.wgsl` is the same with subgroup operations, and gives the same bits.

const THREADS: u32 = 256u;
var<workgroup> summed: array<vec2<f32>, 256>;

// The sums of every thread's two values, given to every thread.
fn sums_of_workgroup(values: vec2<f32>, thread: u32) -> vec2<f32> {
    summed[thread] = values;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            summed[thread] += summed[thread + width];
        }
        workgroupBarrier();
    }
    let sums = summed[0];
    workgroupBarrier(); // nobody overwrites `summed` before all have read it
    return sums;
}

fn sum_of_workgroup(value: f32, thread: u32) -> f32 {
    return sums_of_workgroup(vec2<f32>(value, 0.0), thread).x;
}
