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

// A comparison, or the larger or smaller float. The numbers are those of the host's enum `BinaryOp`.
fn binary(left: u32, right: u32) -> u32 {
    let ordered = !is_nan(left) && !is_nan(right);
    switch params.binary_op {
        case 0u: {
            return select(0u, ONE, ordered && order_of(left) == order_of(right));
        }
        case 1u: {
            return select(0u, ONE, ordered && order_of(left) < order_of(right));
        }
        case 2u: {
            return select(0u, ONE, ordered && order_of(left) <= order_of(right));
        }
        case 3u: {
            return larger(left, right);
        }
        default: {
            return smaller(left, right);
        }
    }
}

// The bits of a float where the condition is not 0, or, if `mask_inverted` is 1, where it is 0; elsewhere those of -0, which changes
// nothing that it is added to. It tests bits, so that neither NaN nor a subnormal condition depends on the driver.
fn masked(bits: u32, condition: u32) -> u32 {
    let is_zero = (condition & 0x7fffffffu) == 0u;
    return select(0x80000000u, bits, is_zero == (params.mask_inverted == 1u));
}

// Equation 9 of single elements, and equation 5.
fn multiply(left: vec4<i32>, right: vec4<i32>) -> vec4<i32> {
    let acc = (left - vec4<i32>(params.a_zero_point)) * (right - vec4<i32>(params.b_zero_point));
    return requantize(acc, vec4<f32>(params.multiplier), params.zero_point, params.lo, params.hi);
}
