//! Weights in panels of channels, with pairs of features side by side.

use bytemuck::Pod;

use crate::parallel::*;
use crate::values::pages::Pages;

/// Packs `weight[n, k]`, row-major: for each panel of `WIDTH / 2` channels, `pairs` pairs of features, the last filled up with zeros.
pub(super) fn panels<W, const WIDTH: usize>(weight: &[W], n: usize, k: usize, pairs: usize) -> Pages<[W; WIDTH]>
where
    W: Pod + Send + Sync,
{
    let channels = WIDTH / 2;
    let mut panels = Pages::<[W; WIDTH]>::zeroed(n.div_ceil(channels) * pairs);
    if pairs > 0 {
        panels.par_chunks_exact_mut(pairs).zip(weight.par_chunks(channels * k)).for_each(|(panel, weight)| {
            for (channel, row) in weight.chunks_exact(k).enumerate() {
                for (to, from) in panel.iter_mut().zip(row.chunks(2)) {
                    to[2 * channel..][..from.len()].copy_from_slice(from);
                }
            }
        });
    }
    panels
}
