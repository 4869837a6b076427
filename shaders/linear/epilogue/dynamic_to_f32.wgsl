// Floats of a layer with dynamic qparams.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    store_floats(scaled_dynamic(sum, row, to), row, to);
}
