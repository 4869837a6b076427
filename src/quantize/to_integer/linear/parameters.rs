//! The constants of a layer: its weight, its scales and its bias.

use crate::graph::NodeId;
use crate::numerics;
use crate::ops::{IntegerLinear, IntegerLinearGroups, Op};
use crate::values::{GroupQParams, IntegerScales, QParams, QuantizedTensor, TensorQParams};

/// The constants of a layer of N output channels, each a sum of K products.
pub(super) struct Parameters {
    /// The node of the weight, if it is in the order below.
    pub(super) node: Option<NodeId>,
    /// The weight `[N, …]`, with K elements for each channel, and zero points of 0 unless it has groups.
    pub(super) weight: QuantizedTensor,
    pub(super) k: usize,
    /// The scale of each channel of the weight, `[N]`.
    pub(super) scales: Vec<f32>,
    /// The groups of the weight `[N, K]`, with integer scales.
    pub(super) groups: Option<GroupQParams>,
    /// The bias in real units, `[N]`.
    pub(super) bias: Vec<f32>,
}

/// The qparams of the weight of a transposed convolution `[C, N / groups, …]`, once its output channels are axis 0.
pub(super) fn outputs_first(qparams: &TensorQParams, groups: usize) -> Result<TensorQParams, String> {
    match qparams.clone() {
        TensorQParams::PerChannel { channels, ch_axis: 1 } if groups == 1 => {
            Ok(TensorQParams::PerChannel { channels, ch_axis: 0 })
        }
        TensorQParams::PerChannel { ch_axis, .. } => Err(format!(
            "its weight has a scale per index of axis {ch_axis} with {groups} groups: a sum of integers needs one for each output channel"
        )),
        per_tensor => Ok(per_tensor),
    }
}

/// The scale of each of `n` output channels, for weights whose zero points are 0.
pub(super) fn weight_scales(qparams: &TensorQParams, n: usize) -> Result<Vec<f32>, String> {
    let channels: &[QParams] = match qparams {
        TensorQParams::PerTensor(q) => std::slice::from_ref(q),
        TensorQParams::PerChannel { channels, ch_axis: 0 } => channels,
        TensorQParams::PerChannel { ch_axis, .. } => {
            return Err(format!("its weight has a scale per index of axis {ch_axis}, expected axis 0"));
        }
        TensorQParams::PerGroup(_) => return Err("its weight has a scale for each group".to_owned()),
    };
    if let Some((channel, q)) = channels.iter().enumerate().find(|(_, q)| q.zero_point() != 0) {
        return Err(format!("channel {channel} of its weight has zero point {}, expected 0", q.zero_point()));
    }
    Ok(channels.iter().map(QParams::scale).cycle().take(n).collect())
}

/// The scale of each channel of a weight with groups.
pub(super) fn group_scales(groups: &GroupQParams) -> Result<Vec<f32>, String> {
    match groups.integer_scales() {
        Some(integer) => Ok(integer.row_scales().to_vec()),
        None => Err(format!(
            "its weight has scales of groups of {} that are any floats: a sum of integers needs products of one scale for each output \
             channel and an integer",
            groups.size()
        )),
    }
}

impl Parameters {
    /// The groups of the weight, and their integer scales.
    pub(super) fn integer_groups(&self) -> Option<(&GroupQParams, &IntegerScales)> {
        let groups = self.groups.as_ref()?;
        Some((groups, groups.integer_scales()?))
    }

    /// The same weight with integer scales of at most `most`; `None` without groups, and for scales that are not possible.
    pub(super) fn with_integer_scales(&self, most: u8) -> Option<Self> {
        let groups = self.groups.as_ref()?.with_integer_scales(most).ok()?;
        let scales = groups.integer_scales()?.row_scales().to_vec();
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        Some(Self { node: self.node, weight, k: self.k, scales, groups: Some(groups), bias })
    }

    /// Checks that weights minus the zero points of their groups fit int8.
    pub(super) fn check_differences(&self) -> Result<(), String> {
        let Some(groups) = &self.groups else { return Ok(()) };
        let of_row =
            self.weight.values().chunks_exact(self.k).zip(groups.groups().chunks_exact(groups.groups_per_row()));
        for (channel, (row, groups_of_row)) in of_row.enumerate() {
            for (w, group) in row.chunks(groups.size()).zip(groups_of_row) {
                let zero_point = group.zero_point();
                if let Some(w) = w.iter().find(|&&w| i8::try_from(i32::from(w) - zero_point).is_err()) {
                    let difference = i32::from(*w) - zero_point;
                    let limit = if difference < 0 { i8::MIN } else { i8::MAX };
                    return Err(format!(
                        "channel {channel}: weight {w} minus zero point {zero_point} is {difference}, and int8 holds {limit}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The operator of the sums.
    pub(super) fn accumulator(&self, fraction_bits: u32) -> Op {
        match &self.groups {
            None => Op::IntegerLinear(IntegerLinear { fraction_bits }),
            Some(groups) => Op::IntegerLinearGroups(IntegerLinearGroups { fraction_bits, group_size: groups.size() }),
        }
    }

    /// `Σ w` and `Σ |w|` of each channel; with groups, of `m · (w − z)` in place of `w`.
    pub(super) fn sums(&self) -> Vec<(i64, i64)> {
        if let Some((groups, integer)) = self.integer_groups() {
            let of_row = groups.groups_per_row();
            let rows = self.weight.values().chunks_exact(self.k).enumerate();
            let sums = rows.map(|(channel, row)| {
                row.chunks(groups.size()).enumerate().fold((0, 0), |(sum, magnitude), (group, w)| {
                    let at = channel * of_row + group;
                    let (m, z) = (i64::from(integer.multipliers()[at]), i64::from(groups.groups()[at].zero_point()));
                    let differences = w.iter().map(|&w| i64::from(w) - z);
                    let of_group = differences.fold((0, 0), |(sum, magnitude), d| (sum + d, magnitude + d.abs()));
                    (sum + m * of_group.0, magnitude + m * of_group.1)
                })
            });
            return sums.collect();
        }
        let add = |(sum, magnitude), &w: &i8| (sum + i64::from(w), magnitude + i64::from(w.unsigned_abs()));
        self.weight.values().chunks_exact(self.k).map(|row| row.iter().fold((0, 0), add)).collect()
    }

    /// The most fraction bits that fit the accumulator, and the folded bias, by equation 4.
    pub(super) fn folded_bias(&self, x_qparams: QParams) -> Result<(u32, Vec<i32>), String> {
        let sums = self.sums();
        let folded = |fraction_bits: u32| -> Result<Vec<i32>, String> {
            let channels = self.bias.iter().zip(&self.scales).zip(&sums).enumerate();
            channels
                .map(|(channel, ((&b, &s_w), &(sum, magnitude)))| {
                    let (s_x, z_x) = (x_qparams.scale(), x_qparams.zero_point());
                    let bias = numerics::folded_bias(b, s_x, z_x, s_w, sum, fraction_bits);
                    match i32::try_from(bias) {
                        Ok(bias) if numerics::fits_accumulator(magnitude, i64::from(bias), fraction_bits) => Ok(bias),
                        _ => Err(format!(
                            "channel {channel}: products up to {} and a bias of {bias} do not fit the i32 accumulator \
                             ({}, equation 4)",
                            magnitude * 128,
                            i32::MAX
                        )),
                    }
                })
                .collect()
        };
        // If no number of fraction bits fits, the reason given is that of 0 bits.
        let mut refused = String::new();
        for fraction_bits in (0..=numerics::MAX_FRACTION_BITS).rev() {
            match folded(fraction_bits) {
                Ok(bias) => return Ok((fraction_bits, bias)),
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }
}
