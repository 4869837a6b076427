//! The waves through the picture, whose sines and cosines are the features of a pixel.

/// The waves through the picture: a pixel has the sine and the cosine of the dot product of (x, y, phase) with each of these.
/// The factors of the phase are whole numbers, so the animation repeats without a seam. The fourth number pads them to a `vec4`.
pub(crate) const WAVES: [[f32; 4]; 16] = [
    [0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 2.0, 0.0],
    [1.5, 0.0, 0.0, 0.0],
    [0.0, 1.5, 0.0, 0.0],
    [3.0, 0.0, -1.0, 0.0],
    [0.0, 3.0, -1.0, 0.0],
    [2.1, 2.1, -1.0, 0.0],
    [2.1, -2.1, -1.0, 0.0],
    [3.0, 0.0, 0.0, 0.0],
    [0.0, 3.0, 0.0, 0.0],
    [2.1, 2.1, 0.0, 0.0],
    [2.1, -2.1, 0.0, 0.0],
    [3.0, 0.0, 1.0, 0.0],
    [0.0, 3.0, 1.0, 0.0],
    [2.1, 2.1, 1.0, 0.0],
    [2.1, -2.1, 1.0, 0.0],
];
/// The number of the network's inputs.
pub(crate) const FEATURES: usize = 2 * WAVES.len();
