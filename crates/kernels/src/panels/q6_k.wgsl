// Q6_K: value = d sc (q - 32). A block of 256 values, in words:
//   0 d[32] f16 | 16 sc[16][32] signed bytes | 144 [2][16][32 rows] of four bytes, low bits
//   | 1168 [2][8 quads][32 rows] of four bytes, high bits
// Step s of a half of 128 values has its low four bits in the low (s < 2) or high halves of bytes 8 (s % 2) + quad, and its
// high two in bits 2 s of bytes quad. A scale is shared by 16 values: four quads.

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * shape.panel_words + quad / 64u * 1680u;
    let step = quad / 8u % 8u;
    let part = step / 4u;
    let s = step % 4u;
    let low = fields(w[block + 144u + (part * 16u + s % 2u * 8u + quad % 8u) * 32u + lane], s / 2u * 4u, 4u);
    let high = fields(w[block + 1168u + (part * 8u + quad % 8u) * 32u + lane], 2u * s, 2u);
    let packed = byte(block + 16u, (quad / 4u % 16u) * 32u + lane);
    let scale = half(block, lane) * f32(extractBits(bitcast<i32>(packed), 0u, 8u));
    return scale * (vec4<f32>(low + 16u * high) - 32.0);
}
