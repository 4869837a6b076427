// Comparisons and selections of floats by their bits. A shader compiler may assume that no float is NaN or infinite, and a device
// may treat subnormal numbers as 0. So the kernels use the built-in comparisons, min, max and clamp only where neither matters.

const NAN: u32 = 0x7fc00000u;
const INFINITY: u32 = 0x7f800000u;
const ONE: u32 = 0x3f800000u;

// Infinity and NaN as numbers that no compiler knows. Fast math may assume that no function takes or returns such a float: then tests
// of its bits against a constant fail, and a constant of such bits is not returned. Clang does that, and Metal's compiler is a clang.
fn infinity() -> u32 {
    return INFINITY ^ params.zero;
}

fn not_a_number() -> u32 {
    return NAN ^ params.zero;
}

fn is_nan(bits: u32) -> bool {
    return (bits & 0x7fffffffu) > infinity();
}

// The integer of a float has the order of floats: both zeros are 0, and NaN is above infinity.
const LOWEST: i32 = -0x7f800000;
const HIGHEST: i32 = 0x7f800000;

fn order_of(bits: u32) -> i32 {
    let magnitude = bitcast<i32>(bits & 0x7fffffffu);
    let signed = select(magnitude, -magnitude, (bits >> 31u) == 1u);
    return select(signed, 0x7fffffff, is_nan(bits));
}

// The bits of the float that has this integer.
fn bits_of(order: i32) -> u32 {
    return select(u32(order), u32(-order) | 0x80000000u, order < 0);
}

// The larger float. If both are equal, it is the first; if either is NaN, it is NaN.
fn larger(a: u32, b: u32) -> u32 {
    return select(a, b, order_of(b) > order_of(a));
}

fn smaller(a: u32, b: u32) -> u32 {
    return select(a, b, !is_nan(a) && (is_nan(b) || order_of(b) < order_of(a)));
}

// Negative numbers become 0; NaN stays.
fn relu_of(bits: u32) -> u32 {
    return select(bits, 0u, bits > 0x80000000u && bits <= (0x80000000u | infinity()));
}

fn relu_of_four(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    return bitcast<vec4<f32>>(vec4<u32>(relu_of(bits.x), relu_of(bits.y), relu_of(bits.z), relu_of(bits.w)));
}
