// Equation 10: qparams from the range of some elements.
//
// It gives the same bits everywhere: its quotients are those of equation 11.

// The rules.
const AFFINE: u32 = 0u;
const SYMMETRIC: u32 = 1u;
const PER_TOKEN: u32 = 2u;

// The place of a number in the order of floats; that of 0 for NaN.
fn known_order(bits: u32) -> i32 {
    return select(order_of(bits), 0, is_nan(bits));
}

// Equation 10: scale and zero point, as words. `range` is quant_min and quant_max, `eps` the smallest scale.
fn choose_qparams(low: f32, high: f32, range: vec2<f32>, eps: f32, rule: u32) -> vec2<u32> {
    let lo = range.x;
    let hi = range.y;
    var scale = 0.0;
    if rule == SYMMETRIC {
        scale = max(quotient(max(-low, high), mul_f(sub_f(hi, lo), 0.5f)), eps);
    } else {
        scale = max(quotient(sub_f(high, low), sub_f(hi, lo)), eps);
    }
    var zero_point = 0.0;
    if rule == AFFINE {
        zero_point = clamp(sub_f(lo, round(quotient(low, scale))), lo, hi);
    } else if rule == PER_TOKEN {
        let from_low = quotient(low, scale);
        let from_high = quotient(high, scale);
        let worse_above = add_f(add_f(lo, from_low), add_f(hi, from_high)) > 0.0;
        zero_point = round(clamp(select(sub_f(hi, from_high), sub_f(lo, from_low), worse_above), lo, hi));
    }
    // A negative 0 becomes positive: a driver may keep its sign through an integer.
    return vec2<u32>(bitcast<u32>(scale), select(bitcast<u32>(zero_point), 0u, zero_point == 0.0));
}

// One thread computes them for all threads of its workgroup: scale and zero point, and the inverse scale.
var<workgroup> shared_qparams: vec2<u32>;
var<workgroup> shared_inv_scale: f32;

// `elements` is their range in the order of floats.
fn share_qparams(elements: vec2<i32>, range: vec2<f32>, eps: f32, rule: u32) {
    let low = bitcast<f32>(bits_of(elements.x));
    let high = bitcast<f32>(bits_of(elements.y));
    shared_qparams = choose_qparams(low, high, range, eps, rule);
    shared_inv_scale = quotient(1.0, bitcast<f32>(shared_qparams.x));
}
