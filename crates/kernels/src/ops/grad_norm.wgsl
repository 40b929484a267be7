// How large gradients are, which also tells whether all are finite; and a factor on each, for clipping.
//
//   grad_norm_sum_of_squares          the sum of x^2 of each block of 16384 elements
//   grad_norm_sum_of_squares_total    the sum of those, in one fixed order
//   grad_norm_scale                   x = factor * x
//
// bits: [count], the f32 elements x as words: NaN and infinity are told by their bits, for WGSL promises nothing
// of arithmetic with them, and a device may take numbers below 2^-126 for 0.
// squares: [blocks, 8] at first, then [slots, 8]: the f32 bits of three sums, each of a high and a low part, then the
// number of NaN and that of infinities.
//
// The CPU sums in f64, in which no square overflows or vanishes and hardly anything is rounded. Here the same is done
// in f32:
//
//   - A sum is a pair of floats (pairs.wgsl): 48 bits.
//   - A square is two floats: x = a + b, where a has the upper 12 bits of x's 24, so that a^2, 2ab and b^2 are exact
//     and only 2ab + b^2, less than a thousandth of a^2, is rounded.
//   - There are three sums: of elements below 2^-45, times 2^88; of those from 2^45 on, times 2^-84; and of the
//     others. All squares are then between 2^-122 and 2^90, and 2^32 of them do not overflow. What is finite and
//     not 0 adds something.
//
// A workgroup takes a block: 64 elements a thread, then a tree in workgroup memory. One workgroup adds up the blocks.

struct Size {
    count: u32,
    blocks: u32,
    slot: u32,
    zero: u32, // always 0, which the compiler does not know
    factor: f32,
}

var<immediate> size: Size;

@group(0) @binding(0) var<storage, read> bits: array<u32>;
@group(0) @binding(1) var<storage, read_write> squares_of_blocks: array<u32>;
@group(0) @binding(2) var<storage, read> squares_in: array<u32>;
@group(0) @binding(3) var<storage, read_write> squares: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

const BLOCK: u32 = 16384u;

struct Sums {
    small: vec2<f32>, // times 2^176
    middle: vec2<f32>,
    large: vec2<f32>, // times 2^-168
    faults: vec2<u32>, // NaN and infinities
}

fn square(value: f32) -> vec2<f32> {
    let a = bitcast<f32>(bitcast<u32>(value) & 0xfffff000u);
    let b = value - a;
    return vec2(a * a, 2.0 * a * b + b * b);
}

// Whether the element is NaN, and whether it is infinite: 1 or 0.
fn fault(element: u32) -> vec2<u32> {
    let magnitude = element & 0x7fffffffu;
    return vec2(u32(magnitude > 0x7f800000u), u32(magnitude == 0x7f800000u));
}

fn with_square(sums: Sums, element: u32) -> Sums {
    var next = sums;
    let magnitude = element & 0x7fffffffu;
    let exponent = magnitude >> 23u;
    if exponent == 255u {
        next.faults += fault(element);
    } else if exponent == 0u { // 0, or a multiple of 2^-149
        next.small = plus(sums.small, square(f32(magnitude) * 0x1p-61), size.zero);
    } else if exponent < 82u {
        next.small = plus(sums.small, square(bitcast<f32>(magnitude) * 0x1p+88), size.zero);
    } else if exponent < 172u {
        next.middle = plus(sums.middle, square(bitcast<f32>(magnitude)), size.zero);
    } else {
        next.large = plus(sums.large, square(bitcast<f32>(magnitude) * 0x1p-84), size.zero);
    }
    return next;
}

fn plus_sums(a: Sums, b: Sums) -> Sums {
    return Sums(
        plus(a.small, b.small, size.zero),
        plus(a.middle, b.middle, size.zero),
        plus(a.large, b.large, size.zero),
        a.faults + b.faults,
    );
}

var<workgroup> partial: array<Sums, 256>;

// The sum of every thread's, right in thread 0.
fn sum_of_workgroup(of_thread: Sums, thread: u32) -> Sums {
    partial[thread] = of_thread;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            partial[thread] = plus_sums(partial[thread], partial[thread + width]);
        }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(256)
fn grad_norm_sum_of_squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = group.y * groups.x + group.x;
    if block >= size.blocks {
        return;
    }
    let start = block * BLOCK;
    let len = min(BLOCK, size.count - start);
    var sums = Sums();
    for (var i = thread; i < len; i += THREADS) {
        sums = with_square(sums, bits[start + i]);
    }
    sums = sum_of_workgroup(sums, thread);
    if thread == 0u {
        let at = 8u * block;
        squares_of_blocks[at] = bitcast<u32>(sums.small.x);
        squares_of_blocks[at + 1u] = bitcast<u32>(sums.small.y);
        squares_of_blocks[at + 2u] = bitcast<u32>(sums.middle.x);
        squares_of_blocks[at + 3u] = bitcast<u32>(sums.middle.y);
        squares_of_blocks[at + 4u] = bitcast<u32>(sums.large.x);
        squares_of_blocks[at + 5u] = bitcast<u32>(sums.large.y);
        squares_of_blocks[at + 6u] = sums.faults.x;
        squares_of_blocks[at + 7u] = sums.faults.y;
    }
}

// squares is assigned in one slot.
@compute @workgroup_size(256)
fn grad_norm_sum_of_squares_total(@builtin(local_invocation_index) thread: u32) {
    var sums = Sums();
    for (var block = thread; block < size.blocks; block += THREADS) {
        let at = 8u * block;
        let of_block = Sums(
            bitcast<vec2<f32>>(vec2(squares_in[at], squares_in[at + 1u])),
            bitcast<vec2<f32>>(vec2(squares_in[at + 2u], squares_in[at + 3u])),
            bitcast<vec2<f32>>(vec2(squares_in[at + 4u], squares_in[at + 5u])),
            vec2(squares_in[at + 6u], squares_in[at + 7u]),
        );
        sums = plus_sums(sums, of_block);
    }
    sums = sum_of_workgroup(sums, thread);
    if thread == 0u {
        let at = 8u * size.slot;
        squares[at] = bitcast<u32>(sums.small.x);
        squares[at + 1u] = bitcast<u32>(sums.small.y);
        squares[at + 2u] = bitcast<u32>(sums.middle.x);
        squares[at + 3u] = bitcast<u32>(sums.middle.y);
        squares[at + 4u] = bitcast<u32>(sums.large.x);
        squares[at + 5u] = bitcast<u32>(sums.large.y);
        squares[at + 6u] = sums.faults.x;
        squares[at + 7u] = sums.faults.y;
    }
}

@compute @workgroup_size(256)
fn grad_norm_scale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, size.count);
    if i < size.count {
        x[i] = size.factor * x[i];
    }
}
