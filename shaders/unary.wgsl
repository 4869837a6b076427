// Functions of one float. Those that only choose give the bits of the host; the others are held to tolerances, on arguments that
// keep infinities and overflows out of the built-in functions.

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

// From the smallest positive number to infinity it is 1; of all else, NaN too, 0.
fn step_of(bits: u32) -> u32 {
    return select(0u, ONE, bits - 1u < INFINITY);
}

// 1 with the sign of a number; zeros, and NaN, stay as they are.
fn sign_of(bits: u32) -> u32 {
    let kept = (bits & 0x7fffffffu) == 0u || is_nan(bits);
    return select(ONE | (bits & 0x80000000u), bits, kept);
}

// The nearest number whose lower 16 bits are 0, ties to even; the largest become infinite.
fn round_bf16(bits: u32) -> u32 {
    return select((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u, NAN, is_nan(bits));
}

fn exp_of(x: f32) -> f32 {
    // Beyond the logarithm of the largest number it is infinite.
    let e = bitcast<u32>(exp(clamp(x, -104.0, 88.72283)));
    return bitcast<f32>(select(e, INFINITY, order_of(bitcast<u32>(x)) > 0x42b17217));
}

// Of numbers that are not negative.
fn log_of(bits: u32) -> f32 {
    // A subnormal number is so many times 2^-149, also on devices that take it for 0.
    let subnormal = bits < 0x00800000u;
    let l = log(select(bitcast<f32>(bits), f32(bits), subnormal)) - select(0.0, 103.27893, subnormal);
    let finite = select(bitcast<u32>(l), INFINITY | 0x80000000u, (bits & 0x7fffffffu) == 0u);
    return bitcast<f32>(select(finite, bits, bits == INFINITY));
}

// Of numbers for which the function has a value.
fn value_of(kind: u32, x: f32) -> f32 {
    // Where x is less, x times what vanishes there is 0.
    let above = max(x, -104.0);
    switch kind {
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
        default: {
            return erf(x);
        }
    }
}

// Whether a number has no value under a function: negative ones have no root and no logarithm, and x times what vanishes at −∞
// is −∞ times 0 there.
fn is_undefined(kind: u32, bits: u32) -> bool {
    if kind == 6u || kind == 8u {
        return order_of(bits) < 0;
    }
    return kind >= 3u && kind <= 5u && bits == 0xff800000u;
}

// In the order of the host's list.
fn unary(kind: u32, x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    switch kind {
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
            return bitcast<f32>(float_bits(half_bits(x)));
        }
        case 14u: {
            return bitcast<f32>(round_bf16(bits));
        }
        default: {
            let y = bitcast<u32>(value_of(kind, x));
            return bitcast<f32>(select(y, NAN, is_nan(bits) || is_undefined(kind, bits)));
        }
    }
}
