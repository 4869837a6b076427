// Equation 5: from an int32 accumulator to an int8 value. There is one float product and no float sum, so a compiler can neither
// fuse nor reorder anything, and every device gives the same bits.

// `lo` and `hi` are relative to the zero point.
fn requantize(acc: vec4<i32>, multiplier: vec4<f32>, zero_point: i32, lo: f32, hi: f32) -> vec4<i32> {
    let v = clamp(round(vec4<f32>(acc) * multiplier), vec4<f32>(lo), vec4<f32>(hi));
    return vec4<i32>(v) + vec4<i32>(zero_point);
}
