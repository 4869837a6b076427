// Parameters and bindings of the kernels that compute each element from one other.

struct UnaryParams {
    strided: Strided,
    // The bounds of a clamp.
    low: f32,
    high: f32,
    // Casts to integers: whether floats are cast, 32 less the bits of the type, and whether the type has a sign.
    from_float: u32,
    shift: u32,
    has_sign: u32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: UnaryParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write. An entry
// point uses either the words or the vectors of a binding.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(3) var<storage, read_write> a_vecs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read_write> y_vecs: array<vec4<u32>>;
