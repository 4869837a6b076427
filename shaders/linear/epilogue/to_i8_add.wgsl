// int8 values, added to another value of the same shape.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    store_int8(added(requantized(sum, to), row, to), row, to);
}
