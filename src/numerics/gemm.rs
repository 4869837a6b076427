//! Matrix products: float products, whose sums have an order of the library's, and integer products, whose sums are exact.

mod after;
mod lanes;
#[cfg(feature = "threads")]
mod panels;
#[cfg(feature = "threads")]
mod rten;
pub(crate) mod strided;
#[cfg(any(
    feature = "threads",
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
pub(crate) mod tasks;
pub(crate) use after::After;
#[cfg(feature = "threads")]
pub(crate) use panels::Rows;
#[cfg(feature = "threads")]
pub(crate) use rten::{
    PackedLeft, PackedWeight, SIZES, linear, linear_into, linear_of_block, matmul, matmul_transposed, matrix,
    transposed,
};

#[cfg(not(feature = "threads"))]
mod plain;
#[cfg(not(feature = "threads"))]
pub(crate) use plain::{PackedLeft, PackedWeight, linear, linear_into, linear_of_block, matmul};

/// Multiply-adds of a product of two matrices, beyond which the library's blocks are worth their packing.
pub(crate) const LARGE: usize = 1 << 22;

/// Computes `x[m, k] · weight[n, k]ᵀ` of int8, in `i32`. A sum that does not fit wraps around.
///
/// Each product is below 2¹⁴ in magnitude, so a float holds every partial sum of 2¹⁰ products exactly, whatever their order.
pub(crate) fn integer_linear(x: &[i8], weight: &[i8], [m, n, k]: [usize; 3]) -> Vec<i32> {
    const EXACT: usize = 1 << 10;
    let mut y = vec![0i32; m * n];
    if y.is_empty() {
        return y;
    }
    let mut sums = vec![0f32; m * n];
    for first in (0..k).step_by(EXACT) {
        let length = EXACT.min(k - first);
        let floats = |values: &[i8]| -> Vec<f32> {
            values.chunks_exact(k).flat_map(|row| &row[first..][..length]).map(|&v| f32::from(v)).collect()
        };
        linear_into(&mut sums, &floats(x), [m, n, length], &floats(weight), None, None, None);
        y.iter_mut().zip(&sums).for_each(|(y, &sum)| *y = y.wrapping_add(sum as i32));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::integer_linear;

    /// Sums of the largest products, more of them than a float adds exactly.
    #[test]
    fn integer_products_are_exact() {
        for k in [1, 1023, 1024, 1025, 3000] {
            let mut x = vec![-128i8; 2 * k];
            x[k - 1] = 127;
            let weight = [vec![-128i8; k], vec![127; k], vec![1; k]].concat();
            let y = integer_linear(&x, &weight, [2, 3, k]);
            let expected = |row: usize, col: usize| -> i32 {
                (0..k).map(|at| i32::from(x[row * k + at]) * i32::from(weight[col * k + at])).sum()
            };
            let expected: Vec<i32> = (0..6).map(|at| expected(at / 3, at % 3)).collect();
            assert_eq!(y, expected, "{k}");
        }
    }
}
