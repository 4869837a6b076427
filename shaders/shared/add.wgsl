// Equation 8: the sum of two int8 values by integer multipliers.

struct AddParams {
    a_zero_point: i32,
    b_zero_point: i32,
    a_multiplier: i32,
    b_multiplier: i32,
    shift: u32,
    zero_point: i32,
    lo: i32,
    hi: i32,
}

// The shift back rounds ties to even.
fn add(a: vec4<i32>, b: vec4<i32>, p: AddParams) -> vec4<i32> {
    let acc = (a - vec4<i32>(p.a_zero_point)) * p.a_multiplier + (b - vec4<i32>(p.b_zero_point)) * p.b_multiplier;
    let half = vec4<i32>((1 << (p.shift - 1u)) - 1);
    let rounded = (acc + half + ((acc >> vec4<u32>(p.shift)) & vec4<i32>(1))) >> vec4<u32>(p.shift);
    return clamp(rounded + vec4<i32>(p.zero_point), vec4<i32>(p.lo), vec4<i32>(p.hi));
}
