// What the block formats share. A quad is four neighbouring values of k, a step eight quads: 32 values.

// f16 number `lane` of 32 that begin at word `at`.
fn half(at: u32, lane: u32) -> f32 {
    return from_f16(w[at + lane / 2u] >> (16u * (lane % 2u)));
}

// Byte `index` of those that begin at word `at`.
fn byte(at: u32, index: u32) -> u32 {
    return extractBits(w[at + index / 4u], 8u * (index % 4u), 8u);
}

// The four bytes of a word, with their signs.
fn signed_bytes(word: u32) -> vec4<f32> {
    let x = bitcast<i32>(word);
    return vec4<f32>(vec4<i32>(
        extractBits(x, 0u, 8u), extractBits(x, 8u, 8u), extractBits(x, 16u, 8u), extractBits(x, 24u, 8u)));
}

// `bits` bits of each of the four bytes of a word, from bit `shift` on.
fn fields(word: u32, shift: u32, bits: u32) -> vec4<u32> {
    return vec4<u32>(
        extractBits(word, shift, bits),
        extractBits(word, 8u + shift, bits),
        extractBits(word, 16u + shift, bits),
        extractBits(word, 24u + shift, bits),
    );
}

