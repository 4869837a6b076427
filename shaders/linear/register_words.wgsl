// Sums of eight rows, word by word: the weights are unpacked once for all rows. A loop, so that the products of a word are compiled
// once: drivers that run on a CPU take long for many instructions.

fn add_rows(
    sums: Rows, a: RowVectors, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> Rows {
    var s = sums;
    var v = a;
    var c0 = b0;
    var c1 = b1;
    var c2 = b2;
    var c3 = b3;
    for (var word = 0u; word < 4u; word++) {
        let w = Columns(unpack(c0.x), unpack(c1.x), unpack(c2.x), unpack(c3.x), word_factors(factors, word));
        s = Rows(
            plus(s.r0, unpack(v.r0.x), w), plus(s.r1, unpack(v.r1.x), w), plus(s.r2, unpack(v.r2.x), w),
            plus(s.r3, unpack(v.r3.x), w), plus(s.r4, unpack(v.r4.x), w), plus(s.r5, unpack(v.r5.x), w),
            plus(s.r6, unpack(v.r6.x), w), plus(s.r7, unpack(v.r7.x), w)
        );
        v = RowVectors(
            v.r0.yzwx, v.r1.yzwx, v.r2.yzwx, v.r3.yzwx, v.r4.yzwx, v.r5.yzwx, v.r6.yzwx, v.r7.yzwx
        );
        c0 = c0.yzwx;
        c1 = c1.yzwx;
        c2 = c2.yzwx;
        c3 = c3.yzwx;
    }
    return s;
}
