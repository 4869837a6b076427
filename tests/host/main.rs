//! Placeholder until the first cases arrive.
