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
        default: {
            return erf(x);
        }
    }
}

// Whether a function is undefined at a number: roots and logarithms of negative numbers, and x times what vanishes at −∞, which is
// −∞ times 0 there.
fn is_undefined(function: u32, bits: u32) -> bool {
    if function == 6u || function == 8u {
        return order_of(bits) < 0;
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
        default: {
            let y = bitcast<u32>(value_of(function, x));
            return bitcast<f32>(select(y, NAN, is_nan(bits) || is_undefined(function, bits)));
        }
    }
}

fn apply_to_four(function: u32, v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(apply(function, v.x), apply(function, v.y), apply(function, v.z), apply(function, v.w));
}
