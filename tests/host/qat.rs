//! Training: gradients, what training promises of its outcome, and what it refuses.

mod gradients;
mod numbers;
mod outcome;
mod refused;
mod wide;
