//! The operators that ONNX Runtime's optimizers and quantizers write, as the operators of ONNX that they stand for.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::{float_attribute, int_attribute, string_attribute};
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::proto::AttributeProto;
use crate::onnx::value::Value;

operators! {
    "Attention" => Operator::nodes(Importer::packed_attention),
    "GroupQueryAttention" => Operator::nodes(Importer::group_query_attention),
    "MultiHeadAttention" => Operator::nodes(Importer::multi_head_attention),
    "RotaryEmbedding" => Operator::nodes(|i, call| i.rotary_embedding(call, [2, 3], 1)),
    "DynamicQuantizeLSTM" => Operator::nodes(Importer::dynamic_lstm).behind(|i, c, _| i.dynamic_lstm(c)),
    "EmbedLayerNormalization" => Operator::nodes(Importer::embed_layer_norm),
    "BiasGelu" => Operator::nodes(Importer::bias_gelu),
    "FastGelu" => Operator::nodes(Importer::fast_gelu),
    "FusedConv" => Operator::stored(Importer::fused_conv),
    "FusedGemm" => Operator::stored(Importer::fused_gemm),
    "FusedMatMul" => Operator::stored(Importer::fused_matmul),
    "QuickGelu" => Operator::nodes(Importer::quick_gelu),
    "SkipLayerNormalization" => Operator::nodes(Importer::skip_layer_norm),
    "SkipSimplifiedLayerNormalization" => Operator::nodes(Importer::skip_rms_norm),
}

/// The operators of this domain that are those of ONNX.
pub(super) fn is_same(op_type: &str) -> bool {
    let same =
        ["DequantizeLinear", "Gelu", "LayerNormalization", "QuantizeLinear", "SimplifiedLayerNormalization", "Trilu"];
    same.contains(&op_type)
}

impl Importer {
    /// A value plus an input that may be missing.
    fn plus(&mut self, call: &Call<'_>, part: &str, x: Value, input: usize) -> Result<Value, String> {
        match call.optional(input) {
            Some(bias) => self.emitted(call, part, "Add", &[&x, bias], &[]),
            None => Ok(x),
        }
    }

    fn bias_gelu(&mut self, call: &Call<'_>) -> Values {
        let sum = self.emitted(call, "sum", "Add", &[call.input(0)?, call.input(1)?], &[])?;
        self.result(call, "Gelu", &[&sum], &[])
    }

    fn fast_gelu(&mut self, call: &Call<'_>) -> Values {
        let sum = self.plus(call, "sum", call.input(0)?.clone(), 1)?;
        self.result(call, "Gelu", &[&sum], &[string_attribute("approximate", "tanh")])
    }

    /// `x · sigmoid(alpha · x)`.
    fn quick_gelu(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        let alpha = self.number_value(call.node.float("alpha", 1.702)?);
        let scaled = self.emitted(call, "scaled", "Mul", &[x, &alpha], &[])?;
        let gate = self.emitted(call, "gate", "Sigmoid", &[&scaled], &[])?;
        self.result(call, "Mul", &[x, &gate], &[])
    }

    /// `alpha · a · b`, with the last two axes of either swapped.
    fn fused_matmul(&mut self, call: &Call<'_>) -> Values {
        let mut factors = Vec::with_capacity(2);
        for (at, side) in ["A", "B"].into_iter().enumerate() {
            if call.node.int(&format!("transBatch{side}"), 0)? != 0 {
                return Err(format!("its transBatch{side} is 1; supported is 0"));
            }
            let x = call.input(at)?.clone();
            let swap = call.node.int(&format!("trans{side}"), 0)? != 0 && self.logical(&x).len() > 1;
            factors.push(if swap { self.last_axes_swapped(call, &format!("swapped{side}"), &x)? } else { x });
        }
        let alpha = call.node.float("alpha", 1.0)?;
        let inputs = [&factors[0], &factors[1]];
        if alpha == 1.0 {
            return self.result(call, "MatMul", &inputs, &[]);
        }
        let product = self.emitted(call, "product", "MatMul", &inputs, &[])?;
        let alpha = self.number_value(alpha);
        self.result(call, "Mul", &[&product, &alpha], &[])
    }

    fn fused_gemm(&mut self, call: &Call<'_>) -> Values {
        let own = |name: &str| matches!(name, "alpha" | "beta" | "transA" | "transB");
        let attributes = call.node.attribute.iter().filter(|attribute| own(&attribute.name)).cloned().collect();
        let parameters = ["activation_alpha", "activation_beta", "activation_gamma"]
            .map(|name| if call.node.has(name) { call.node.float(name, 0.0).map(Some) } else { Ok(None) });
        let parameters = parameters.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let y = self.emit(&call.part("product"), "Gemm", call.inputs.clone(), attributes)?;
        self.activated(call, &y, parameters)
    }

    /// `activation(conv(x) + z)`.
    fn fused_conv(&mut self, call: &Call<'_>) -> Values {
        let own = |name: &str| !name.starts_with("activation");
        let attributes = call.node.attribute.iter().filter(|attribute| own(&attribute.name)).cloned().collect();
        let inputs = call.inputs.iter().take(3).cloned().collect();
        let y = self.emit(&call.part("product"), "Conv", inputs, attributes)?;
        let y = self.plus(call, "sum", y, 3)?;
        let parameters = call.node.floats("activation_params")?.unwrap_or_default().to_vec();
        self.activated(call, &y, parameters)
    }

    /// The function that a fused node ends with.
    fn activated(&mut self, call: &Call<'_>, y: &Value, parameters: Vec<f32>) -> Values {
        let names: &[&str] = match call.node.string("activation", "")? {
            "" => return Ok(vec![y.clone()]),
            "Relu" | "Sigmoid" | "Tanh" | "Softplus" | "HardSwish" | "Gelu" => &[],
            "LeakyRelu" | "Elu" => &["alpha"],
            "HardSigmoid" => &["alpha", "beta"],
            "Clip" => {
                let [min, max] = [0, 1].map(|at| parameters.get(at).map(|&bound| self.number_value(bound)));
                let value = self.emit(&call.name, "Clip", vec![Some(y.clone()), min, max], Vec::new())?;
                return Ok(vec![value]);
            }
            other => return Err(format!("its activation is {other}, which is not supported")),
        };
        let attributes: Vec<AttributeProto> =
            names.iter().zip(parameters).map(|(name, value)| float_attribute(name, value)).collect();
        let activation = call.node.string("activation", "")?.to_owned();
        self.result(call, &activation, &[y], &attributes)
    }

    /// The normalization of a sum, and the sum.
    fn skip_layer_norm(&mut self, call: &Call<'_>) -> Values {
        let sum = self.skip_sum(call, 4)?;
        let epsilon = float_attribute("epsilon", call.node.float("epsilon", 1e-12)?);
        let inputs = vec![Some(sum.clone()), call.optional(2).cloned(), call.optional(3).cloned()];
        let y = self.emit(&call.name, "LayerNormalization", inputs, vec![epsilon])?;
        Ok(vec![y, Value::Unsupported, Value::Unsupported, sum])
    }

    fn skip_rms_norm(&mut self, call: &Call<'_>) -> Values {
        let sum = self.skip_sum(call, 3)?;
        let epsilon = float_attribute("epsilon", call.node.float("epsilon", 1e-12)?);
        let scale = call.input(2)?.clone();
        let y = self.result(call, "SimplifiedLayerNormalization", &[&sum, &scale], &[epsilon])?.swap_remove(0);
        Ok(vec![y, Value::Unsupported, Value::Unsupported, sum])
    }

    /// The sum of two values and of a bias.
    fn skip_sum(&mut self, call: &Call<'_>, bias: usize) -> Result<Value, String> {
        let sum = self.emitted(call, "sum", "Add", &[call.input(0)?, call.input(1)?], &[])?;
        self.plus(call, "sum.bias", sum, bias)
    }

    /// The sum of the embeddings of words, positions and segments, normalized; and that sum.
    fn embed_layer_norm(&mut self, call: &Call<'_>) -> Values {
        let rows = int_attribute("axis", 0);
        let words =
            self.emitted(call, "words", "Gather", &[call.input(2)?, call.input(0)?], std::slice::from_ref(&rows))?;
        let positions = match call.optional(8) {
            Some(positions) => positions.clone(),
            None => match self.logical(call.input(0)?)[..] {
                [_, Length::Known(tokens)] => self.counted(tokens as usize)?,
                ref lengths => return Err(format!("its ids have shape {}", show(lengths))),
            },
        };
        let positions =
            self.emitted(call, "positions", "Gather", &[call.input(3)?, &positions], std::slice::from_ref(&rows))?;
        let mut sum = self.emitted(call, "sum", "Add", &[&words, &positions], &[])?;
        if let (Some(ids), Some(table)) = (call.optional(1), call.optional(4)) {
            let segments = self.emitted(call, "segments", "Gather", &[table, ids], &[rows])?;
            sum = self.emitted(call, "sum.segments", "Add", &[&sum, &segments], &[])?;
        }
        let epsilon = float_attribute("epsilon", call.node.float("epsilon", 1e-12)?);
        let inputs = vec![Some(sum.clone()), call.optional(5).cloned(), call.optional(6).cloned()];
        let y = self.emit(&call.name, "LayerNormalization", inputs, vec![epsilon])?;
        // The numbers of tokens of the rows.
        let mut lengths = Value::Unsupported;
        if let Some(mask) = call.optional(7) {
            let axis = Value::Host(Host::new(vec![1], Data::I64(vec![1])).into());
            let keepdims = int_attribute("keepdims", 0);
            lengths = self.emitted(call, "lengths", "ReduceSum", &[mask, &axis], &[keepdims])?;
        }
        Ok(vec![y, lengths, sum])
    }
}
