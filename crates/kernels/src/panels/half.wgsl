// The f16 in the lower half. WGSL's unpack2x16float is not allowed on every device, and where it is, it may make
// zeros of numbers below 2^-14, the smallest normal f16. So the bits are put in their places: an f16 has 10 bits
// of mantissa and counts its exponent from -15, an f32 has 23 and counts from -127.
fn from_f16(bits: u32) -> f32 {
    let exponent = (bits >> 10u) & 31u;
    var magnitude = f32(bits & 0x3ffu) * 5.9604645e-8; // below the smallest normal: an integer times 2^-24
    if exponent > 0u {
        let shift = select(127u - 15u, 2u * (127u - 15u), exponent == 31u); // infinity stays infinity
        magnitude = bitcast<f32>(((bits & 0x7fffu) << 13u) + (shift << 23u));
    }
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

