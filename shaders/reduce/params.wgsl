// Parameters and bindings of reductions along one axis, which the result lacks.

struct ReduceParams {
    // The strides of a and b are those of their first elements along the axis.
    strided: Strided,
    // Elements along the axis, and their strides in a and b.
    length: u32,
    stride: u32,
    b_stride: u32,
    // 0, which no compiler knows.
    zero: u32,
    // The bits of the limits of a sum of weights.
    low: u32,
    high: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: ReduceParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
