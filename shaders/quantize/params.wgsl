// Parameters of the kernels that quantize and dequantize. An int8 matrix has rows that are padded to 16 bytes; floats are dense.

struct QuantizeParams {
    // Matrix rows for each row of the batch.
    rows_factor: u32,
    cols: u32,
    // Row stride of the padded int8 matrix, in words.
    row_words: u32,
    // Static qparams.
    scale: f32,
    inv_scale: f32,
    zero_point: i32,
    quant_min: i32,
    quant_max: i32,
    // Equation 10: the smallest scale, and the number of the rule.
    eps: f32,
    rule: u32,
    // The stride from the dynamic qparams of one row to those of the next: 2, or 0 if all rows share them.
    qparams_stride: u32,
    // 0, which no compiler knows.
    zero: u32,
    // The workgroups that find the ranges of some rows each, if there are as many rows.
    range_groups: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: QuantizeParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

fn matrix_rows() -> u32 {
    return batch_rows() * params.rows_factor;
}

fn quant_range() -> vec2<f32> {
    return vec2<f32>(f32(params.quant_min), f32(params.quant_max));
}

// quant_min and quant_max, relative to a zero point.
fn range_about(zero_point: i32) -> vec2<f32> {
    return vec2<f32>(f32(params.quant_min - zero_point), f32(params.quant_max - zero_point));
}
