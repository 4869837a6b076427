// Floats.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    store_floats(scaled(sum, to), row, to);
}
