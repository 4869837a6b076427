//! Errors of training.

use crate::interp::InterpError;
use crate::quantize::{ObserverError, PrepareError};

/// A graph could not be trained. Every variant names the node or gives the step.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QatError {
    /// A node between a parameter and an output has no gradient.
    #[error("{node}: {op} has no gradient, and trained parameters are behind it")]
    NoGradient {
        /// The node.
        node: String,
        /// Its operator.
        op: &'static str,
    },
    /// There is nothing to train.
    #[error("the graph has no float parameter that an output depends on")]
    NoParameters,
    /// A layer into which a batch norm is folded has a constant that others read too, so that one value would have two gradients.
    #[error("{constant} is read by {layer}, which has a batch norm, and by {other}; give each a constant of its own")]
    SharedWithNorm {
        /// The constant.
        constant: String,
        /// The layer.
        layer: String,
        /// Another reader.
        other: String,
    },
    /// No parameter has this name.
    #[error("there is no parameter {name}; there are: {}", names.join(", "))]
    UnknownParameter {
        /// The name asked for.
        name: String,
        /// The names that exist.
        names: Vec<String>,
    },
    /// The graph could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Inputs do not fit the graph.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// A value does not suit its observer.
    #[error("{node}: {source}")]
    Observer {
        /// The observed value.
        node: String,
        /// The problem.
        source: ObserverError,
    },
    /// A target does not fit the output.
    #[error("the target is {actual}, expected {expected} for an output of shape {output:?}")]
    Target {
        /// Type and shape of the target.
        actual: String,
        /// Type and shape that it should have.
        expected: String,
        /// The output's shape.
        output: Vec<usize>,
    },
    /// A label is no class.
    #[error("label {label} at row {row} is no class of 0 to {}", classes.saturating_sub(1))]
    Label {
        /// Row-major index of the label.
        row: usize,
        /// The label.
        label: i32,
        /// The number of classes of the output.
        classes: usize,
    },
    /// Data or options of another size than they should have.
    #[error("{what} is {actual}, expected {expected}")]
    Size {
        /// The size in question.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// The expected value.
        expected: String,
    },
    /// An option out of its range.
    #[error("{what} is {value}, expected {expected}")]
    Option {
        /// The option.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The expected value.
        expected: &'static str,
    },
    /// A batch norm in training has one value per channel, which has no variance.
    #[error("{node}: a batch norm in training needs more than {rows} value for each channel")]
    OneRow {
        /// The batch norm, or the layer into which it was folded.
        node: String,
        /// Values per channel.
        rows: usize,
    },
    /// The backward pass needs a forward pass before it.
    #[error("there is no forward pass to go back through")]
    NoForward,
    /// The loss is no longer a number. The parameters are as before the step.
    #[error("step {step}: the loss is {loss}; the largest gradient, {gradient}, is that of {node}")]
    Diverged {
        /// The step, counted from 0.
        step: u64,
        /// The loss.
        loss: f64,
        /// The parameter with the largest gradient; NaN counts as the largest.
        node: String,
        /// That gradient's largest element.
        gradient: f32,
    },
}
