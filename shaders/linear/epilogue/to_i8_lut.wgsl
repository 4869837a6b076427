// int8 values through a lookup table.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, quad: u32) {
    store_int8(look_up(requantized(sum, quad)), row, quad);
}
