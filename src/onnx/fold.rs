//! Evaluation while importing: nodes whose inputs are all known.
//!
//! This is mostly shape arithmetic, in `i64`. Lengths that depend on the batch take part in it where the result is clear
//! whatever the batch, and a tensor that is expanded along the batch is kept once.

mod elementwise;
mod integers;
mod movement;
mod product;
mod reduce;

pub(super) use product::MAX_FACTOR;
pub(super) use reduce::reduced_axes;

use std::sync::Arc;

use super::host::{Budget, Host};
use super::proto::NodeProto;

/// A node to evaluate.
pub(super) struct Fold<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: &'a [Option<Arc<Host>>],
    pub(super) budget: &'a mut Budget,
    pub(super) opset: i64,
}

/// The results of a node; `None` if it is not evaluated here. An error is a reason that concerns this node.
pub(super) type Folded = Result<Option<Vec<Host>>, String>;

impl Fold<'_> {
    pub(super) fn run(mut self) -> Folded {
        if let Some(result) = self.movement()? {
            return Ok(Some(result));
        }
        if let Some(result) = self.product()? {
            return Ok(Some(vec![result]));
        }
        if let Some(result) = self.reduce()? {
            return Ok(Some(vec![result]));
        }
        Ok(self.elementwise()?.map(|host| vec![host]))
    }

    /// An input that the operator must have.
    fn input(&self, at: usize) -> Result<Arc<Host>, String> {
        self.optional(at).ok_or_else(|| format!("input {at} is missing"))
    }

    fn optional(&self, at: usize) -> Option<Arc<Host>> {
        self.inputs.get(at).cloned().flatten()
    }

    /// A list of integers that was an attribute up to some version and is an input since.
    fn list(&self, attribute: &str, input: usize) -> Result<Option<Vec<i64>>, String> {
        match (self.node.ints(attribute)?, self.optional(input)) {
            (Some(list), _) => Ok(Some(list.to_vec())),
            (None, Some(host)) => host.integers().map(Some),
            (None, None) => Ok(None),
        }
    }
}
