// int8 values, four to a word.

// Byte `at % 4` of a word, with its sign.
fn signed_byte(word: u32, at: u32) -> i32 {
    return bitcast<i32>(word << (24u - 8u * (at % 4u))) >> 24u;
}
