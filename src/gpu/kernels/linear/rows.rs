//! What the rows of a layer's left matrix are.

use crate::gpu::device::shader::{Piece, text};

/// The rows of the matrix that a kernel multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LinearRows {
    /// Rows of a matrix.
    Matrix,
    /// The elements of images under a window.
    Patches,
}

impl LinearRows {
    /// Its WGSL.
    pub(super) fn piece(self) -> Piece {
        match self {
            Self::Matrix => Piece { name: "matrix", wgsl: text!("linear/matrix") },
            Self::Patches => Piece { name: "patches", wgsl: text!("conv/patches") },
        }
    }
}
