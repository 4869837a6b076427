// int8 values.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    store_int8(requantized(sum, to), row, to);
}
