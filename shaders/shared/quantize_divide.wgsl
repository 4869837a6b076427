// Equation 2 with a quotient, as ONNX files demand it: `factor` is the scale.

// `range` is relative to the zero point.
fn quantize_bits(bits: u32, factor: f32, zero_point: i32, range: vec2<f32>) -> i32 {
    return quantize(bitcast<f32>(quotient_of(bits, bitcast<u32>(factor))), 1.0f, zero_point, range.x, range.y);
}
