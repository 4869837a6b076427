//! Ranges of slices of floats.

/// The smallest and the largest value of a slice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) min: f32,
    pub(crate) max: f32,
}

impl Range {
    pub(crate) const EMPTY: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY };

    #[inline(always)]
    pub(crate) fn merge(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Returns the range of a slice, and whether all its values are finite. It works on sixteen lanes, so that the loop vectorizes.
#[inline(always)]
pub(crate) fn block_range(values: &[f32]) -> (Range, bool) {
    const LANES: usize = 16;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut finite = [true; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let v = block[lane];
            min[lane] = if v < min[lane] { v } else { min[lane] };
            max[lane] = if v > max[lane] { v } else { max[lane] };
            finite[lane] &= v.abs() < f32::INFINITY;
        }
    }
    let mut range = Range::EMPTY;
    for lane in 0..LANES {
        range = range.merge(Range { min: min[lane], max: max[lane] });
    }
    let mut all = finite.iter().all(|&f| f);
    for &v in rest {
        range = range.merge(Range { min: v, max: v });
        all &= v.is_finite();
    }
    (range, all)
}
