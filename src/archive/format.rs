//! The number of the archive format.

/// The format that this version writes, and the newest that it reads. Format 2 added packed values of few bits and dynamic products of two
/// activations, format 3 comparisons of two values and arithmetic of integers. Since format 4, operators and observers are written in the
/// form that serde derives from their types, and constants state their bits. Format 5 added reproducible products of floats, and
/// quantization by a division. Format 6 added scales and zero points of groups, and linear layers of such weights. Format 7 added channel
/// statistics and second moments.
pub const FORMAT: u32 = 7;

/// The first format whose operators need no rewriting.
pub(super) const DERIVED_OPERATORS: u32 = 4;
