//! Evaluation of nodes whose inputs are all known while importing.
//!
//! Floats are evaluated by the graph's own operators where their rules are those of ONNX. The rest is written here: integers of 64 bits,
//! booleans, and lengths that depend on the batch have no operators in a graph; products and reductions of floats are summed in `f64`
//! over all axes at once and rounded once, while a graph rounds after each axis. A value that is expanded along the batch is kept once.

mod constant;
mod elementwise;
mod integer;
mod matmul;
mod movement;
mod reduce;
mod scatter;
mod unary;

pub(super) use elementwise::Arithmetic;
pub(super) use matmul::MAX_FACTOR;
pub(super) use reduce::{Reduction, reduced_axes};

use std::sync::Arc;

use super::host::{Budget, Host};
use super::proto::NodeProto;
use super::slices;

/// A node to evaluate. Its methods evaluate one ONNX operator each.
pub(super) struct Fold<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: &'a [Option<Arc<Host>>],
    pub(super) budget: &'a mut Budget,
    pub(super) opset: i64,
}

/// The results of a node; `None` if the node must stay a node of the graph. An error is the reason why it is not supported.
pub(super) type Folded = Result<Option<Vec<Host>>, String>;

/// The only result of a node.
fn one(host: Host) -> Folded {
    Ok(Some(vec![host]))
}

impl Fold<'_> {
    /// An input that the operator must have.
    fn input(&self, at: usize) -> Result<Arc<Host>, String> {
        self.optional(at).ok_or_else(|| format!("input {at} is missing"))
    }

    fn optional(&self, at: usize) -> Option<Arc<Host>> {
        self.inputs.get(at).cloned().flatten()
    }

    /// A list of integers that is an attribute in old opsets and an input in new ones.
    fn list(&self, attribute: &str, input: usize) -> Result<Option<Vec<i64>>, String> {
        slices::list(self.node, attribute, self.optional(input).as_deref())
    }
}
