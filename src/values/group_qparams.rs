//! Quantization parameters of groups: a scale and a zero point for each run of neighbours along the last axis.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{MIN_SCALE, QParams, QParamsError};

/// A scale and a zero point for each group of `size` neighbours along the last axis of a tensor. The last group of a row may be shorter.
///
/// The scales are any floats, as other tools make them, or products of one float for each row and an integer of 1 to 255 for each group
/// ([`IntegerScales`]). With the latter, the sum of a row of products stays in `i32` (equation 4), so that only they have an integer form.
///
/// ```
/// use enfold::values::GroupQParams;
///
/// // Two rows of two groups, such as a weight [2, 64] in groups of 32, or [2, 40], whose second groups have 8 elements.
/// let floats = GroupQParams::new(32, 2, &[0.5, 0.2, 0.1, 0.3], &[])?;
/// let rounded = floats.with_integer_scales(255)?;
/// let scales = rounded.integer_scales().expect("they were rounded");
/// assert_eq!(scales.multipliers(), [255, 102, 85, 255]);
/// assert!((rounded.groups()[1].scale() - 0.2).abs() < 1e-3);
/// # Ok::<(), enfold::values::QParamsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GroupRecord", into = "GroupRecord")]
pub struct GroupQParams {
    size: usize,
    groups_per_row: usize,
    /// Row by row.
    groups: Arc<[QParams]>,
    integer: Option<IntegerScales>,
}

/// Scales of groups as products: `scale[n, g] = row_scale[n] · multiplier[n, g]`, rounded to `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerScales {
    row_scales: Arc<[f32]>,
    multipliers: Arc<[u8]>,
}

impl IntegerScales {
    /// Returns the scale of each row.
    #[must_use]
    pub fn row_scales(&self) -> &[f32] {
        &self.row_scales
    }

    /// Returns the integer of each group, 1 to 255, row by row.
    #[must_use]
    pub fn multipliers(&self) -> &[u8] {
        &self.multipliers
    }
}

impl GroupQParams {
    /// Creates groups with any scales, row by row. Without `zero_points`, all of them are 0.
    ///
    /// # Errors
    /// Returns [`QParamsError`] for a size that is not a multiple of 4, for numbers of scales and zero points that do not make whole rows of
    /// `groups_per_row`, and for the first scale or zero point that is not valid.
    pub fn new(size: usize, groups_per_row: usize, scales: &[f32], zero_points: &[i32]) -> Result<Self, QParamsError> {
        check_size(size)?;
        let actual = scales.len();
        if groups_per_row == 0 || !actual.is_multiple_of(groups_per_row) || actual == 0 {
            let expected = actual.max(1).next_multiple_of(groups_per_row.max(1));
            return Err(QParamsError::GroupCount { what: "scales", actual, expected });
        }
        if !zero_points.is_empty() && zero_points.len() != actual {
            let (what, actual, expected) = ("zero points", zero_points.len(), actual);
            return Err(QParamsError::GroupCount { what, actual, expected });
        }
        let zero_point = |at: usize| zero_points.get(at).copied().unwrap_or(0);
        let groups = scales.iter().enumerate().map(|(at, &scale)| QParams::new(scale, zero_point(at)));
        Ok(Self { size, groups_per_row, groups: groups.collect::<Result<_, _>>()?, integer: None })
    }

    /// Creates groups with integer scales, row by row. Without `zero_points`, all of them are 0.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new), and [`QParamsError::GroupMultiplier`] for a multiplier of 0.
    pub fn from_integer_scales(
        size: usize,
        row_scales: &[f32],
        multipliers: &[u8],
        zero_points: &[i32],
    ) -> Result<Self, QParamsError> {
        let (rows, actual) = (row_scales.len(), multipliers.len());
        if rows == 0 || !actual.is_multiple_of(rows) {
            let expected = actual.next_multiple_of(rows.max(1));
            return Err(QParamsError::GroupCount { what: "integer scales", actual, expected });
        }
        if let Some(group) = multipliers.iter().position(|&m| m == 0) {
            return Err(QParamsError::GroupMultiplier { group });
        }
        let groups_per_row = actual / rows;
        let scale = |(at, &m): (usize, &u8)| row_scales[at / groups_per_row] * f32::from(m);
        let scales: Vec<f32> = multipliers.iter().enumerate().map(scale).collect();
        // A row scale is a factor of equations 3 and 7.
        row_scales.iter().try_for_each(|&scale| QParams::new(scale, 0).map(|_| ()))?;
        let mut groups = Self::new(size, groups_per_row, &scales, zero_points)?;
        groups.integer = Some(IntegerScales { row_scales: row_scales.into(), multipliers: multipliers.into() });
        Ok(groups)
    }

    /// Returns the same groups with scales that are the nearest products of a scale for each row and an integer of 1 to `most`: the scale of
    /// a row is `f32(f64(largest scale) / most)`, or a neighbour of that float with which all products are the scales as they are, and an
    /// integer is the quotient, rounded to nearest and ties to even, in `f64`.
    ///
    /// # Errors
    /// Returns [`QParamsError::Scale`] for scales so small that the scale of the row is not usable, and for products that are too large.
    pub fn with_integer_scales(&self, most: u8) -> Result<Self, QParamsError> {
        let most = f64::from(most.max(1));
        let mut row_scales = Vec::with_capacity(self.rows());
        let mut multipliers = Vec::with_capacity(self.groups.len());
        for row in self.groups.chunks_exact(self.groups_per_row) {
            let largest = row.iter().fold(0f32, |largest, group| largest.max(group.scale()));
            let nearest = ((f64::from(largest) / most) as f32).max(MIN_SCALE);
            let multiplier = |row_scale: f32, group: &QParams| {
                let quotient = f64::from(group.scale()) / f64::from(row_scale);
                quotient.round_ties_even().clamp(1.0, most) as u8
            };
            // Scales that were rounded before, and came through a file, are products already.
            let is_exact = |&row_scale: &f32| {
                row.iter().all(|group| row_scale * f32::from(multiplier(row_scale, group)) == group.scale())
            };
            let candidates = [nearest, nearest.next_up(), nearest.next_down()];
            let row_scale = candidates.into_iter().find(is_exact).unwrap_or(nearest);
            row_scales.push(row_scale);
            multipliers.extend(row.iter().map(|group| multiplier(row_scale, group)));
        }
        let zero_points: Vec<i32> = self.groups.iter().map(QParams::zero_point).collect();
        Self::from_integer_scales(self.size, &row_scales, &multipliers, &zero_points)
    }

    /// Returns the number of elements of a group.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of groups of a row.
    #[must_use]
    pub fn groups_per_row(&self) -> usize {
        self.groups_per_row
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.groups.len() / self.groups_per_row
    }

    /// Returns scale and zero point of each group, row by row.
    #[must_use]
    pub fn groups(&self) -> &[QParams] {
        &self.groups
    }

    /// Returns the scales as products with integers; `None` if they are any floats.
    #[must_use]
    pub fn integer_scales(&self) -> Option<&IntegerScales> {
        self.integer.as_ref()
    }

    /// Whether all zero points are 0.
    #[must_use]
    pub fn is_symmetric(&self) -> bool {
        self.groups.iter().all(|group| group.zero_point() == 0)
    }

    /// Checks that the rows of a tensor, along its last axis, are divided into these groups.
    ///
    /// # Errors
    /// The number of groups that the shape needs.
    pub(crate) fn check_shape(&self, shape: &[usize]) -> Result<(), usize> {
        let Some((&k, rows)) = shape.split_last() else { return Err(0) };
        let rows = rows.iter().fold(1usize, |rows, &length| rows.saturating_mul(length));
        let groups = k.div_ceil(self.size);
        if groups == self.groups_per_row && rows == self.rows() {
            return Ok(());
        }
        Err(rows.saturating_mul(groups))
    }
}

/// Checks the number of elements of a group.
pub(crate) fn check_size(size: usize) -> Result<(), QParamsError> {
    if size > 0 && size.is_multiple_of(4) { Ok(()) } else { Err(QParamsError::GroupSize { size }) }
}

/// Groups in a file, which are checked when they are read. Bytes are written as two hexadecimal digits each, since a weight has many groups.
#[derive(Serialize, Deserialize)]
struct GroupRecord {
    size: usize,
    groups_per_row: usize,
    /// The scales of rows, or of groups where there are no multipliers.
    scales: Vec<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    multipliers: Option<String>,
    /// Absent if all are 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zero_points: Option<String>,
}

impl From<GroupQParams> for GroupRecord {
    fn from(groups: GroupQParams) -> Self {
        let zero_points =
            (!groups.is_symmetric()).then(|| to_hex(groups.groups.iter().map(|group| group.zero_point() as i8 as u8)));
        let (scales, multipliers) = match &groups.integer {
            Some(integer) => (integer.row_scales.to_vec(), Some(to_hex(integer.multipliers.iter().copied()))),
            None => (groups.groups.iter().map(QParams::scale).collect(), None),
        };
        Self { size: groups.size, groups_per_row: groups.groups_per_row, scales, multipliers, zero_points }
    }
}

impl TryFrom<GroupRecord> for GroupQParams {
    type Error = String;

    fn try_from(record: GroupRecord) -> Result<Self, String> {
        let GroupRecord { size, groups_per_row, scales, multipliers, zero_points } = record;
        let zero_points = zero_points.map_or(Ok(Vec::new()), |text| from_hex(&text))?;
        let zero_points: Vec<i32> = zero_points.into_iter().map(|byte| i32::from(byte as i8)).collect();
        let made = match multipliers {
            None => Self::new(size, groups_per_row, &scales, &zero_points),
            Some(text) => Self::from_integer_scales(size, &scales, &from_hex(&text)?, &zero_points),
        };
        let groups = made.map_err(|error| error.to_string())?;
        if groups.groups_per_row != groups_per_row {
            let actual = groups.groups_per_row;
            return Err(format!("{actual} integer scales of each row, expected {groups_per_row}"));
        }
        Ok(groups)
    }
}

fn to_hex(bytes: impl Iterator<Item = u8>) -> String {
    bytes.flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).ok_or(format!("'{}' is not a hexadecimal digit", byte as char));
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(format!("{} hexadecimal digits do not make whole bytes", text.len()));
    }
    pairs.iter().map(|&[high, low]| Ok((digit(high)? << 4 | digit(low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_scales_are_the_nearest_products() {
        let floats = GroupQParams::new(4, 3, &[1.0, 0.5, 1e-9, 0.3, 0.7, 0.2], &[]).expect("valid");
        assert_eq!(floats.integer_scales(), None);
        for most in [255u8, 127, 63, 31, 15, 1] {
            let rounded = floats.with_integer_scales(most).expect("valid");
            let integer = rounded.integer_scales().expect("rounded");
            for (row, (groups, rounded)) in floats.groups().chunks(3).zip(rounded.groups().chunks(3)).enumerate() {
                let row_scale = integer.row_scales()[row];
                for (at, (group, rounded)) in groups.iter().zip(rounded).enumerate() {
                    let m = integer.multipliers()[row * 3 + at];
                    assert!((1..=most).contains(&m));
                    assert_eq!(rounded.scale(), row_scale * f32::from(m));
                    // The error is half of a step of the row, unless the integer would be 0.
                    let error = (rounded.scale() - group.scale()).abs();
                    assert!(error <= 0.5001 * row_scale || m == 1, "{group:?} {rounded:?}");
                }
            }
        }
    }

    #[test]
    fn scales_that_are_products_are_found_again() {
        let scales: Vec<f32> = (0..3000).map(|i| 1e-3 + ((i * 7919) % 1009) as f32 * 1.7e-5).collect();
        let rounded = GroupQParams::new(4, 10, &scales, &[]).and_then(|g| g.with_integer_scales(255)).expect("valid");
        let products: Vec<f32> = rounded.groups().iter().map(QParams::scale).collect();
        let again = GroupQParams::new(4, 10, &products, &[]).and_then(|g| g.with_integer_scales(255)).expect("valid");
        assert_eq!(again.groups(), rounded.groups());
        let [again, rounded] = [again, rounded].map(|groups| groups.integer_scales().cloned().expect("rounded"));
        assert_eq!(again.multipliers(), rounded.multipliers());
        // Several neighbours may give the same products.
        let apart = again.row_scales().iter().zip(rounded.row_scales()).filter(|(a, b)| a != b).count();
        assert!(apart < 10, "{apart} of 300 rows have another scale");
    }

    #[test]
    fn wrong_numbers_are_refused() {
        for size in [0, 1, 2, 3, 5, 33] {
            assert_eq!(GroupQParams::new(size, 1, &[1.0], &[]), Err(QParamsError::GroupSize { size }));
        }
        let count = |what, actual, expected| Err(QParamsError::GroupCount { what, actual, expected });
        assert_eq!(GroupQParams::new(4, 2, &[1.0; 3], &[]), count("scales", 3, 4));
        assert_eq!(GroupQParams::new(4, 0, &[1.0; 3], &[]), count("scales", 3, 3));
        assert_eq!(GroupQParams::new(4, 2, &[], &[]), count("scales", 0, 2));
        assert_eq!(GroupQParams::new(4, 2, &[1.0; 4], &[0; 3]), count("zero points", 3, 4));
        assert_eq!(GroupQParams::from_integer_scales(4, &[1.0; 2], &[1; 3], &[]), count("integer scales", 3, 4));
        let zero = GroupQParams::from_integer_scales(4, &[1.0; 2], &[1, 1, 0, 1], &[]);
        assert_eq!(zero, Err(QParamsError::GroupMultiplier { group: 2 }));
        assert!(matches!(GroupQParams::new(4, 1, &[f32::NAN], &[]), Err(QParamsError::Scale { .. })));
        assert!(matches!(GroupQParams::new(4, 1, &[1.0], &[200]), Err(QParamsError::ZeroPoint { .. })));
    }

    #[test]
    fn files_hold_them_and_are_checked() {
        let floats = GroupQParams::new(8, 2, &[0.1, 0.2, 0.3, 0.4], &[-8, 7, 0, 1]).expect("valid");
        for groups in [floats.clone(), floats.with_integer_scales(255).expect("valid")] {
            let text = serde_json::to_string(&groups).expect("written");
            assert_eq!(serde_json::from_str::<GroupQParams>(&text).expect("read"), groups, "{text}");
        }
        let symmetric = GroupQParams::from_integer_scales(8, &[0.5], &[1, 255], &[]).expect("valid");
        let text = serde_json::to_string(&symmetric).expect("written");
        assert_eq!(text, r#"{"size":8,"groups_per_row":2,"scales":[0.5],"multipliers":"01ff"}"#);
        for (changed, problem) in [
            (text.replace("01ff", "01f"), "3 hexadecimal digits"),
            (text.replace("01ff", "01fg"), "'g' is not a hexadecimal digit"),
            (text.replace("01ff", "01ff02"), "3 integer scales of each row, expected 2"),
            (text.replace("01ff", "0100"), "the integer scale of group 1 is 0"),
            (text.replace("\"size\":8", "\"size\":9"), "groups of 9 elements"),
        ] {
            let error = serde_json::from_str::<GroupQParams>(&changed).expect_err(&changed).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
