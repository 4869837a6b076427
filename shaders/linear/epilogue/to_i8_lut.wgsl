// int8 values through a lookup table.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    store_int8(look_up(requantized(sum, to)), row, to);
}
