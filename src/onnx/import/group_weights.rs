//! Weights with a scale for each block of input features that stay quantized, so that their layers have an integer form.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::Host;
use crate::onnx::proto::data_type as ty;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{ChooseQParams, Constant, Dequantize, DequantizeDynamic, Linear, Op, QuantizeDynamic};
use crate::values::{GroupQParams, QScheme, QuantRange, Tensor, TensorQParams};

/// The quantized weight `[N, K]` that a known matrix of floats stands for.
pub(in crate::onnx) struct GroupWeight {
    /// The floats, which keep their address.
    host: Arc<Host>,
    /// Whether the floats are `[K, N]`.
    transposed: bool,
    values: Tensor,
    bits: u32,
    groups: GroupQParams,
    /// The node that dequantizes the weight, once it is made.
    node: Option<NodeId>,
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

impl Importer {
    /// The node of the quantized weight `[N, K]` that a known matrix stands for, if it does; `transpose` says that the layer takes the matrix
    /// as `[K, N]`.
    pub(super) fn group_weight(&mut self, host: &Arc<Host>, transpose: bool) -> Result<Option<NodeId>, String> {
        let key = Arc::as_ptr(host);
        let Some(weight) = self.group_weights.get(&key).filter(|weight| weight.transposed == transpose) else {
            return Ok(None);
        };
        if weight.node.is_some() {
            return Ok(weight.node);
        }
        let name = weight.host.name.as_deref().unwrap_or("").to_owned();
        let (values, bits, groups) = (weight.values.clone(), weight.bits, weight.groups.clone());
        let node = self.dequantized_groups(&name, values, bits, groups)?;
        if let Some(weight) = self.group_weights.get_mut(&key) {
            weight.node = Some(node);
        }
        Ok(Some(node))
    }

    fn dequantized_groups(
        &mut self,
        name: &str,
        values: Tensor,
        bits: u32,
        groups: GroupQParams,
    ) -> Result<NodeId, String> {
        let constant = Constant { bits: Some(bits), ..Constant::new(values) };
        let weight = self.draft.add(name, constant, &[])?;
        let weight = self.draft.add("", Dequantize { qparams: TensorQParams::PerGroup(groups) }, &[weight])?;
        name.clone_into(&mut self.draft.nodes[weight.index()].origin);
        Ok(weight)
    }

    /// The input of a layer: if its weight has groups and the input is not dequantized, it is quantized dynamically, for each row.
    pub(super) fn input_of_groups(&mut self, call: &Call<'_>, x: Run, weight: NodeId) -> Result<Run, String> {
        let has_groups =
            matches!(&self.draft.node(weight).op, Op::Dequantize(Dequantize { qparams: TensorQParams::PerGroup(_) }));
        if !has_groups || matches!(self.draft.node(x.id).op, Op::Dequantize(_) | Op::DequantizeDynamic(_)) {
            return Ok(x);
        }
        let range = QuantRange::INT8;
        let choose = ChooseQParams { qscheme: QScheme::per_token_affine(), range, eps: f32::EPSILON };
        let qparams = self.draft.add(&call.part("qparams"), choose, &[x.id])?;
        let quantized = self.draft.add(&call.part("quantized"), QuantizeDynamic { range }, &[x.id, qparams])?;
        let id = self.draft.add(&call.part("dequantized"), DequantizeDynamic, &[quantized, qparams])?;
        Ok(Run { id, ..x })
    }

    /// `MatMulNBits` with a quantized weight `[N, K]`.
    pub(super) fn group_layer(&mut self, call: &Call<'_>, values: Tensor, bits: u32, groups: GroupQParams) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let name = match call.input(1)? {
            Value::Stored(at) => self.stored[*at].name().to_owned(),
            _ => call.part("weight"),
        };
        let weight = self.dequantized_groups(&name, values, bits, groups)?;
        let x = self.input_of_groups(call, x, weight)?;
        let bias = call.optional(5);
        let own = if bias.is_some() { call.part("product") } else { call.name.clone() };
        let id = self.draft.add(&own, Linear::default(), &[x.id, weight])?;
        let product = Run { id, kind: Kind::Float, ..x };
        match bias {
            None => one(product),
            Some(bias) => {
                let product = Value::Run(product);
                self.result(call, "Add", &[&product, bias], &[])
            }
        }
    }
}
