// Equations 1 and 2: from an int8 value to a float, and from a float to an int8 value.

fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    return f32(q - zero_point) * scale;
}

// `lo` and `hi` are relative to the zero point. NaN becomes the zero point.
fn quantize(x: f32, inv_scale: f32, zero_point: i32, lo: f32, hi: f32) -> i32 {
    let v = i32(clamp(round(x * inv_scale), lo, hi));
    return select(v, 0, is_nan(bitcast<u32>(x))) + zero_point;
}
