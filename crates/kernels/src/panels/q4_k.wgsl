// Q4_K: value = d sc q - dmin m. A block of 256 values, in words:
//   0 d[32] f16 | 16 dmin[32] f16 | 32 sc[8][32] bytes | 96 m[8][32] bytes | 160 [4][8 quads][32 rows] of four bytes
// Low halves are the even steps, high halves the odd ones.

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * shape.panel_words + quad / 64u * 1184u;
    let step = quad / 8u % 8u;
    let q = fields(w[block + 160u + (step / 2u * 8u + quad % 8u) * 32u + lane], step % 2u * 4u, 4u);
    let scale = half(block, lane) * f32(byte(block + 32u, step * 32u + lane));
    let least = half(block + 16u, lane) * f32(byte(block + 96u, step * 32u + lane));
    return scale * vec4<f32>(q) - least;
}
