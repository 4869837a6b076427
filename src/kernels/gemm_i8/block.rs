//! The layout of a block of weights, for VNNI and AMX.

/// Channels of a block.
pub(super) const COLS: usize = 64;
/// Features of a group: their products with one channel are one 32-bit lane.
pub(super) const GROUP: usize = 4;
/// Parts of a block: the channels of one vector of sums.
pub(super) const PARTS: usize = 4;

/// The weights of a group of features and of a part, or of several parts in the bits of its bytes, `[COLS / PARTS][GROUP]`: one line of a
/// cache, since loads across two lines take twice as long.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Weights(pub(super) [i8; COLS / PARTS * GROUP]);
