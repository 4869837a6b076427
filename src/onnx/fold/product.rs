//! Products of known matrices, as those of positions and frequencies that rotary embeddings are made of.

use super::Fold;
use crate::onnx::host::{Data, Host, Length, Walk, broadcast, kept};

/// The most elements of a factor.
pub(in crate::onnx) const MAX_FACTOR: usize = 1 << 20;
/// The most multiplications: larger products stay nodes, whose constants are computed once, by a faster product.
const MOST: usize = 1 << 22;

/// A matrix, or a stack of them, and how to walk through its rows and columns.
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

    /// Where each matrix of a stack begins.
    fn starts(&self, stack: &[usize]) -> impl Iterator<Item = usize> {
        let size = self.lengths[0] * self.lengths[1];
        Walk::broadcast(&self.stack, stack).map(move |at| at * size)
    }
}

impl Fold<'_> {
    /// The product, if both factors are matrices of floats and small.
    pub(super) fn product(&mut self) -> Result<Option<Host>, String> {
        let node = self.node;
        let gemm = match node.op_type.as_str() {
            "MatMul" => false,
            "Gemm" => true,
            _ => return Ok(None),
        };
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
        let mut products = Vec::with_capacity(count);
        for (i, j) in left.starts(&stack).zip(right.starts(&stack)) {
            for row in 0..m {
                for col in 0..n {
                    let (first, second) = (i + row * left.strides[0], j + col * right.strides[1]);
                    let term = |at: usize| {
                        let x = left.values[first + at * left.strides[1]];
                        f64::from(x) * f64::from(right.values[second + at * right.strides[0]])
                    };
                    products.push((0..k).map(term).sum::<f64>());
                }
            }
        }
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
        Ok(Some(Host::new(dims, data).typed(a.data_type)))
    }
}
