// Floats of a layer with dynamic qparams.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, quad: u32) {
    store_floats(scaled_dynamic(sum, row, quad), row, quad);
}
