// Sums of eight rows by packed dot products.

fn add_rows(
    s: Rows, a: RowVectors, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> Rows {
    return Rows(
        add_products(s.r0, a.r0, b0, b1, b2, b3, factors), add_products(s.r1, a.r1, b0, b1, b2, b3, factors),
        add_products(s.r2, a.r2, b0, b1, b2, b3, factors), add_products(s.r3, a.r3, b0, b1, b2, b3, factors),
        add_products(s.r4, a.r4, b0, b1, b2, b3, factors), add_products(s.r5, a.r5, b0, b1, b2, b3, factors),
        add_products(s.r6, a.r6, b0, b1, b2, b3, factors), add_products(s.r7, a.r7, b0, b1, b2, b3, factors)
    );
}
