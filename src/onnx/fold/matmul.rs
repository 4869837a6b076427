//! Products of known matrices, such as those of positions and frequencies in rotary embeddings.

use super::{Fold, Folded, one};
use crate::onnx::host::{Data, Host, Length, Walk, broadcast, kept};

/// The most elements of a factor.
pub(in crate::onnx) const MAX_FACTOR: usize = 1 << 20;
/// The most multiplications. Larger products stay nodes of constants, which the interpreter computes once, and faster.
const MOST: usize = 1 << 22;

/// A stack of matrices with the strides of their rows and columns.
struct Matrices<'h> {
    host: &'h Host,
    values: &'h [f32],
    stack: Vec<usize>,
    /// Rows and columns.
    lengths: [usize; 2],
    strides: [usize; 2],
}

impl<'h> Matrices<'h> {
    fn new(host: &'h Host, swapped: bool) -> Option<Self> {
        let (values, None) = (host.floats()?, host.rows) else { return None };
        let (stack, &[rows, cols]) = host.dims.split_last_chunk::<2>()?;
        let (lengths, strides) = if swapped { ([cols, rows], [1, cols]) } else { ([rows, cols], [cols, 1]) };
        Some(Self { host, values, stack: stack.to_vec(), lengths, strides })
    }

    /// The positions of the first element of each matrix, for stacks that broadcast to `stack`.
    fn starts(&self, stack: &[usize]) -> impl Iterator<Item = usize> {
        let size = self.lengths[0] * self.lengths[1];
        Walk::broadcast(&self.stack, stack).map(move |at| at * size)
    }

    /// The products of the matrices of two stacks that broadcast to `stack`.
    fn times(&self, right: &Self, stack: &[usize]) -> Vec<f64> {
        let ([m, k], n) = (self.lengths, right.lengths[1]);
        let mut products = Vec::new();
        for (i, j) in self.starts(stack).zip(right.starts(stack)) {
            for row in 0..m {
                for col in 0..n {
                    let (first, second) = (i + row * self.strides[0], j + col * right.strides[1]);
                    let term = |at: usize| {
                        let x = self.values[first + at * self.strides[1]];
                        f64::from(x) * f64::from(right.values[second + at * right.strides[0]])
                    };
                    products.push((0..k).map(term).sum::<f64>());
                }
            }
        }
        products
    }
}

impl Fold<'_> {
    pub(in crate::onnx) fn matmul(&mut self) -> Folded {
        self.product(false)
    }

    pub(in crate::onnx) fn gemm(&mut self) -> Folded {
        self.product(true)
    }

    /// The product, if both factors are matrices of floats and small. It is summed in `f64`, in the order of `k`.
    fn product(&mut self, gemm: bool) -> Folded {
        let node = self.node;
        let (a, b) = (self.input(0)?, self.input(1)?);
        let swapped = |name: &str| Ok::<bool, String>(gemm && node.int(name, 0)? != 0);
        let (Some(left), Some(right)) = (Matrices::new(&a, swapped("transA")?), Matrices::new(&b, swapped("transB")?))
        else {
            return Ok(None);
        };
        let ([m, k], [k_too, n]) = (left.lengths, right.lengths);
        if k != k_too || (gemm && !(left.stack.is_empty() && right.stack.is_empty())) {
            return Err(format!("it multiplies {:?} and {:?}", left.host.dims, right.host.dims));
        }
        let known = |dims: &[usize]| dims.iter().map(|&d| Length::Known(d as i64)).collect::<Vec<_>>();
        let (_, stack) = kept(&broadcast(&known(&left.stack), &known(&right.stack))?)?;
        let dims = [stack.as_slice(), &[m, n]].concat();
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        if count.saturating_mul(k) > MOST {
            return Ok(None);
        }
        self.budget.take(count, 4)?;
        let mut products = left.times(&right, &stack);
        let (alpha, beta) = if gemm { (node.float("alpha", 1.0)?, node.float("beta", 1.0)?) } else { (1.0, 0.0) };
        products.iter_mut().for_each(|v| *v *= f64::from(alpha));
        if let Some(bias) = self.optional(2).filter(|_| gemm && beta != 0.0) {
            let (Some(values), None) = (bias.floats(), bias.rows) else { return Ok(None) };
            if broadcast(&bias.logical(), &known(&dims))? != known(&dims) {
                return Err("its bias has more elements than its product".to_owned());
            }
            let places = Walk::broadcast(&bias.dims, &dims);
            products.iter_mut().zip(places).for_each(|(v, at)| *v += f64::from(beta) * f64::from(values[at]));
        }
        let data = Data::F32(products.into_iter().map(|v| v as f32).collect());
        one(Host::new(dims, data).typed(a.data_type))
    }
}
