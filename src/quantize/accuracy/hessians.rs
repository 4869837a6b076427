//! Second moments of the inputs of layers.

mod sums;

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::error::AccuracyError;
use super::statistics::{difference, finite_values};
use crate::graph::{Graph, NodeId};
use crate::interp::Interpreter;
use crate::numerics::gemm;
use crate::ops::{Conv, ImageLayout, Images, Op, Window};
use crate::quantize::PreparedGraph;
use crate::values::Tensor;

use self::sums::exponent_of;

pub(crate) use self::sums::Sums;

/// For each value that a linear layer or a convolution with a quantized weight reads, the sum of `x · xᵀ` over the tokens of calibration: half of
/// the Hessian of the squared error of the layer's outputs. For a convolution, `x` are the elements under its window, for each position and
/// each group of channels.
///
/// The sums take 8 bytes for each pair of features. [`in_parts`](Self::in_parts) divides the values of a network by their memory.
/// Sums of the same graph over other batches [`merge`](Self::merge) into one, whose bits do not depend on the order of the batches, nor on how they
/// were divided.
#[derive(Debug)]
pub struct Hessians {
    interpreter: Interpreter,
    values: Vec<Moments>,
    batches: u64,
}

/// The second moments of one value.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    /// The value that layers read, before its observer.
    pub(super) id: NodeId,
    /// What of the value the layers multiply with their weights.
    pub(super) factors: Factors,
    /// The layers that read it.
    pub(super) layers: Vec<NodeId>,
    /// `Σ x · xᵀ`, for each group of channels.
    pub(crate) sums: Vec<Sums>,
}

/// What of a value layers multiply with their weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Factors {
    /// The tokens of a linear layer.
    Tokens,
    /// The elements under the window of a convolution.
    Windows(Window),
}

/// Bytes of elements under windows that are in memory at a time.
const COLUMN_BYTES: usize = 16 << 20;

impl Hessians {
    /// Prepares to observe all linear layers and convolutions of a prepared graph whose weights are quantized.
    #[must_use]
    pub fn new(prepared: &PreparedGraph) -> Self {
        Self { interpreter: Interpreter::new(prepared.graph()), values: moments(prepared), batches: 0 }
    }

    /// Divides the values of a prepared graph into parts that take at most `max_bytes` each, or hold one value. The batches of
    /// calibration are run once for each part.
    #[must_use]
    pub fn in_parts(prepared: &PreparedGraph, max_bytes: usize) -> Vec<Self> {
        let mut parts: Vec<(usize, Vec<Moments>)> = Vec::new();
        for value in moments(prepared) {
            let pairs = |sums: &Sums| sums.features().saturating_mul(sums.features());
            let pairs = value.sums.iter().map(pairs).fold(0, usize::saturating_add);
            let bytes = pairs.saturating_mul(size_of::<f64>());
            match parts.last_mut() {
                Some((sum, part)) if sum.saturating_add(bytes) <= max_bytes => {
                    *sum += bytes;
                    part.push(value);
                }
                _ => parts.push((bytes, vec![value])),
            }
        }
        let of = |(_, values)| Self { interpreter: Interpreter::new(prepared.graph()), values, batches: 0 };
        parts.into_iter().map(of).collect()
    }

    /// Sums of all values from a file; an error says what is wrong.
    pub(crate) fn from_sums(prepared: &PreparedGraph, sums: Vec<Vec<Sums>>, batches: u64) -> Result<Self, String> {
        let mut hessians = Self::new(prepared);
        let (found, expected) = (sums.len(), hessians.values.len());
        if found != expected {
            return Err(format!("second moments of {found} values, but layers read {expected}"));
        }
        for (value, sums) in hessians.values.iter_mut().zip(sums) {
            let features = |sums: &[Sums]| sums.iter().map(Sums::features).collect::<Vec<_>>();
            let (found, expected) = (features(&sums), features(&value.sums));
            if found != expected {
                let name = &prepared.graph().node(value.id).name;
                return Err(format!("second moments of {found:?} features of {name}, expected {expected:?}"));
            }
            value.sums = sums;
        }
        hessians.batches = batches;
        Ok(hessians)
    }

    /// Returns the number of batches that have been observed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    pub(super) fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    pub(crate) fn values(&self) -> &[Moments] {
        &self.values
    }

    /// Whether both have sums of the same values of the same graph.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.difference(other).is_none()
    }

    fn difference(&self, other: &Self) -> Option<String> {
        let values = |hessians: &Self| hessians.values.iter().map(|value| value.id).collect::<Vec<_>>();
        let problem = difference(self.graph(), other.graph());
        problem.or_else(|| (values(self) != values(other)).then(|| "another part of it".to_owned()))
    }

    /// Returns a number that copies have in common.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.values.iter().for_each(|value| value.sums.hash(&mut hasher));
        hasher.finish()
    }

    /// Runs one batch and adds the products of its tokens.
    ///
    /// # Errors
    /// Returns [`AccuracyError::Interp`] for inputs that do not fit the graph, and [`AccuracyError::NonFinite`] for a value that is NaN
    /// or infinite. The sums are then as before the batch.
    pub fn observe<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<(), AccuracyError> {
        let ids: Vec<NodeId> = self.values.iter().map(|value| value.id).collect();
        let results = finite_values(&self.interpreter, inputs, &ids)?;
        self.values.iter_mut().zip(&results).for_each(|(value, result)| value.add(result));
        self.batches += 1;
        Ok(())
    }

    /// Adds the sums of other batches of the same graph.
    ///
    /// # Errors
    /// Returns [`AccuracyError::OtherGraph`] for sums of another graph or of other values. The sums are then as before.
    pub fn merge(&mut self, other: &Self) -> Result<(), AccuracyError> {
        if let Some(problem) = self.difference(other) {
            return Err(AccuracyError::OtherGraph { problem });
        }
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            mine.sums.iter_mut().zip(&theirs.sums).for_each(|(mine, theirs)| mine.merge(theirs));
        }
        self.batches = self.batches.saturating_add(other.batches);
        Ok(())
    }
}

/// The values that linear layers and convolutions with a quantized weight read, in the order of the graph.
pub(super) fn moments(prepared: &PreparedGraph) -> Vec<Moments> {
    let graph = prepared.graph();
    let mut values: Vec<Moments> = Vec::new();
    for (layer, node) in graph.iter() {
        let (factors, groups) = match &node.op {
            Op::Linear(_) => (Factors::Tokens, 1),
            Op::Conv(Conv { window, groups, .. }) => (Factors::Windows(window.clone()), *groups),
            _ => continue,
        };
        let weight = graph.node(node.inputs[1]);
        if !matches!(weight.op, Op::Observe(_)) {
            continue;
        }
        // Layers that read one value through observers of their own have the same moments.
        let mut id = node.inputs[0];
        while matches!(graph.node(id).op, Op::Observe(_)) {
            id = graph.node(id).inputs[0];
        }
        // The weight of a linear layer is [N, K], that of a convolution [N, C / groups, taps…].
        let features = weight.shape.fixed_dims()[1..].iter().product();
        let same = |value: &&mut Moments| (value.id, &value.factors, value.sums.len()) == (id, &factors, groups);
        match values.iter_mut().find(same) {
            Some(value) => value.layers.push(layer),
            None => {
                let sums = vec![Sums::new(features); groups];
                values.push(Moments { id, factors, layers: vec![layer], sums });
            }
        }
    }
    values
}

impl Moments {
    fn add(&mut self, value: &Tensor) {
        let Some(x) = value.as_f32().filter(|x| !x.is_empty()) else { return };
        // Products of very large or small numbers leave the range of f32; times a power of two, they do not.
        let largest = x.iter().fold(0f32, |max, v| max.max(v.abs()));
        let exponent = match exponent_of(largest) {
            _ if largest == 0.0 => return,
            -30..=30 => 0,
            exponent => exponent,
        };
        let scaled: Vec<f32>;
        let x = if exponent == 0 {
            x
        } else {
            let factor = 2f64.powi(-exponent);
            scaled = x.iter().map(|&v| (f64::from(v) * factor) as f32).collect();
            &scaled
        };
        match &self.factors {
            Factors::Tokens => {
                let sums = &mut self.sums[0];
                let k = sums.features();
                let mut products = vec![0f32; k * k];
                gemm::matmul_transposed(&mut products, x, x, [k, k, x.len() / k.max(1)]);
                sums.add(&products, 2 * exponent);
            }
            Factors::Windows(window) => {
                let images = Images::new(value.shape(), window, ImageLayout::ChannelsFirst);
                let of_group = images.channels / self.sums.len() * images.input[0] * images.input[1];
                let (pixels, mut columns) = (images.output_pixels(), Vec::new());
                for (at, image) in x.chunks_exact(of_group.max(1)).enumerate() {
                    let group = at % self.sums.len();
                    let sums = &mut self.sums[group];
                    let k = sums.features();
                    let block = (COLUMN_BYTES / size_of::<f32>() / k.max(1)).max(1);
                    for first in (0..pixels).step_by(block) {
                        let block = first..pixels.min(first + block);
                        let columns = images.columns(&mut columns, image, &block);
                        let products = gemm::linear(columns, [k, k, block.len()], columns, None, None);
                        sums.add(&products, 2 * exponent);
                    }
                }
            }
        }
    }
}
