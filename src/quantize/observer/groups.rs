//! Scales and zero points of groups, from their ranges.

use super::{ObserverError, qparams_of};
use crate::numerics::Range;
use crate::quantize::spec::ObservedSpec;
use crate::values::{GroupQParams, QParams, TensorQParams};

/// The largest integer scale of a group.
const MOST: u8 = 255;

/// The qparams of groups with these ranges, row by row. Each group gets the scale of its range, as in other schemes; then the scales of a
/// row are rounded to the nearest products of one scale and an integer, and zero points follow from the rounded scales.
pub(super) fn qparams(
    spec: &ObservedSpec,
    size: usize,
    of_row: usize,
    ranges: &[Range],
) -> Result<TensorQParams, ObserverError> {
    let Some(first) = ranges.first() else { return Err(ObserverError::Uncalibrated) };
    let refused = |source| ObserverError::QParams { min: first.min, max: first.max, source };
    let floats = ranges.iter().map(|range| qparams_of(spec, range.min, range.max)).collect::<Result<Vec<_>, _>>()?;
    let scales: Vec<f32> = floats.iter().map(QParams::scale).collect();
    let rounded = GroupQParams::new(size, of_row, &scales, &[]).and_then(|groups| groups.with_integer_scales(MOST));
    let rounded = rounded.map_err(refused)?;
    let (lo, hi) = (spec.range.quant_min(), spec.range.quant_max());
    let zero_point = |(group, range): (&QParams, &Range)| match spec.qscheme.is_symmetric() {
        true => 0,
        false => (lo - (range.min.min(0.0) / group.scale()).round_ties_even() as i32).clamp(lo, hi),
    };
    let zero_points: Vec<i32> = rounded.groups().iter().zip(ranges).map(zero_point).collect();
    let Some(integer) = rounded.integer_scales() else { return Err(ObserverError::Uncalibrated) };
    let groups = GroupQParams::from_integer_scales(size, integer.row_scales(), integer.multipliers(), &zero_points);
    groups.map(TensorQParams::PerGroup).map_err(refused)
}
