// Q8_0: value = d q. A block of 32 values: d[32] f16 (16 words) | [8 quads][32 rows] of four signed bytes.

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let block = panel * shape.panel_words + quad / 8u * 272u;
    return half(block, lane) * signed_bytes(w[block + 16u + quad % 8u * 32u + lane]);
}
