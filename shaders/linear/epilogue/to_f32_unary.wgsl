// Floats through a function.
const DIVIDES_K: bool = false;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    let v = bitcast<vec4<u32>>(scaled(sum, to));
    store_floats(bitcast<vec4<f32>>(apply_to_four(v)), row, to);
}
