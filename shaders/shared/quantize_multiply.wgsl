// Equation 2 with a product: `factor` is the inverse scale.

// `range` is relative to the zero point.
fn quantize_bits(bits: u32, factor: f32, zero_point: i32, range: vec2<f32>) -> i32 {
    return quantize(bitcast<f32>(bits), factor, zero_point, range.x, range.y);
}
