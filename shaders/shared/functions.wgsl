// Unary functions of floats. Functions that only select give the same bits as the host; the others agree within tolerances. They
// clamp their arguments, so that the built-in functions see neither infinities nor overflows.

fn sigmoid(x: f32) -> f32 {
    // The larger exponent underflows to 0 on either side, and never overflows.
    let e = exp(-min(abs(x), 104.0));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn tanh_clamped(x: f32) -> f32 {
    // Some drivers overflow inside tanh; beyond 9 it is 1 in f32.
    return tanh(clamp(x, -9.1, 9.1));
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7. Beyond 9 it is 1 in f32.
fn erf(x: f32) -> f32 {
    let c = min(abs(x), 9.0);
    let t = 1.0 / (1.0 + 0.3275911 * c);
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let e = 1.0 - p * exp(-c * c);
    return select(e, -e, x < 0.0);
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

fn exp_of(x: f32) -> f32 {
    // The result is infinite beyond the logarithm of the largest number.
    let e = bitcast<u32>(exp(clamp(x, -104.0, 88.72283)));
    return bitcast<f32>(select(e, INFINITY, order_of(bitcast<u32>(x)) > 0x42b17217));
}

// The logarithm of a number that is not negative.
fn log_of(bits: u32) -> f32 {
    // A subnormal number is this many times 2^-149, also on devices that treat it as 0.
    let subnormal = bits < 0x00800000u;
    let l = log(select(bitcast<f32>(bits), f32(bits), subnormal)) - select(0.0, 103.27893, subnormal);
    let finite = select(bitcast<u32>(l), INFINITY | 0x80000000u, (bits & 0x7fffffffu) == 0u);
    return bitcast<f32>(select(finite, bits, bits == INFINITY));
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
    let fraction = f32(product.x) * 4294967296.0 + f32(product.y);
    let radians = fraction * 3.4061215800304e-19;
    return vec2<u32>(quadrant & 3u, bitcast<u32>(select(radians, -radians, above)));
}

// Sine, or cosine if `turned` is 1, of a finite angle. The polynomials are those of Cephes, for at most π/4.
fn sine_of(bits: u32, turned: u32) -> f32 {
    let magnitude = bits & 0x7fffffffu;
    var parts = vec2<u32>(0u, magnitude);
    // Up to π/4.
    if magnitude > 0x3f490fdau {
        parts = reduced(min(magnitude, INFINITY - 1u));
    }
    let negative = (bits & 0x80000000u) != 0u;
    let r = bitcast<f32>(parts.y) * select(1.0, -1.0, negative);
    let quadrant = select(parts.x, 4u - parts.x, negative) + turned;
    let z = r * r;
    let sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    let cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
    let y = select(sine, cosine, (quadrant & 1u) == 1u);
    return select(y, -y, (quadrant & 2u) == 2u);
}

// The nearest integer (ties to even), the largest integer below, or the smallest above: functions 17 to 19. The result has the sign of
// the number, and subnormal numbers are not taken for 0.
fn whole_of(function: u32, bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    let sign = bits & 0x80000000u;
    if magnitude >= 0x4b000000u {
        return bits;
    }
    if magnitude < 0x00800000u {
        let away = magnitude > 0u && (function == 18u && sign != 0u || function == 19u && sign == 0u);
        return sign | select(0u, ONE, away);
    }
    let x = bitcast<f32>(bits);
    let rounded = select(select(ceil(x), floor(x), function == 18u), round(x), function == 17u);
    return bitcast<u32>(rounded) | sign;
}

// The value of a function where it is defined.
fn value_of(function: u32, x: f32) -> f32 {
    // For smaller x, x times what vanishes there is 0.
    let above = max(x, -104.0);
    switch function {
        case 1u: {
            return sigmoid(x);
        }
        case 2u: {
            return tanh_clamped(x);
        }
        case 3u: {
            return 0.5 * above * (1.0 + erf(above * 0.70710678118));
        }
        case 4u: {
            let c = clamp(x, -104.0, 104.0);
            return 0.5 * above * (1.0 + tanh_clamped(0.7978845608 * (c + 0.044715 * c * c * c)));
        }
        case 5u: {
            return above * sigmoid(above);
        }
        case 6u: {
            return bitcast<f32>(select(bitcast<u32>(sqrt(x)), INFINITY, bitcast<u32>(x) == INFINITY));
        }
        case 7u: {
            return exp_of(x);
        }
        case 8u: {
            return log_of(bitcast<u32>(x));
        }
        case 15u, 16u: {
            return sine_of(bitcast<u32>(x), function - 15u);
        }
        default: {
            return erf(x);
        }
    }
}

// Whether a function is undefined at a number: roots and logarithms of negative numbers, sines of infinities, and x times what vanishes
// at −∞, which is −∞ times 0 there.
fn is_undefined(function: u32, bits: u32) -> bool {
    if function == 6u || function == 8u {
        return order_of(bits) < 0;
    }
    if function == 15u || function == 16u {
        return (bits & 0x7fffffffu) == INFINITY;
    }
    return function >= 3u && function <= 5u && bits == 0xff800000u;
}

// The numbers of the functions are those of the host's enum `UnaryOp`.
fn apply(function: u32, x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    switch function {
        case 0u: {
            return bitcast<f32>(relu_of(bits));
        }
        case 10u: {
            return bitcast<f32>(bits & 0x7fffffffu);
        }
        case 11u: {
            return bitcast<f32>(step_of(bits));
        }
        case 12u: {
            return bitcast<f32>(sign_of(bits));
        }
        case 13u: {
            return bitcast<f32>(f32_bits(f16_bits(x)));
        }
        case 14u: {
            return bitcast<f32>(round_bf16(bits));
        }
        case 17u, 18u, 19u: {
            return bitcast<f32>(whole_of(function, bits));
        }
        case 20u: {
            return select(0.0, 1.0, is_nan(bits));
        }
        default: {
            let y = bitcast<u32>(value_of(function, x));
            return bitcast<f32>(select(y, NAN, is_nan(bits) || is_undefined(function, bits)));
        }
    }
}

fn apply_to_four(function: u32, v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(apply(function, v.x), apply(function, v.y), apply(function, v.z), apply(function, v.w));
}
