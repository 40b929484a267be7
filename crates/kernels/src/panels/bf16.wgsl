// Weights in bf16: a word is two neighbours in k, `[k/2][32][2]`; an odd k is filled up with a zero. A bf16 is the upper
// half of an f32.

fn pair(panel: u32, index: u32, lane: u32) -> vec2<f32> {
    if 2u * index >= shape.depth {
        return vec2<f32>(); // beyond the end: adds nothing
    }
    let word = w[panel * shape.panel_words + index * 32u + lane];
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xFFFF0000u));
}

fn weights(panel: u32, quad: u32, lane: u32) -> vec4<f32> {
    return vec4<f32>(pair(panel, 2u * quad, lane), pair(panel, 2u * quad + 1u, lane));
}
