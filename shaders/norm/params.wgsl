// Parameters and bindings of the kernels that normalize: a workgroup computes one line, the elements that are
// normalized together.

struct NormParams {
    // Lines for each row of the batch.
    rows_factor: u32,
    // Elements of a line.
    length: u32,
    // The stride from one element of a line to the next; this many lines are interleaved. Only softmax.
    stride: u32,
    // Words of a padded int8 row of y.
    row_words: u32,
    // Layer norm adds it to the variance.
    eps: f32,
    // Equation 2, where layer norm writes int8 values. `lo` and `hi` are relative to the zero point, unless the kernel chooses it.
    factor: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    // The smallest scale that equation 10 chooses.
    qparams_eps: f32,
    // 0, which no compiler knows.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: NormParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
