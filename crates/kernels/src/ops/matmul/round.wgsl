// Weights in f32 rounded to what products read: to nearest, ties to even. What is too large becomes infinite, NaN stays
// NaN. Only bits are handled: a device may take very small numbers in f32 for 0, and need not have 16-bit types.
//
// Both sides lie in panels of 32 channels (crates/kernels/src/panels), `depth` values of k each:
//
//   f32   [panel][k][32]
//   bf16  [panel][k / 2][32] words of two neighbours in k; an odd depth is filled up with a zero
//   f16   [panel][k][16] words of two neighbouring channels: as f32 lies, two by two
//
// A thread takes a word of the result.

struct Size {
    words: u32, // of the result
    depth: u32,
}

var<immediate> size: Size;

@group(0) @binding(0) var<storage, read> source: array<u32>; // bits of f32
@group(0) @binding(1) var<storage, read_write> rounded: array<u32>;

fn to_bf16(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    if magnitude >= 0x38800000u { // 2^-14, the smallest normal: exponents count from 15 instead of 127
        let even = (magnitude >> 13u) & 1u;
        return sign | min((magnitude - 0x38000000u + 0xfffu + even) >> 13u, 0x7c00u);
    }
    // A multiple of 2^-24. The mantissa with its leading 1 counts 2^(exponent - 150); what is shifted out entirely is less
    // than half of one.
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = min(126u - (magnitude >> 23u), 25u);
    let even = (mantissa >> shift) & 1u;
    return sign | ((mantissa + (1u << (shift - 1u)) - 1u + even) >> shift);
}

@compute @workgroup_size(256)
fn round_to_bf16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, size.words);
    if i < size.words {
        let pairs = (size.depth + 1u) / 2u;
        let line = i / 32u;
        let k = 2u * (line % pairs);
        let at = (line / pairs * size.depth + k) * 32u + i % 32u;
        var pair = to_bf16(source[at]);
        if k + 1u < size.depth {
            pair |= to_bf16(source[at + 32u]) << 16u;
        }
        rounded[i] = pair;
    }
}

@compute @workgroup_size(256)
fn round_to_f16(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, size.words);
    if i < size.words {
        rounded[i] = to_f16(source[2u * i]) | (to_f16(source[2u * i + 1u]) << 16u);
    }
}
