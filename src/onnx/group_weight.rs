//! Quantized weights with a scale for each block of input features, beside the floats that they stand for.

use std::sync::Arc;

use super::host::Host;
use super::proto::data_type as ty;
use crate::graph::NodeId;
use crate::values::{GroupQParams, Tensor};

/// The quantized weight `[N, K]` that a known matrix of floats stands for.
pub(super) struct GroupWeight {
    /// The floats, which keep their address.
    pub(super) host: Arc<Host>,
    /// Whether the floats are `[K, N]`.
    pub(super) transposed: bool,
    pub(super) values: Tensor,
    pub(super) bits: u32,
    pub(super) groups: GroupQParams,
    /// The node that dequantizes the weight, once it is made.
    pub(super) node: Option<NodeId>,
}

/// The groups of a weight of `[N, K, bits, block size]` as products of integers; `None` if the weight minus its zero points does not fit
/// int8, zero points are not whole numbers, or scales or the size are not usable.
pub(super) fn group_qparams(
    [n, k, bits, size]: [usize; 4],
    scales: &[f32],
    zero_points: &[f32],
) -> Option<GroupQParams> {
    let half = 1i32 << (bits - 1);
    let zero_point = |&z: &f32| {
        let shifted = z as i32 - half;
        let fits = z.fract() == 0.0 && (-half..half).contains(&shifted) && (bits < 8 || shifted == 0);
        fits.then_some(shifted)
    };
    let zero_points = zero_points.iter().map(zero_point).collect::<Option<Vec<i32>>>()?;
    if scales.len() != n * k.div_ceil(size) {
        return None;
    }
    let groups = GroupQParams::new(size, k.div_ceil(size), scales, &zero_points).ok()?;
    groups.with_integer_scales(u8::MAX).ok()
}

impl GroupWeight {
    /// The weight of a matrix that has a scale for each block of `size` elements along `axis`; `None` if it has no integer form.
    pub(super) fn of_blocks(
        host: &Arc<Host>,
        data_type: i32,
        (axis, size): (usize, usize),
        values: &[i32],
        scales: &[f32],
        zero_points: Option<&[i64]>,
    ) -> Option<Self> {
        let &[rows, columns] = host.dims.as_slice() else { return None };
        // What makes the smallest value of the type that of signed integers.
        let (bits, shift) = match data_type {
            ty::INT4 => (4, 0),
            ty::UINT4 => (4, 8),
            ty::INT8 => (8, 0),
            ty::UINT8 => (8, 128),
            _ => return None,
        };
        let transposed = axis == 0;
        let (n, k) = if transposed { (columns, rows) } else { (rows, columns) };
        if n == 0 || k == 0 {
            return None;
        }
        let blocks = k.div_ceil(size);
        let at =
            |row: usize, along: usize, length: usize| if transposed { along * n + row } else { row * length + along };
        let all = |length: usize| (0..n).flat_map(move |row| (0..length).map(move |along| (row, along)));
        let codes = all(k).map(|(row, along)| i8::try_from(values[at(row, along, k)] - shift));
        let values = Tensor::from_i8(&[n, k], codes.collect::<Result<_, _>>().ok()?).ok()?;
        let half = 1 << (bits - 1);
        let scales: Vec<f32> = all(blocks).map(|(row, block)| scales[at(row, block, blocks)]).collect();
        let zero_point = |(row, block)| {
            let zero_point = zero_points.map_or(0, |zero_points| zero_points[at(row, block, blocks)]);
            (zero_point - i64::from(shift) + half) as f32
        };
        let zero_points: Vec<f32> = all(blocks).map(zero_point).collect();
        let groups = group_qparams([n, k, bits, size], &scales, &zero_points)?;
        Some(Self { host: Arc::clone(host), transposed, values, bits: bits as u32, groups, node: None })
    }
}
