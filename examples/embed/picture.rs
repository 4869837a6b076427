//! The picture that the network learns, and the features of a pixel that are the network's input.

pub(crate) use crate::waves::{FEATURES, WAVES};

/// Computes the features of a pixel on the host, for training, as `features.wgsl` does on the GPU.
pub(crate) fn features([x, y]: [f32; 2], phase: f32) -> impl Iterator<Item = f32> {
    WAVES.into_iter().flat_map(move |[by_x, by_y, by_phase, _]| {
        let (sin, cos) = (by_x * x + by_y * y + by_phase * phase).sin_cos();
        [sin, cos]
    })
}

/// Returns the centre of a pixel. Both coordinates run from -1 to 1, whatever the picture's proportions.
pub(crate) fn position(column: usize, row: usize, [width, height]: [u32; 2]) -> [f32; 2] {
    [(2 * column + 1) as f32 / width as f32 - 1.0, (2 * row + 1) as f32 / height as f32 - 1.0]
}

/// Computes the target, folds of silk that move and a lamp that circles before them: red, green and blue from 0 to 1.
pub(crate) fn color([x, y]: [f32; 2], phase: f32) -> [f32; 3] {
    let u = x + 0.35 * (2.1 * y + phase).sin();
    let v = y + 0.35 * (1.8 * x - phase + 0.7).sin();
    let fold = 0.5 + 0.5 * (2.9 * u + 1.8 * v + 1.3 * (1.9 * v - 1.1 * u + phase).sin()).sin();
    let lamp = [x - 0.55 * phase.cos(), y - 0.45 * phase.sin()];
    let glow = (-9.0 * (lamp[0] * lamp[0] + lamp[1] * lamp[1])).exp();
    // The colours follow a cubic Bézier curve from night blue over violet and rose to sand.
    let stops = [[0.02, 0.05, 0.22], [0.36, 0.02, 0.62], [1.0, 0.30, 0.38], [1.0, 0.86, 0.58]];
    let rest = 1.0 - fold;
    let weights = [rest * rest * rest, 3.0 * rest * rest * fold, 3.0 * rest * fold * fold, fold * fold * fold];
    let light = [0.80, 1.0, 0.96];
    std::array::from_fn(|c| {
        let silk: f32 = stops.iter().zip(weights).map(|(stop, weight)| weight * stop[c]).sum();
        silk + 0.9 * glow * (light[c] - silk)
    })
}
