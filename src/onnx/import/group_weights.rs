//! Weights with a scale for each block of input features that stay quantized, so that their layers have an integer form.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::Host;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{ChooseQParams, Constant, Dequantize, DequantizeDynamic, Linear, Op, QuantizeDynamic};
use crate::values::{GroupQParams, QScheme, QuantRange, Tensor, TensorQParams};

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
