// Any other block format, unpacked: value = scale q - min. A block of 32 values, in words:
//   0 [8 quads][32 rows] of four signed bytes | 256 scale[32 / GROUP][32] f32 | min[32 / GROUP][32] f32, if HAS_MIN

const GROUPS: u32 = 32u / GROUP;

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let words = 256u + GROUPS * 32u * select(1u, 2u, HAS_MIN);
    let block = panel * shape.panel_words + quad / 8u * words;
    let group = quad % 8u * 4u / GROUP;
    let q = signed_bytes(w[block + quad % 8u * 32u + lane]);
    let value = bitcast<f32>(w[block + 256u + group * 32u + lane]) * q;
    if HAS_MIN {
        return value - bitcast<f32>(w[block + 256u + (GROUPS + group) * 32u + lane]);
    }
    return value;
}
