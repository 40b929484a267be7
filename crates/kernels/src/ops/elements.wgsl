// What operations on single elements share; it goes before their own text.

const THREADS: u32 = 256u; // of a workgroup

// The element of a thread, or `count` where there is none for it. A grid dimension holds 65535 groups at most, so groups
// fill two, and some may be to spare: they are told before the number of their first element overflows.
fn element(group: vec3<u32>, groups: vec3<u32>, thread: u32, count: u32) -> u32 {
    let tile = group.y * groups.x + group.x;
    if tile > (count - 1u) / THREADS {
        return count;
    }
    return min(tile * THREADS + thread, count);
}

