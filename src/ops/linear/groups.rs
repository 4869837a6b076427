//! The accumulator of a linear layer whose weight has a scale and a zero point for each group of input features.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::error::{EvalError, OpError};
use super::super::operands::{Arguments, Operands, TensorType, expect_size, parameter};
use super::super::operator::Operator;
use super::{linear_shape, sizes};
use crate::numerics::MAX_FRACTION_BITS;
use crate::parallel::*;
use crate::values::slices::{integers, with_last};
use crate::values::{DType, Shape, Tensor, check_size};

/// The accumulator of an int8 linear layer with group-wise weights (equation 4), in `i32`. Inputs: x `[…, K]` int8, w `[N, K]` int8, bias
/// `[N]` i32, the integer scale of each group `[N, G]` i32 (1 to 255), the zero point of each group `[N, G]` int8. Output: `[…, N]`.
///
/// A group is `group_size` neighbouring input features; the last of a channel may have fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerLinearGroups {
    /// Number of fraction bits, `p` of equation 4: 0 to 12.
    pub fraction_bits: u32,
    /// Input features of a group, a multiple of 4.
    pub group_size: usize,
}

impl Operator for IntegerLinearGroups {
    fn name(&self) -> &'static str {
        "integer_linear_groups"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8, DType::I32, DType::I32, DType::I8])?;
        if self.fraction_bits > MAX_FRACTION_BITS {
            return Err(parameter("fraction_bits", self.fraction_bits, "must be at most 12 (equation 4)"));
        }
        check_size(self.group_size)?;
        let shape = linear_shape(inputs)?;
        let w = inputs.shape(1).fixed_dims();
        let groups = Shape::fixed(&[w[0], w[1].div_ceil(self.group_size)]);
        for (input, what) in [(3, "integer scales of groups"), (4, "zero points of groups")] {
            inputs.expect_fixed_rank(input, what, 2, "2")?;
            if *inputs.shape(input) != groups {
                let actual = inputs.shape(input).fixed_dims();
                expect_size(what, actual[0], w[0])?;
                expect_size(what, actual[1], w[1].div_ceil(self.group_size))?;
            }
        }
        Ok(TensorType::new(DType::I32, shape))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let [m, n, k] = sizes(inputs);
        let (x, w, bias) = (inputs.i8s(0), inputs.i8s(1), inputs.i32s(2));
        let (multipliers, zero_points) = (inputs.i32s(3), inputs.i8s(4));
        let of_row = k.div_ceil(self.group_size);
        let mut acc = vec![0i32; m * n];
        // The bound of equation 4 keeps sums inside i32. A graph that breaks the bound wraps around.
        let sum_of = |x: &[i8], channel: usize| {
            let groups = x.chunks(self.group_size).zip(w[channel * k..][..k].chunks(self.group_size)).enumerate();
            groups.fold(0i32, |sum, (group, (x, w))| {
                let at = channel * of_row + group;
                let zero_point = i32::from(zero_points[at]);
                let product = |(&x, &w): (&i8, &i8)| i32::from(x) * (i32::from(w) - zero_point);
                let of_group = x.iter().zip(w).map(product).fold(0i32, i32::wrapping_add);
                sum.wrapping_add(of_group.wrapping_mul(multipliers[at]))
            })
        };
        if n > 0 {
            acc.par_chunks_exact_mut(n).enumerate().for_each(|(row, acc)| {
                let x = &x[row * k..][..k];
                for (channel, (acc, &bias)) in acc.iter_mut().zip(bias).enumerate() {
                    *acc = (sum_of(x, channel) << self.fraction_bits).wrapping_add(bias);
                }
            });
        }
        Ok(integers(&with_last(inputs.tensor(0).shape(), n), acc))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " fraction_bits {} groups of {}", self.fraction_bits, self.group_size)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::slices::codes;

    /// Ten features in groups of four, four and two, by hand.
    #[test]
    fn sums_of_groups_have_their_own_factors() {
        let x = codes(&[1, 10], vec![1, 2, 3, 4, 5, 6, 7, 8, 9, -128]);
        let w = codes(&[2, 10], vec![1, -1, 1, -1, 2, 2, 2, 2, 7, -8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let bias = integers(&[2], vec![5, -7]);
        let multipliers = integers(&[2, 3], vec![255, 1, 2, 10, 3, 255]);
        let zero_points = codes(&[2, 3], vec![0, 1, -8, 0, -1, 7]);
        // 255 · (1 − 2 + 3 − 4) + 1 · (5 + 6 + 7 + 8) + 2 · (9 · 15 − 128 · 0) and
        // 10 · 4 + 3 · 26 + 255 · (−7 · (9 − 128)).
        let sums = [255 * -2 + 26 + 2 * 135, 40 + 78 + 255 * 833];
        for fraction_bits in [0, 3] {
            let op = IntegerLinearGroups { fraction_bits, group_size: 4 };
            let (output, tensors) = (Shape::fixed(&[1, 2]), [&x, &w, &bias, &multipliers, &zero_points]);
            let acc = op.eval(&Arguments { tensors: &tensors, output: &output, packed: None }).expect("evaluated");
            let expected = [(sums[0] << fraction_bits) + 5, (sums[1] << fraction_bits) - 7];
            assert_eq!(acc.as_i32(), Some(&expected[..]));
        }
    }
}
