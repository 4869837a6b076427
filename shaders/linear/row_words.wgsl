// The sum of a row, word by word.

fn add_row(
    sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> vec4<i32> {
    var s = sum;
    var v = a;
    var c0 = b0;
    var c1 = b1;
    var c2 = b2;
    var c3 = b3;
    for (var word = 0u; word < 4u; word++) {
        let w = Columns(unpack(c0.x), unpack(c1.x), unpack(c2.x), unpack(c3.x), word_factors(factors, word));
        s = plus(s, unpack(v.x), w);
        v = v.yzwx;
        c0 = c0.yzwx;
        c1 = c1.yzwx;
        c2 = c2.yzwx;
        c3 = c3.yzwx;
    }
    return s;
}
