// Sums in twice the precision of f32, for there is no f64: a pair of floats is `high + low`, where low is what rounding
// took from high. It goes before the text that uses it; `zero` is always 0, which the compiler must not know.

// The value itself, of which the compiler knows nothing. Metal's compiles as if sums of floats could be regrouped, and
// would make 0 of every rounding error below: it is kept from looking through.
fn kept(value: f32, zero: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) ^ zero);
}

// The sum of two pairs (Knuth's two-sum of the high parts).
fn plus(a: vec2<f32>, b: vec2<f32>, zero: u32) -> vec2<f32> {
    let sum = kept(a.x + b.x, zero);
    let of_b = kept(sum - a.x, zero);
    let of_a = kept(sum - of_b, zero);
    let lost = kept(a.x - of_a, zero) + kept(b.x - of_b, zero);
    let low = lost + (a.y + b.y);
    let high = kept(sum + low, zero);
    return vec2<f32>(high, low - kept(high - sum, zero));
}

