// Sums of a part of K, added to those of other parts; linear/finish.wgsl applies the epilogue.
const DIVIDES_K: bool = true;

fn apply_epilogue(sum: vec4<i32>, row: u32, to: Output) {
    let at = ((row - to.constants.first_row) * to.constants.quads + to.quad) * 4u;
    atomicAdd(&partial[at], sum.x);
    atomicAdd(&partial[at + 1u], sum.y);
    atomicAdd(&partial[at + 2u], sum.z);
    atomicAdd(&partial[at + 3u], sum.w);
}
