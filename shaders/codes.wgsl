// Equation 8 on four codes: the sum of two products, shifted back with ties to even.

fn rounded_sum(acc: vec4<i32>, shift: u32, zero_point: i32, lo: i32, hi: i32) -> vec4<i32> {
    let half = vec4<i32>((1 << (shift - 1u)) - 1);
    let rounded = (acc + half + ((acc >> vec4<u32>(shift)) & vec4<i32>(1))) >> vec4<u32>(shift);
    return clamp(rounded + vec4<i32>(zero_point), vec4<i32>(lo), vec4<i32>(hi));
}

fn signed_byte(word: u32, at: u32) -> i32 {
    return bitcast<i32>(word << (24u - 8u * (at % 4u))) >> 24u;
}
