// Functions of one float. Held to tolerances.

fn sigmoid(x: f32) -> f32 {
    // The larger exponent underflows to 0 on either side, and never overflows.
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn tanh_clamped(x: f32) -> f32 {
    // Some drivers overflow inside tanh; beyond 9 it is 1 in f32.
    return tanh(clamp(x, -9.1, 9.1));
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let e = 1.0 - p * exp(-min(x * x, 80.0));
    return select(e, -e, x < 0.0);
}

// By the bits, so that neither NaN nor a subnormal number depends on the driver: from the smallest positive number to infinity
// it is 1; of all else, NaN too, 0.
fn step_of(x: f32) -> f32 {
    return select(0.0, 1.0, bitcast<u32>(x) - 1u < 0x7f800000u);
}

// In the order of the host's list.
fn unary(kind: u32, x: f32) -> f32 {
    switch kind {
        case 0u: {
            return max(x, 0.0);
        }
        case 1u: {
            return sigmoid(x);
        }
        case 2u: {
            return tanh_clamped(x);
        }
        case 3u: {
            return 0.5 * x * (1.0 + erf(x * 0.70710678118));
        }
        case 4u: {
            return 0.5 * x * (1.0 + tanh_clamped(0.7978845608 * (x + 0.044715 * x * x * x)));
        }
        case 5u: {
            return x * sigmoid(x);
        }
        case 6u: {
            return sqrt(x);
        }
        case 7u: {
            return exp(x);
        }
        case 8u: {
            return log(x);
        }
        case 9u: {
            return erf(x);
        }
        case 10u: {
            return bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu);
        }
        default: {
            return step_of(x);
        }
    }
}
