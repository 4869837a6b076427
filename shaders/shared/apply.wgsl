// The function of each of four numbers. The loop keeps it compiled once.
fn apply_to_four(v: vec4<u32>) -> vec4<u32> {
    var y = v;
    for (var lane = 0u; lane < 4u; lane++) {
        y = vec4<u32>(y.yzw, apply_bits(y.x));
    }
    return y;
}
