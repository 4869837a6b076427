// Unary functions of floats, with the bits of the host's `UnaryOp::eval_f32`: equation 11.

// The magnitude of one number with the sign of another.
fn with_sign_of(magnitude: f32, bits: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(magnitude) | (bits & SIGN));
}

// Replaces what is not finite by 0.
fn finite_of(bits: u32) -> f32 {
    return bitcast<f32>(select(bits, 0u, is_special(bits)));
}

// The result of a finite x, which is finite, else the limit `low` at -infinity or `high` at infinity, or NaN.
fn limits(x: u32, y: f32, low: u32, high: u32) -> u32 {
    let limit = select(select(high, low, (x >> 31u) == 1u), not_a_number(), is_nan(x));
    return select(bitcast<u32>(flush(y)), limit, is_special(x));
}

fn sigmoid_core(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let e = exp_of_negative(bitcast<f32>(bits | SIGN));
    return flush(normal_quotient(select(1.0f, e, (bits >> 31u) == 1u), add_f(1.0f, e)));
}

fn sigmoid_of(x: u32) -> u32 {
    return limits(x, sigmoid_core(bitcast<f32>(x)), 0u, ONE);
}

fn silu_of(x: u32) -> u32 {
    let v = finite_of(x);
    return limits(x, mul_f(v, sigmoid_core(v)), not_a_number(), INFINITY);
}

fn gelu_tanh_of(x: u32) -> u32 {
    let v = finite_of(x);
    let bits = bitcast<u32>(v);
    let c = bitcast<f32>(select(bits, 0x41800000u | (bits & SIGN), (bits & MAGNITUDE) > 0x41800000u));
    let inner = mul_f(c, mul_add_f(mul_f(c, c), 0.071354816f, 1.59576912f));
    return limits(x, mul_f(v, sigmoid_core(inner)), not_a_number(), INFINITY);
}

fn tanh_of(x: u32) -> u32 {
    let a = bitcast<f32>(min(x & MAGNITUDE, 0x41200000u));
    let large = sub_f(1.0f, normal_quotient(2.0f, add_f(exp_core(add_f(a, a)), 1.0f)));
    let s = mul_f(a, a);
    var p = mul_add_f(-5.70498873e-3f, s, 2.06390888e-2f);
    p = mul_add_f(p, s, -5.37397156e-2f);
    p = mul_add_f(p, s, 1.33314422e-1f);
    p = mul_add_f(p, s, -3.33332819e-1f);
    let small = mul_add_f(mul_f(p, s), a, a);
    let y = select(small, large, bitcast<u32>(a) > 0x3f200000u);
    return limits(x, with_sign_of(y, x), 0xbf800000u, ONE);
}

// 1 - erf(t) for t above 0.927734375.
fn erfc_core(x: f32) -> f32 {
    let t = bitcast<f32>(min(bitcast<u32>(x), 0x41200000u));
    let high = mul_add_f(-1.7285347e-5f, t, 3.83197126e-4f);
    let low = mul_add_f(-3.88396438e-3f, t, 2.42546219e-2f);
    var p = mul_add_f(high, mul_f(t, t), low);
    p = mul_add_f(p, t, -1.06777877e-1f);
    p = mul_add_f(p, t, -6.34846866e-1f);
    p = mul_add_f(p, t, -1.28717512e-1f);
    return exp_of_negative(bitcast<f32>(bitcast<u32>(sub_f(mul_f(p, t), t)) | SIGN));
}

// erf(t) for t up to 0.927734375.
fn erf_small(t: f32) -> f32 {
    let s = mul_f(t, t);
    var p = mul_add_f(-5.96761703e-4f, s, 4.99119423e-3f);
    p = mul_add_f(p, s, -2.67681349e-2f);
    p = mul_add_f(p, s, 1.12819925e-1f);
    p = mul_add_f(p, s, -3.76125336e-1f);
    p = mul_add_f(p, s, 1.28379166e-1f);
    return mul_add_f(p, t, t);
}

fn erf_of(x: u32) -> u32 {
    let t = bitcast<f32>(x & MAGNITUDE);
    let is_large = bitcast<u32>(t) > 0x3f6d8000u;
    let large = sub_f(1.0f, erfc_core(select(1.0f, t, is_large)));
    let small = erf_small(select(t, 0.0f, is_large));
    return limits(x, with_sign_of(select(small, large, is_large), x), 0xbf800000u, ONE);
}

fn gelu_of(x: u32) -> u32 {
    let v = finite_of(x);
    let bits = bitcast<u32>(v);
    let t = mul_f(bitcast<f32>(bits & MAGNITUDE), 0.707106781f);
    let is_large = bitcast<u32>(t) > 0x3f6d8000u;
    let tail = mul_f(0.5f, erfc_core(select(1.0f, t, is_large)));
    let large = select(sub_f(1.0f, tail), tail, (bits >> 31u) == 1u);
    let e = erf_small(select(t, 0.0f, is_large));
    let small = mul_add_f(0.5f, with_sign_of(e, bits), 0.5f);
    return limits(x, mul_f(v, select(small, large, is_large)), not_a_number(), INFINITY);
}

// 1 from the smallest positive number to infinity; 0 for all other floats, NaN included.
fn step_of(bits: u32) -> u32 {
    return select(0u, ONE, bits - 1u < INFINITY);
}

// 1 with the sign of the number; zeros and NaN are unchanged.
fn sign_of(bits: u32) -> u32 {
    let kept = (bits & 0x7fffffffu) == 0u || is_nan(bits);
    return select(ONE | (bits & 0x80000000u), bits, kept);
}

// The nearest number whose lower 16 bits are 0, ties to even; the largest become infinite.
fn round_bf16(bits: u32) -> u32 {
    return select((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u, NAN, is_nan(bits));
}

fn exp_of(x: u32) -> u32 {
    let under = x > 0xc28aa122u;
    let over = bitcast<i32>(x) > 0x42b17217;
    let y = bitcast<u32>(exp_core(bitcast<f32>(select(x, 0u, under || over))));
    return canonical_bits(select(select(y, INFINITY, over), select(0u, NAN, is_nan(x)), under || is_nan(x)));
}

// The square root of any number. A subnormal number is this many times 2^-149: as many halves times 2^-150.
fn sqrt_of(bits: u32) -> u32 {
    let subnormal = bits < 0x00800000u;
    let scaled = select(bits, bitcast<u32>(f32((bits & 0x7fffffu) << 1u)), subnormal);
    let zero = (bits & MAGNITUDE) == 0u;
    let undefined = is_nan(bits) || ((bits >> 31u) == 1u && !zero);
    let defined = !(zero || undefined || bits == INFINITY);
    let y = bitcast<u32>(root(bitcast<f32>(select(ONE, scaled, defined)))) - select(0u, 75u << 23u, subnormal);
    return select(select(select(bits, 0u, zero), NAN, undefined), y, defined);
}

// The natural logarithm of any number. A subnormal number is this many times 2^-149.
fn log_of(bits: u32) -> u32 {
    let defined = bits - 1u < INFINITY - 1u;
    let subnormal = bits < 0x00800000u;
    let scaled = select(bits, bitcast<u32>(f32(bits & 0x7fffffu)), subnormal);
    let i = select(ONE, scaled, defined) - 0x3f3504f3u;
    let e = f32((bitcast<i32>(i) >> 23u) - select(0, 149, subnormal));
    let m = sub_f(bitcast<f32>((i & 0x7fffffu) + 0x3f3504f3u), 1.0f);
    let s = mul_f(m, m);
    var p = mul_add_f(7.03768363e-2f, m, -1.15146103e-1f);
    p = mul_add_f(p, m, 1.16769987e-1f);
    p = mul_add_f(p, m, -1.24201408e-1f);
    p = mul_add_f(p, m, 1.42493228e-1f);
    p = mul_add_f(p, m, -1.66680577e-1f);
    p = mul_add_f(p, m, 2.00007148e-1f);
    p = mul_add_f(p, m, -2.4999994e-1f);
    p = mul_add_f(p, m, 3.33333312e-1f);
    let rest = sub_f(sub_f(mul_f(mul_f(p, m), s), mul_f(e, 2.12194440e-4f)), mul_f(0.5f, s));
    let y = mul_add_f(e, 0.693359375f, add_f(m, rest));
    let zero = (bits & MAGNITUDE) == 0u;
    let limit = select(select(NAN, INFINITY, bits == INFINITY), INFINITY | SIGN, zero);
    return canonical_bits(select(limit, bitcast<u32>(y), defined));
}

// Words of the binary fraction 1/(2π), the first one with its highest bits. The largest number needs six.
fn one_over_two_pi(word: u32) -> u32 {
    switch word {
        case 0u: {
            return 0x28be60dbu;
        }
        case 1u: {
            return 0x9391054au;
        }
        case 2u: {
            return 0x7f09d5f4u;
        }
        case 3u: {
            return 0x7d4d3770u;
        }
        case 4u: {
            return 0x36d8a566u;
        }
        case 5u: {
            return 0x4f10e410u;
        }
        default: {
            return 0u;
        }
    }
}

// The product of two words: high and low word.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a1 = a >> 16u;
    let a0 = a & 0xffffu;
    let b1 = b >> 16u;
    let b0 = b & 0xffffu;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let carry = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>(a1 * b1 + (middle >> 16u) + (carry >> 16u), a * b);
}

// Payne and Hanek's reduction of an angle of at least 0.5: the nearest multiple of π/2 (modulo 4), and the bits of the rest in radians.
fn reduced(magnitude: u32) -> vec2<u32> {
    let exponent = (magnitude >> 23u) - 126u;
    let mantissa = (magnitude << 8u) | 0x80000000u;
    let word = exponent >> 5u;
    let shift = exponent & 31u;
    var high = select(0u, one_over_two_pi(max(word, 1u) - 1u), word > 0u);
    var middle = one_over_two_pi(word);
    var low = one_over_two_pi(word + 1u);
    if shift > 0u {
        let rest = 32u - shift;
        high = (high << shift) | (middle >> rest);
        middle = (middle << shift) | (low >> rest);
        low = (low << shift) | (one_over_two_pi(word + 2u) >> rest);
    }
    // The turns, in 64 bits: two bits of quadrant, then the fraction of a quadrant.
    var product = wide_product(mantissa, middle);
    let carry = wide_product(mantissa, low).x;
    product = vec2<u32>(product.x + mantissa * high, product.y + carry);
    product.x += select(0u, 1u, product.y < carry);
    var quadrant = product.x >> 30u;
    product.x &= 0x3fffffffu;
    let above = (product.x & 0x20000000u) != 0u;
    if above {
        quadrant += 1u;
        // 2^62 less the fraction.
        let borrow = select(0u, 1u, product.y > 0u);
        product = vec2<u32>(0x40000000u - product.x - borrow, 0u - product.y);
    }
    // The 24 highest bits, rounded, are exact as a float.
    let zeros = select(countLeadingZeros(product.x), 32u + countLeadingZeros(product.y), product.x == 0u);
    // At least two bits are 0.
    let up = zeros & 31u;
    let high_bits = select(product.x, product.y, product.x == 0u);
    let low_bits = select(product.y, 0u, product.x == 0u);
    let top = (high_bits << up) | select(low_bits >> (32u - max(up, 1u)), 0u, up == 0u);
    let rounded = f32(((top >> 7u) + 1u) >> 1u);
    let quarters = bitcast<f32>(bitcast<u32>(rounded) - ((22u + zeros) << 23u));
    let radians = mul_f(quarters, 1.57079637f);
    return vec2<u32>(quadrant & 3u, bitcast<u32>(radians) ^ select(0u, SIGN, above));
}

// Sine, or cosine if `turned` is 1, of any angle. The polynomials are those of Cephes, for at most pi/4.
fn sine_of(bits: u32, turned: u32) -> u32 {
    let magnitude = bits & MAGNITUDE;
    var parts = vec2<u32>(0u, bitcast<u32>(flush(bitcast<f32>(magnitude))));
    // Up to pi/4.
    if magnitude > 0x3f490fdau {
        parts = reduced(min(magnitude, INFINITY - 1u));
    }
    let negative = (bits & SIGN) != 0u;
    let r = bitcast<f32>(parts.y ^ (bits & SIGN));
    let quadrant = select(parts.x, 4u - parts.x, negative) + turned;
    let s = mul_f(r, r);
    let odd = mul_add_f(mul_add_f(-1.95152959e-4f, s, 8.33216087e-3f), s, -1.66666546e-1f);
    let sine = mul_add_f(mul_f(odd, s), r, r);
    let even = mul_add_f(mul_add_f(2.44331571e-5f, s, -1.38873163e-3f), s, 4.16666457e-2f);
    let cosine = add_f(sub_f(mul_f(mul_f(even, s), s), mul_f(0.5f, s)), 1.0f);
    let y = bitcast<u32>(select(sine, cosine, (quadrant & 1u) == 1u)) ^ ((quadrant & 2u) << 30u);
    return canonical_bits(select(y, NAN, magnitude >= INFINITY));
}

const ROUND: u32 = 0u;
const FLOOR: u32 = 1u;
const CEIL: u32 = 2u;

// The nearest integer (ties to even), the largest integer below, or the smallest above. The result has the sign of the number, and
// subnormal numbers are not taken for 0.
fn whole_of(direction: u32, bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    let sign = bits & 0x80000000u;
    if magnitude >= 0x4b000000u {
        return bits;
    }
    if magnitude < 0x00800000u {
        let away = magnitude > 0u && ((direction == FLOOR && sign != 0u) || (direction == CEIL && sign == 0u));
        return sign | select(0u, ONE, away);
    }
    let x = bitcast<f32>(bits);
    let rounded = select(select(ceil(x), floor(x), direction == FLOOR), round(x), direction == ROUND);
    return bitcast<u32>(rounded) | sign;
}
