// Equation 12: entries of a lookup table of 256 int8 values, whose words the module gives by `lut_word`. Entry `q + 128` is the
// result for q.

fn look_up(values: vec4<i32>) -> vec4<i32> {
    let at = vec4<u32>(values + vec4<i32>(128));
    return vec4<i32>(
        signed_byte(lut_word(at.x / 4u), at.x), signed_byte(lut_word(at.y / 4u), at.y),
        signed_byte(lut_word(at.z / 4u), at.z), signed_byte(lut_word(at.w / 4u), at.w)
    );
}
