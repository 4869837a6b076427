//! Products of two matrices that a run computes, such as those of attention: neither is packed before, and both are read through strides,
//! so that nobody has to transpose them.
//!
//! Sums run over the inner dimension in order, in `f32`. That serves three kinds of factors: those of 12 bits (see
//! [`crate::numerics::float::products`]) and integers, whose products are exact, so that the bits are the same on every processor with and
//! without a fused multiply-add; and floats of all bits, where they are not.

use super::lanes::{InTiles, Lanes, Results, VECTORS, floats, tile, with_lanes};

/// A matrix inside of a slice: element (i, j) is at `i · row + j · col`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strided<'d, T> {
    pub(crate) data: &'d [T],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl<T: Copy> Strided<'_, T> {
    /// Writes columns `first..` of a row to `to`, converted.
    #[inline(always)]
    fn read_row(self, to: &mut [f32], row: usize, first: usize, convert: impl Fn(T) -> f32) {
        if to.is_empty() {
            return;
        }
        let from = &self.data[row * self.row + first * self.col..];
        if self.col == 1 {
            for (to, &v) in to.iter_mut().zip(from) {
                *to = convert(v);
            }
        } else {
            for (to, &v) in to.iter_mut().zip(from.iter().step_by(self.col)) {
                *to = convert(v);
            }
        }
    }
}

/// Integers of at most 8 bits, less a zero point of at most 8 bits, have products below 2¹⁶, so `f32` holds so many of them exactly.
pub(crate) const EXACT_INTEGERS: usize = 1 << 8;

/// Buffers of a product, which the next one takes over.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Some rows of the left factor, row-major.
    left: Vec<f32>,
    /// The right factor in panels of columns: `[panels, k, columns]`, the last filled up with zeros.
    right: Vec<f32>,
}

/// Computes `a[m, k] · b[k, n]` with `[m, n, k]`, and calls `store` with part of a row of `y[m, n]` and its sums. `read_a`, which knows the
/// row, and `read_b` convert the factors.
pub(crate) fn product<A: Copy, B: Copy, O>(
    scratch: &mut Scratch,
    y: &mut [O],
    [m, n, k]: [usize; 3],
    (a, read_a): (Strided<'_, A>, impl Fn(usize, A) -> f32),
    (b, read_b): (Strided<'_, B>, impl Fn(B) -> f32),
    store: impl Fn(&mut [O], &[f32]),
) {
    if m * n > 0 {
        with_lanes(Product { scratch, y, n, k, a, read_a, b, read_b, store });
    }
}

struct Product<'p, A, B, O, ReadA, ReadB, Store> {
    scratch: &'p mut Scratch,
    y: &'p mut [O],
    n: usize,
    k: usize,
    a: Strided<'p, A>,
    read_a: ReadA,
    b: Strided<'p, B>,
    read_b: ReadB,
    store: Store,
}

impl<A: Copy, B: Copy, O, ReadA, ReadB, Store> InTiles for Product<'_, A, B, O, ReadA, ReadB, Store>
where
    ReadA: Fn(usize, A) -> f32,
    ReadB: Fn(B) -> f32,
    Store: Fn(&mut [O], &[f32]),
{
    #[inline(always)]
    fn run<const ROWS: usize>(self, lanes: impl Lanes) {
        let Self { scratch: Scratch { left, right }, y, n, k, a, read_a, b, read_b, store } = self;
        let width = VECTORS * lanes.len();
        left.resize(ROWS * k, 0.0);
        pack(right, width, b, [n, k], read_b);
        for (tile, y) in y.chunks_mut(ROWS * n).enumerate() {
            let rows = y.len() / n;
            for (row, left) in left.chunks_exact_mut(k.max(1)).take(rows).enumerate() {
                let row = tile * ROWS + row;
                a.read_row(
                    left,
                    row,
                    0,
                    #[inline(always)]
                    |v| read_a(row, v),
                );
            }
            if rows == ROWS {
                rows_of_tile::<O, ROWS>(lanes, y, left, right, [n, k], &store);
                continue;
            }
            for (row, y) in y.chunks_exact_mut(n).enumerate() {
                rows_of_tile::<O, 1>(lanes, y, &left[row * k..], right, [n, k], &store);
            }
        }
    }
}

/// Packs `b[k, n]` in panels of `width` columns.
#[inline(always)]
pub(super) fn pack<B: Copy>(
    right: &mut Vec<f32>,
    width: usize,
    b: Strided<'_, B>,
    [n, k]: [usize; 2],
    read: impl Fn(B) -> f32,
) {
    right.clear();
    right.resize(n.div_ceil(width) * k * width, 0.0);
    for (panel, right) in right.chunks_exact_mut((k * width).max(1)).enumerate() {
        let first = panel * width;
        let columns = width.min(n - first);
        if b.row == 1 && b.col != 1 {
            // A transposed matrix is read along its own rows.
            for column in 0..columns {
                let from = &b.data[(first + column) * b.col..][..k];
                for (to, &v) in right.chunks_exact_mut(width).zip(from) {
                    to[column] = read(v);
                }
            }
        } else {
            for (i, to) in right.chunks_exact_mut(width).enumerate() {
                b.read_row(&mut to[..columns], i, first, &read);
            }
        }
    }
}

/// Computes `ROWS` rows.
#[inline(always)]
fn rows_of_tile<O, const ROWS: usize>(
    lanes: impl Lanes,
    y: &mut [O],
    left: &[f32],
    right: &[f32],
    [n, k]: [usize; 2],
    store: impl Fn(&mut [O], &[f32]),
) {
    let width = VECTORS * lanes.len();
    for first in (0..n).step_by(width) {
        let (panel, columns) = (&right[first * k..][..k * width], width.min(n - first));
        tile::<ROWS>(
            lanes,
            (left, std::array::from_fn(|row| row * k), std::slice::from_ref(&(0..k))),
            panel,
            None,
            Columns { y: &mut *y, n, first, columns, store: &store },
        );
    }
}

/// Some columns of `y[rows, n]`.
struct Columns<'y, O, Store> {
    y: &'y mut [O],
    n: usize,
    first: usize,
    columns: usize,
    store: Store,
}

impl<O, Store: Fn(&mut [O], &[f32])> Results for Columns<'_, O, Store> {
    #[inline(always)]
    fn begin<L: Lanes>(&self, _: L, _: usize) -> Option<[L::Vector; VECTORS]> {
        None
    }

    #[inline(always)]
    fn store<L: Lanes>(&mut self, lanes: L, row: usize, sums: [L::Vector; VECTORS]) {
        let Self { n, first, columns, .. } = *self;
        (self.store)(&mut self.y[row * n + first..][..columns], &floats(lanes, sums)[..columns]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of strides, sizes around the tiles, against sums in order.
    #[test]
    fn products_are_sums_in_order() {
        let value = |i: usize| ((i * 37 + i / 7) % 255) as i32 - 127;
        let mut scratch = Scratch::default();
        for [m, n, k] in
            [[1, 1, 1], [3, 5, 7], [8, 32, 64], [9, 33, 65], [17, 70, 3], [1, 65, 64], [5, 0, 3], [0, 5, 3], [2, 3, 0]]
        {
            let a: Vec<i8> = (0..m * k).map(|i| value(i) as i8).collect();
            let b: Vec<i8> = (0..k * n).map(|i| value(i + 11) as i8).collect();
            for (a_row, a_col) in [(k, 1), (1, m)] {
                for (b_row, b_col) in [(n, 1), (1, k)] {
                    let mut y = vec![7i32; m * n];
                    product(
                        &mut scratch,
                        &mut y,
                        [m, n, k],
                        (Strided { data: &a, row: a_row, col: a_col }, |row, v: i8| f32::from(v) - row as f32),
                        (Strided { data: &b, row: b_row, col: b_col }, |v: i8| f32::from(v) + 3.0),
                        |y, sums| y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum as i32),
                    );
                    for (at, &y) in y.iter().enumerate() {
                        let (row, column) = (at / n, at % n);
                        let term = |i: usize| {
                            let (a, b) = (a[row * a_row + i * a_col], b[i * b_row + column * b_col]);
                            (i32::from(a) - row as i32) * (i32::from(b) + 3)
                        };
                        assert_eq!(y, (0..k).map(term).sum::<i32>(), "{m} x {k} x {n}, element {at}");
                    }
                }
            }
        }
    }

    /// The largest products of integers, as many as stay exact.
    #[test]
    fn sums_of_integers_are_exact() {
        let (a, b) = (vec![-128i8; EXACT_INTEGERS], vec![127i8; EXACT_INTEGERS]);
        let mut y = [0i32];
        product(
            &mut Scratch::default(),
            &mut y,
            [1, 1, EXACT_INTEGERS],
            (Strided { data: &a, row: EXACT_INTEGERS, col: 1 }, |_, v: i8| f32::from(v) - 127.0),
            (Strided { data: &b, row: 1, col: 1 }, |v: i8| f32::from(v) + 128.0),
            |y, sums| y[0] = sums[0] as i32,
        );
        assert_eq!(y, [-255 * 255 * EXACT_INTEGERS as i32]);
    }

    /// Sums of inexact terms show their order: that of the plain loops, on every processor.
    #[test]
    fn sums_of_factors_have_the_bits_of_plain_loops() {
        use crate::numerics::float::{canonical, products};
        let values = |length: usize, seed: u32| -> Vec<f32> {
            let random =
                |i: usize| (i as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
            (0..length).map(|i| random(i) as i32 as f32 * 1e-9).collect()
        };
        let mut differ = 0;
        for [m, n, k] in [[1, 70, 300], [9, 33, 65], [17, 16, 128]] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (mut y, mut expected) = (vec![0f32; m * n], vec![0f32; m * n]);
            let (left, right) = (Strided { data: &a, row: k, col: 1 }, Strided { data: &b, row: n, col: 1 });
            let store = |y: &mut [f32], sums: &[f32]| y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = canonical(sum));
            let (read_a, read_b) = (|_, v| products::factor(v), products::factor);
            product(&mut Scratch::default(), &mut y, [m, n, k], (left, read_a), (right, read_b), store);
            let (a, b) = (products::factors(&a), products::factors(&b));
            products::product(&mut expected, &a, &b, [n, k], None);
            for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
                assert_eq!(y.to_bits(), expected.to_bits(), "{m} x {k} x {n}, element {at}");
                let backwards = (0..k).rev().fold(0f32, |sum, i| sum + a[at / n * k + i] * b[i * n + at % n]);
                differ += usize::from(backwards.to_bits() != expected.to_bits());
            }
        }
        assert!(differ > 100, "the order does not show");
    }
}
