// Sums over a workgroup of 256 threads, as in `sums.wgsl`: the same tree, so the same bits, for any size of a subgroup. The
// upper levels go through workgroup memory. When as many sums are left as a subgroup has threads, each subgroup adds them
// up by itself, without a barrier: with 32 threads, three of the eight levels have one.
//
// Numbers in a subgroup are counted, not assumed to be those of the workgroup's threads in order, for nothing promises it.

const THREADS: u32 = 256u;
var<workgroup> summed: array<vec2<f32>, 256>;

// The sums of every thread's two values, given to every thread.
fn sums_of_workgroup(values: vec2<f32>, thread: u32) -> vec2<f32> {
    let size = subgroupAdd(1u);
    let lane = subgroupExclusiveAdd(1u);
    summed[thread] = values;
    workgroupBarrier();
    for (var width = THREADS / 2u; width >= size; width = width / 2u) {
        if thread < width {
            summed[thread] += summed[thread + width];
        }
        workgroupBarrier();
    }
    var sums = summed[lane];
    for (var width = size / 2u; width > 0u; width = width / 2u) {
        sums += subgroupShuffleXor(sums, width); // a + b is b + a: both partners hold the same
    }
    workgroupBarrier(); // nobody overwrites `summed` before all have read it
    return sums;
}

fn sum_of_workgroup(value: f32, thread: u32) -> f32 {
    return sums_of_workgroup(vec2<f32>(value, 0.0), thread).x;
}
