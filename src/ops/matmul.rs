//! Matrix products of two activations.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::linear::write_products;
use super::operands::{
    Arguments, Operands, TensorType, batch, broadcast, expect_size, expect_zero_points, parameter, rank_error,
};
use super::operator::Operator;
use super::quantize::{expect_dynamic_qparams, qparams_of_row};
use crate::numerics::float::products::{factors, product};
use crate::numerics::{self, FloatProducts, FloatProductsRecord, MAX_MATMUL_K, gemm};
use crate::parallel::*;
use crate::values::slices::{f32s, integers, tensor};
use crate::values::{DType, Shape, Tensor};

/// Matrix product, `a[…, M, K] · b[…, K, N]`, all floats; leading axes broadcast. Output: `[…, M, N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Option<FloatProductsRecord>", into = "Option<FloatProductsRecord>")]
pub struct MatMul {
    /// How floats are multiplied and added.
    pub products: FloatProducts,
}

impl From<Option<FloatProductsRecord>> for MatMul {
    fn from(record: Option<FloatProductsRecord>) -> Self {
        Self { products: record.into() }
    }
}

impl From<MatMul> for Option<FloatProductsRecord> {
    fn from(operator: MatMul) -> Self {
        operator.products.into()
    }
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(2)?;
        Ok(TensorType::new(DType::F32, matmul_shape(inputs)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(matmul_f32(inputs.tensor(0), inputs.tensor(1), self.products))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_products(f, self.products)
    }
}

/// The accumulator of a matrix product of int8, `Σ_k (a − z_a) · (b − z_b)` in `i32` (equation 9). Inputs: `a[…, M, K]` and
/// `b[…, K, N]`, both int8; leading axes broadcast. Output: `[…, M, N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerMatMul {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
}

impl Operator for IntegerMatMul {
    fn name(&self) -> &'static str {
        "integer_matmul"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8])?;
        expect_zero_points(&[self.a_zero_point, self.b_zero_point])?;
        Ok(TensorType::new(DType::I32, integer_matmul_shape(inputs)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let zero_points = |_| (self.a_zero_point, self.b_zero_point);
        let (shape, y) = integer_products(inputs, zero_points, |_, acc| acc);
        Ok(integers(&shape, y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " zero_points {} {}", self.a_zero_point, self.b_zero_point)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Matrix product `int8 · int8 → f32` (equation 9d): `a[…, M, K] · b[…, K, N]`, leading axes broadcast. Inputs: a and b, both int8,
/// then the dynamic qparams of each: those of a for the tensor `[2]` or for each row `[…, M, 2]`, those of b for the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerMatMulDynamic {
    /// Whether a ReLU is fused: negative results become 0.
    pub relu: bool,
}

impl Operator for IntegerMatMulDynamic {
    fn name(&self) -> &'static str {
        "integer_matmul_dynamic"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8, DType::F32, DType::F32])?;
        let shape = integer_matmul_shape(inputs)?;
        expect_dynamic_qparams(inputs, 2)?;
        let right = inputs.shape(3);
        if *right != Shape::fixed(&[2]) {
            return Err(parameter("dynamic qparams of the right factor", right, "must be [2]: those of the tensor"));
        }
        Ok(TensorType::new(DType::F32, shape))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (b_scale, b_zero_point) = qparams_of_row(inputs.f32s(3), 0);
        let a = |row| qparams_of_row(inputs.f32s(2), row);
        let (shape, y) = integer_products(
            inputs,
            |row| (a(row).1, b_zero_point),
            |row, acc| numerics::scale_matmul_dynamic(acc, a(row).0, b_scale, self.relu),
        );
        Ok(tensor(shape, y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.relu { " relu" } else { "" })
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Infers the shape of `a[…, M, K] · b[…, K, N]`.
fn matmul_shape(inputs: &Operands<'_>) -> Result<Shape, OpError> {
    let (a, b) = (inputs.shape(0), inputs.shape(1));
    for shape in [a, b] {
        if shape.rank() < 2 {
            return Err(rank_error("input", shape, "2 or more"));
        }
    }
    // `rows` may be M of a matrix on the left or a leading axis of a stack. It may not be summed over, nor be N.
    if b.is_batched() && b.rank() == 2 {
        return Err(batch("sums over the batch"));
    }
    if a.is_batched() && a.rank() == 2 && b.rank() > 2 {
        return Err(batch("moves the batch behind the leading axes of the right factor"));
    }
    let (a_stack, a_matrix) = a.dims().split_at(a.rank() - 2);
    let (b_stack, b_matrix) = b.dims().split_at(b.rank() - 2);
    let fixed = |shape: &Shape, axis| shape.axis(axis).ok_or_else(|| batch("sums over the batch"));
    let (k_left, k_right) = (fixed(a, a.rank() - 1)?, fixed(b, b.rank() - 2)?);
    expect_size("inner dimension", k_right, k_left)?;
    let stack = |dims: &[_]| Shape::from_dims(dims.to_vec()).ok_or_else(|| batch("moves the batch"));
    let mut dims = broadcast(&stack(a_stack)?, &stack(b_stack)?)?.dims().to_vec();
    dims.extend([a_matrix[0], b_matrix[1]]);
    Shape::from_dims(dims).ok_or_else(|| batch("moves the batch"))
}

/// Infers the shape of an int8 product, and checks that its sums fit `i32` (equation 9).
fn integer_matmul_shape(inputs: &Operands<'_>) -> Result<Shape, OpError> {
    let shape = matmul_shape(inputs)?;
    let k = inputs.features()?;
    if k > MAX_MATMUL_K {
        return Err(parameter("inner dimension", k, "must be at most 33025 (equation 9)"));
    }
    Ok(shape)
}

/// Computes `a[…, M, K] · b[…, K, N]` in float, leading axes broadcast.
pub(crate) fn matmul_f32(a: &Tensor, b: &Tensor, products: FloatProducts) -> Tensor {
    let stacks = Stacks::new(a.shape(), b.shape());
    let [m, n, k] = stacks.sizes;
    let shape = stacks.shape();
    let mut y = vec![0.0; shape.iter().product()];
    let (a, b) = (f32s(a), f32s(b));
    if products == FloatProducts::Reproducible {
        let (a, b) = (factors(a), factors(b));
        if m * n > 0 {
            y.par_chunks_exact_mut(m * n).enumerate().for_each(|(at, y)| {
                let (i, j) = stacks.position(at);
                product(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [n, k], None);
            });
        }
    } else if stacks.b.iter().product::<usize>() == 1 && stacks.a.len() == stacks.y.len() {
        // With one matrix on the right, one product takes all rows of the left.
        gemm::matmul(&mut y, a, b, [stacks.y.iter().product::<usize>() * m, n, k]);
    } else if m * n > 0 {
        y.par_chunks_exact_mut(m * n).enumerate().for_each(|(at, y)| {
            let (i, j) = stacks.position(at);
            gemm::matmul(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [m, n, k]);
        });
    }
    tensor(shape, y)
}

/// Computes the shape and the elements of a product of two int8 tensors: `finish(row, Σ_k (a − z_a) · (b − z_b))`, where `row` counts
/// the rows of all matrices of `a`, and `zero_points(row)` are z_a and z_b. The bound of equation 9 keeps sums inside `i32`. They
/// wrap around if a graph computes zero points that no int8 range has.
fn integer_products<T: Copy + Default + Send>(
    inputs: &Arguments<'_>,
    zero_points: impl Fn(usize) -> (i32, i32) + Sync,
    finish: impl Fn(usize, i32) -> T + Sync,
) -> (Vec<usize>, Vec<T>) {
    let stacks = Stacks::new(inputs.tensor(0).shape(), inputs.tensor(1).shape());
    let [m, n, k] = stacks.sizes;
    let shape = stacks.shape();
    let mut y = vec![T::default(); shape.iter().product()];
    if y.is_empty() {
        return (shape, y);
    }
    let (a, b) = (inputs.i8s(0), inputs.i8s(1));
    y.par_chunks_exact_mut(n).enumerate().for_each_init(Vec::new, |acc: &mut Vec<i32>, (row, y)| {
        let (i, j) = stacks.position(row / m);
        let a_row = i * m + row % m;
        let (a_zero_point, b_zero_point) = zero_points(a_row);
        acc.clear();
        acc.resize(n, 0);
        for (&a, b) in a[a_row * k..][..k].iter().zip(b[j * k * n..].chunks_exact(n)) {
            let a = i32::from(a).wrapping_sub(a_zero_point);
            for (acc, &b) in acc.iter_mut().zip(b) {
                *acc = acc.wrapping_add(a.wrapping_mul(i32::from(b).wrapping_sub(b_zero_point)));
            }
        }
        y.iter_mut().zip(acc.iter()).for_each(|(y, &acc)| *y = finish(a_row, acc));
    });
    (shape, y)
}

/// The shapes of `a[…, M, K] · b[…, K, N]`. The stacks are the leading axes, which broadcast to those of the result.
struct Stacks<'t> {
    a: &'t [usize],
    b: &'t [usize],
    y: Vec<usize>,
    /// M, N and K.
    sizes: [usize; 3],
}

impl<'t> Stacks<'t> {
    fn new(a: &'t [usize], b: &'t [usize]) -> Self {
        let (a, a_matrix) = a.split_at(a.len() - 2);
        let (b, b_matrix) = b.split_at(b.len() - 2);
        let y = broadcast(&Shape::fixed(a), &Shape::fixed(b)).expect("inference has checked it").fixed_dims();
        Self { a, b, y, sizes: [a_matrix[0], b_matrix[1], a_matrix[1]] }
    }

    fn shape(&self) -> Vec<usize> {
        self.y.iter().copied().chain([self.sizes[0], self.sizes[1]]).collect()
    }

    /// Returns the indices of the matrices of `a` and `b` whose product is matrix `at` of the result.
    fn position(&self, at: usize) -> (usize, usize) {
        let (mut rest, mut positions, mut strides) = (at, [0, 0], [1, 1]);
        for (from_last, &length) in self.y.iter().rev().enumerate() {
            let index = rest % length;
            rest /= length;
            for (side, own) in [self.a, self.b].into_iter().enumerate() {
                let Some(axis) = own.len().checked_sub(from_last + 1) else { continue };
                positions[side] += if own[axis] == 1 { 0 } else { index * strides[side] };
                strides[side] *= own[axis];
            }
        }
        (positions[0], positions[1])
    }
}
