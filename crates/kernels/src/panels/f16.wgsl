// Weights in f16: a word is two neighbouring channels, `[k][16][2]`.

fn weight(panel: u32, k: u32, lane: u32) -> f32 {
    if k >= shape.depth {
        return 0.0; // beyond the end: adds nothing
    }
    return from_f16(w[panel * shape.panel_words + k * 16u + lane / 2u] >> (16u * (lane % 2u)));
}

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    let k = 4u * quad;
    return vec4<f32>(
        weight(panel, k, lane),
        weight(panel, k + 1u, lane),
        weight(panel, k + 2u, lane),
        weight(panel, k + 3u, lane),
    );
}
