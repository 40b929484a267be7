// Q4_0: value = d (q - 8). A block of 32 values: d[32] f16 (16 words) | [4][32 rows] of four bytes, whose low halves are
// quads 0 to 3 and high halves quads 4 to 7.

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * shape.panel_words + quad / 8u * 144u;
    let word = w[block + 16u + quad % 4u * 32u + lane];
    return half(block, lane) * (vec4<f32>(fields(word, quad % 8u / 4u * 4u, 4u)) - 8.0);
}
