// Q5_K: value = d sc q - dmin m. A block of 256 values, in words:
//   0 to 160 as Q4_K | 160 [8 quads][32 rows] of four bytes, bit `step` of each is the fifth of q
//   | 416 [4][8 quads][32 rows] of four bytes, low halves the even steps, high halves the odd ones

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * shape.panel_words + quad / 64u * 1440u;
    let step = quad / 8u % 8u;
    let low = fields(w[block + 416u + (step / 2u * 8u + quad % 8u) * 32u + lane], step % 2u * 4u, 4u);
    let high = fields(w[block + 160u + quad % 8u * 32u + lane], step, 1u);
    let scale = half(block, lane) * f32(byte(block + 32u, step * 32u + lane));
    let least = half(block + 16u, lane) * f32(byte(block + 96u, step * 32u + lane));
    return scale * vec4<f32>(low + 16u * high) - least;
}
