//! Training: gradients, the agreement of training and conversion, and bad input.

mod gradients;
mod numbers;
mod outcome;
mod refused;
pub(crate) mod wide;
