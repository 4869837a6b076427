// Parameters and bindings of the kernels that combine two values element by element.

struct ElementwiseParams {
    strided: Strided,
    // Equation 8.
    add: AddParams,
    // Vectors of b before it repeats. Only kernels on vectors.
    b_vecs: u32,
    // The number of the comparison or extreme of floats.
    binary_op: u32,
    // The number of the int32 operation.
    int32_op: u32,
    // 1 to keep the elements whose mask is 0.
    mask_inverted: u32,
    // Products of int8 values: equation 9 of single elements, and equation 5. `lo` and `hi` are relative to the zero point.
    a_zero_point: i32,
    b_zero_point: i32,
    multiplier: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
}

@group(0) @binding(0) var<uniform> params: ElementwiseParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write. An entry
// point uses either the words or the vectors of a binding.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(3) var<storage, read_write> a_vecs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> b_vecs: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> y_vecs: array<vec4<u32>>;

// A comparison, or the larger or smaller float.
fn binary(left: u32, right: u32) -> u32 {
    return compared(params.binary_op, left, right);
}

fn masked(bits: u32, condition: u32) -> u32 {
    return masked_by(bits, condition, params.mask_inverted == 1u);
}

// Equation 9 of single elements, and equation 5.
fn multiply(left: vec4<i32>, right: vec4<i32>) -> vec4<i32> {
    let acc = (left - vec4<i32>(params.a_zero_point)) * (right - vec4<i32>(params.b_zero_point));
    return requantize(acc, vec4<f32>(params.multiplier), params.zero_point, params.lo, params.hi);
}
