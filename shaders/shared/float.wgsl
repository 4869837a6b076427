// Equation 11: float arithmetic with the bits of the host's `numerics::float`, on every device.
//
// Each result of a sum, a difference or a product passes through keep(), an operation on its bits that no compiler sees through:
// otherwise compilers contract products and sums, and reorder sums. Decisions are made on bits, because a compiler may assume that
// no float is NaN or infinite. `params.zero` is 0; it must stay a number that no compiler knows.

const TINY: u32 = 0x0d800000u;
const MAGNITUDE: u32 = 0x7fffffffu;
const SIGN: u32 = 0x80000000u;
const MAGIC: f32 = 12582912.0f;
const MAGIC_BITS: u32 = 0x4b400000u;

fn keep(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

fn keep_four(v: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(params.zero));
}

fn add_f(a: f32, b: f32) -> f32 {
    return keep(a + b);
}

fn sub_f(a: f32, b: f32) -> f32 {
    return keep(a - b);
}

fn mul_f(a: f32, b: f32) -> f32 {
    return keep(a * b);
}

// a * b + c, rounded twice.
fn mul_add_f(a: f32, b: f32, c: f32) -> f32 {
    return add_f(mul_f(a, b), c);
}

// Replaces magnitudes below 2^-100, and -0, by +0, and every NaN by one.
fn canonical_bits(bits: u32) -> u32 {
    let magnitude = bits & MAGNITUDE;
    return select(select(bits, not_a_number(), magnitude > infinity()), 0u, magnitude < TINY);
}

fn canonical(x: f32) -> f32 {
    return bitcast<f32>(canonical_bits(bitcast<u32>(x)));
}

// Replaces magnitudes below 2^-100, and -0, by +0.
fn flush(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    return bitcast<f32>(select(bits, 0u, (bits & MAGNITUDE) < TINY));
}

// Replaces subnormal numbers by 0 with their sign.
fn normal_bits(bits: u32) -> u32 {
    return select(bits, bits & SIGN, (bits & INFINITY) == 0u);
}

fn is_special(bits: u32) -> bool {
    return (bits & MAGNITUDE) >= infinity();
}

// The sum of two numbers, as bits. -0 is the neutral element: the other number keeps its bits.
fn sum_of(a: u32, b: u32) -> u32 {
    let sum = add_f(bitcast<f32>(canonical_bits(a)), bitcast<f32>(canonical_bits(b)));
    return select(select(canonical_bits(bitcast<u32>(sum)), b, a == SIGN), a, b == SIGN);
}

fn product_of(a: u32, b: u32) -> u32 {
    return canonical_bits(bitcast<u32>(mul_f(bitcast<f32>(normal_bits(a)), bitcast<f32>(normal_bits(b)))));
}

// The exponent of a quotient's mantissa of 24 bits, of normal numbers; `less` is 1 where the dividend's mantissa is less than the
// divisor's.
fn quotient_exponent(a_bits: u32, b_bits: u32, less: u32) -> i32 {
    let a_exponent = bitcast<i32>((a_bits >> 23u) & 0xffu);
    let b_exponent = bitcast<i32>((b_bits >> 23u) & 0xffu);
    return a_exponent - b_exponent + 126 - bitcast<i32>(less);
}

fn mantissa(bits: u32) -> u32 {
    return (bits & 0x7fffffu) | 0x800000u;
}

// a / b, correctly rounded, of positive normal numbers with a normal quotient; 0 / 1 is 0. The device's own division only guesses:
// the exact remainder of the guess corrects it.
fn normal_quotient(a: f32, b: f32) -> f32 {
    let a_bits = bitcast<u32>(a);
    let b_bits = bitcast<u32>(b);
    let dividend = mantissa(a_bits);
    let divisor = mantissa(b_bits);
    let less = select(0u, 1u, dividend < divisor);
    let b_fraction = bitcast<f32>((b_bits & 0x7fffffu) | 0x3f800000u);
    let a_fraction = bitcast<f32>((a_bits & 0x7fffffu) | 0x3f800000u);
    let inverse = 1.0f / b_fraction;
    let guess = a_fraction * inverse;
    var digits = bitcast<u32>(guess) - 0x3f000000u + (less << 23u);
    var rest = bitcast<i32>((dividend << (23u + less)) - digits * divisor);
    let more = f32(rest) * inverse * 1.1920928955078125e-7f;
    let steps = bitcast<i32>(bitcast<u32>(add_f(more, MAGIC)) - MAGIC_BITS);
    digits += bitcast<u32>(steps);
    rest -= steps * bitcast<i32>(divisor);
    // There are no ties.
    digits += select(0u, 1u, rest * 2 > bitcast<i32>(divisor));
    digits -= select(0u, 1u, rest * 2 < -bitcast<i32>(divisor));
    // The mantissa's highest bit, or a carry out of it, moves into the exponent by itself.
    return bitcast<f32>(digits + bitcast<u32>(quotient_exponent(a_bits, b_bits, less)) * 0x800000u);
}

// a / b, correctly rounded, of normal numbers. A quotient below the normal numbers is 0.
fn quotient(a: f32, b: f32) -> f32 {
    let a_bits = bitcast<u32>(a);
    let b_bits = bitcast<u32>(b);
    let sign = (a_bits ^ b_bits) & SIGN;
    let less = select(0u, 1u, mantissa(a_bits) < mantissa(b_bits));
    let exponent = quotient_exponent(a_bits, b_bits, less);
    // Without the sign, whatever does not fit: it is not used then.
    let value = bitcast<u32>(normal_quotient(a, b));
    let is_zero = (a_bits & INFINITY) == 0u || exponent < 0;
    let is_infinite = exponent >= 254 || value >= INFINITY;
    return bitcast<f32>(sign | select(select(value, infinity(), is_infinite), 0u, is_zero));
}

// The quotient of any two numbers, as bits.
fn quotient_of(a: u32, b: u32) -> u32 {
    let left = normal_bits(a);
    let right = normal_bits(b);
    let sign = (left ^ right) & SIGN;
    let left_zero = (left & MAGNITUDE) == 0u;
    let right_zero = (right & MAGNITUDE) == 0u;
    let regular = !(is_special(left) || is_special(right) || left_zero || right_zero);
    let value = quotient(bitcast<f32>(select(ONE, left, regular)), bitcast<f32>(select(ONE, right, regular)));
    let undefined = is_nan(left) || is_nan(right) || (left_zero && right_zero) || (is_special(left) && is_special(right));
    let limit = select(0u, INFINITY | sign, right_zero || is_special(left));
    return select(select(limit, NAN, undefined), canonical_bits(bitcast<u32>(value)), regular);
}

// The square root, correctly rounded, of a positive normal number. The device's own root only guesses.
fn root(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let exponent = bitcast<i32>(bits >> 23u) - 127;
    let odd = bitcast<u32>(exponent & 1);
    // The fraction in [1, 4), and as an integer of 24 or 25 bits.
    let fraction = bitcast<f32>((bits & 0x7fffffu) | select(0x3f800000u, 0x40000000u, odd == 1u));
    let radicand = ((bits & 0x7fffffu) | 0x800000u) << odd;
    let guess = sqrt(fraction);
    var digits = bitcast<u32>(guess) - 0x3f800000u + 0x800000u;
    var rest = bitcast<i32>((radicand << 23u) - digits * digits);
    let more = f32(rest) * (1.0f / guess) * 5.9604644775390625e-8f;
    let steps = bitcast<i32>(bitcast<u32>(add_f(more, MAGIC)) - MAGIC_BITS);
    rest -= steps * bitcast<i32>(2u * digits + bitcast<u32>(steps));
    digits += bitcast<u32>(steps);
    let up = rest > bitcast<i32>(digits);
    let down = rest <= -bitcast<i32>(digits);
    digits = select(select(digits, digits - 1u, down), digits + 1u, up);
    return bitcast<f32>(digits + bitcast<u32>((exponent - bitcast<i32>(odd)) / 2 + 126) * 0x800000u);
}

// 1 / sqrt(x) of a positive normal number.
fn inverse_root(x: f32) -> f32 {
    return normal_quotient(1.0f, root(x));
}

// e^x for -69.31471 <= x <= 88.72283.
fn exp_core(x: f32) -> f32 {
    let j = mul_add_f(x, 1.44269504f, MAGIC);
    let n = bitcast<u32>(j) - MAGIC_BITS;
    let whole = sub_f(j, MAGIC);
    let r = add_f(sub_f(x, mul_f(whole, 0.693359375f)), mul_f(whole, 2.12194440e-4f));
    var p = mul_add_f(1.98756915e-4f, r, 1.39819995e-3f);
    p = mul_add_f(p, r, 8.33345191e-3f);
    p = mul_add_f(p, r, 4.16657959e-2f);
    p = mul_add_f(p, r, 1.66666655e-1f);
    p = mul_add_f(p, r, 5.00000012e-1f);
    let y = add_f(mul_add_f(p, mul_f(r, r), r), 1.0f);
    return bitcast<f32>(bitcast<u32>(y) + (n << 23u));
}

// e^x for x <= 0; 0 below -69.31471.
fn exp_of_negative(x: f32) -> f32 {
    let under = bitcast<u32>(x) > 0xc28aa122u;
    return select(exp_core(select(x, 0.0f, under)), 0.0f, under);
}
