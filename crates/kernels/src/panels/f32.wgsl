// Weights in f32: a word is one value, `[k][32]`.

fn weight(panel: u32, k: u32, lane: u32) -> f32 {
    if k >= shape.depth {
        return 0.0; // beyond the end: adds nothing
    }
    return bitcast<f32>(w[panel * shape.panel_words + k * 32u + lane]);
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
