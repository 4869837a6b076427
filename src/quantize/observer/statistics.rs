//! Ranges of whole tensors and of channels.

use rayon::prelude::*;

use super::ObserverError;
use crate::numerics::{Range, block_range};

/// Smallest and largest of a non-empty slice, which must be finite.
pub(super) fn range_of(values: &[f32]) -> Result<Range, ObserverError> {
    // Large enough that a task outweighs its start, small enough to share out.
    const BLOCK: usize = 1 << 16;
    let (range, finite) =
        values.par_chunks(BLOCK).map(block_range).reduce(|| (Range::EMPTY, true), |a, b| (a.0.merge(b.0), a.1 & b.1));
    if finite { Ok(range) } else { Err(first_non_finite(values)) }
}

fn first_non_finite(values: &[f32]) -> ObserverError {
    let index = values.iter().position(|v| !v.is_finite()).expect("one of them is not finite");
    ObserverError::NonFinite { index, value: values[index] }
}

/// One range for each index of `ch_axis`.
pub(super) fn channel_ranges(values: &[f32], shape: &[usize], ch_axis: usize) -> Result<Vec<Range>, ObserverError> {
    // An axis that does not exist has no channels, which is refused.
    let channels = shape.get(ch_axis).copied().unwrap_or(0);
    if channels == 0 {
        return Err(ObserverError::Channels { ch_axis, actual: 0, expected: 1 });
    }
    let inner: usize = shape[ch_axis + 1..].iter().product();
    let outer_stride = channels * inner;
    let ranges: Vec<(Range, bool)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            values
                .chunks_exact(outer_stride)
                .map(|outer| block_range(&outer[channel * inner..(channel + 1) * inner]))
                .fold((Range::EMPTY, true), |a, b| (a.0.merge(b.0), a.1 & b.1))
        })
        .collect();
    if !ranges.iter().all(|(_, finite)| *finite) {
        return Err(first_non_finite(values));
    }
    Ok(ranges.into_iter().map(|(range, _)| range).collect())
}

/// One range for each group of `size` elements along the last axis, row by row, and the number of groups of a row. The last group of a row
/// may be shorter.
pub(super) fn group_ranges(values: &[f32], shape: &[usize], size: usize) -> Result<(Vec<Range>, usize), ObserverError> {
    let k = match shape.last() {
        Some(&k) if k > 0 => k,
        _ => return Err(ObserverError::Groups { size, actual: 0, expected: 1 }),
    };
    let of_row = |row: &[f32]| row.chunks(size).map(block_range).collect::<Vec<_>>();
    let ranges: Vec<(Range, bool)> = values.par_chunks_exact(k).flat_map_iter(of_row).collect();
    if !ranges.iter().all(|(_, finite)| *finite) {
        return Err(first_non_finite(values));
    }
    Ok((ranges.into_iter().map(|(range, _)| range).collect(), k.div_ceil(size)))
}
