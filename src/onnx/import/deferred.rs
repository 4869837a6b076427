//! Values of a quantized model that are no nodes of the graph until a scale meets them: scales and zero points that are computed at run
//! time, products of quantized values, and rows of a table of quantized values.

use super::importer::Importer;
use super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::axis;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Deferred, Factor, Kind, Product, Scale, Value};
use crate::values::QuantRange;

impl Deferred {
    /// What it is, and what may read it.
    pub(in crate::onnx) fn refusal(&self) -> String {
        let (what, readers) = match self {
            Self::Behind { axis, .. } => {
                return format!(
                    "a value that has the batch at axis {axis}, where only operators on single elements, recurrent layers and \
                     those that move elements read it"
                );
            }
            Self::Scale(_) => (
                "a scale that is computed at run time",
                "Mul with another scale or a quantized product, QuantizeLinear and DequantizeLinear read",
            ),
            Self::ZeroPoint(_) => (
                "a zero point that is computed at run time",
                "MatMulInteger, ConvInteger, QuantizeLinear and DequantizeLinear read",
            ),
            Self::Product(Product { is_float: false, .. }) => {
                ("a product of quantized values without a scale", "a Cast to float32 reads")
            }
            Self::Product(_) => ("a product of quantized values without a scale", "Mul with its scales reads"),
            Self::Rows { .. } => ("rows of a table of quantized values", "DequantizeLinear reads"),
        };
        format!("{what}, which only {readers}")
    }
}

impl Product {
    /// Whether all scales that are computed at run time are in its scale.
    pub(super) fn is_scaled(&self) -> bool {
        let dynamic = self.factors.iter().filter_map(|factor| match factor {
            Factor::Dynamic { qparams, .. } => Some(*qparams),
            Factor::Known { .. } => None,
        });
        let mut dynamic: Vec<_> = dynamic.collect();
        dynamic.sort_unstable();
        // Without scales of a run, a known scale is the last one.
        dynamic == self.scale.qparams && (!dynamic.is_empty() || self.scale.known.is_some())
    }
}

impl Importer {
    pub(super) fn type_of_deferred(&self, deferred: &Deferred) -> i32 {
        match deferred {
            Deferred::Scale(_) => ty::FLOAT,
            Deferred::ZeroPoint(_) => ty::UINT8,
            Deferred::Product(product) => {
                if product.is_float {
                    ty::FLOAT
                } else {
                    ty::INT32
                }
            }
            Deferred::Rows { table: value, .. } | Deferred::Behind { value, .. } => self.type_of(value),
        }
    }

    /// A value as a scale: computed at run time, or known.
    pub(super) fn scale_of(&mut self, value: &Value) -> Result<Scale, String> {
        if let Value::Deferred(deferred) = value {
            return match &**deferred {
                Deferred::Scale(scale) => Ok(scale.clone()),
                other => Err(format!("its scale is {}", other.refusal())),
            };
        }
        let host = self.host(value)?;
        host.fixed()?;
        if host.floats().is_none() {
            return Err(format!("its scale is {}, expected float32", type_name(host.data_type)));
        }
        Ok(Scale { qparams: Vec::new(), known: Some(host) })
    }

    /// The product of two scales.
    pub(super) fn scale_product(&mut self, call: &Call<'_>, a: Scale, b: Scale) -> Result<Scale, String> {
        let mut qparams = [a.qparams, b.qparams].concat();
        qparams.sort_unstable();
        if qparams.len() > 2 {
            return Err(format!(
                "it multiplies {} scales that are computed at run time, and a product has two factors",
                qparams.len()
            ));
        }
        let known = match (a.known, b.known) {
            (Some(a), Some(b)) => {
                let inputs = vec![Some(Value::Host(a)), Some(Value::Host(b))];
                let product = self.emit(&call.part("scale"), "Mul", inputs, Vec::new())?;
                Some(self.host(&product)?)
            }
            (a, b) => a.or(b),
        };
        Ok(Scale { qparams, known })
    }

    /// A `Mul` of scales, or of a product and its scales.
    pub(super) fn scaled(&mut self, call: &Call<'_>) -> Values {
        let [a, b] = [call.input(0)?, call.input(1)?];
        if call.inputs.len() != 2 {
            return Err(format!("it has {} inputs, expected 2", call.inputs.len()));
        }
        let product = |value: &Value| match value {
            Value::Deferred(deferred) => match &**deferred {
                Deferred::Product(product) => Some(product.clone()),
                _ => None,
            },
            _ => None,
        };
        let (mut product, scale) = match (product(a), product(b)) {
            (None, None) => {
                let (a, b) = (self.scale_of(a)?, self.scale_of(b)?);
                let scale = self.scale_product(call, a, b)?;
                return Ok(vec![Value::Deferred(Deferred::Scale(scale).into())]);
            }
            (Some(product), None) => (product, self.scale_of(b)?),
            (None, Some(product)) => (product, self.scale_of(a)?),
            (Some(product), Some(_)) => {
                return Err(format!("both its factors are {}", Deferred::Product(product).refusal()));
            }
        };
        if !product.is_float {
            return Err(format!("its factor is {}", Deferred::Product(product).refusal()));
        }
        let own = std::mem::replace(&mut product.scale, Scale { qparams: Vec::new(), known: None });
        product.scale = self.scale_product(call, own, scale)?;
        if product.is_scaled() {
            return Ok(vec![self.resolved(&call.name, &product)?]);
        }
        let others = product.scale.qparams.iter().any(|qparams| {
            !product.factors.iter().any(|f| matches!(f, Factor::Dynamic { qparams: own, .. } if own == qparams))
        });
        if others {
            return Err(
                "it multiplies a product of quantized values by a scale that is not one of its factors'".to_owned()
            );
        }
        Ok(vec![Value::Deferred(Deferred::Product(product).into())])
    }

    /// A `Cast` of a product.
    pub(super) fn cast_product(&mut self, call: &Call<'_>, to: i32) -> Values {
        let Value::Deferred(deferred) = call.input(0)? else { return Err("it has no input".to_owned()) };
        match &**deferred {
            Deferred::Product(product) if to == ty::FLOAT => {
                let product = Product { is_float: true, ..product.clone() };
                Ok(vec![Value::Deferred(Deferred::Product(product).into())])
            }
            other => Err(format!("it casts to {} {}", type_name(to), other.refusal())),
        }
    }

    /// A `QuantizeLinear` by dynamic qparams.
    pub(super) fn quantize_deferred(&mut self, call: &Call<'_>) -> Values {
        let x = self.as_float(call, call.input(0)?)?;
        let qparams = self.qparams_of(call)?;
        one(self.quantized_dynamically(&call.name, x, qparams, QuantRange::INT8)?)
    }

    /// A `DequantizeLinear` by dynamic qparams, or of rows of a table.
    pub(super) fn dequantize_deferred(&mut self, call: &Call<'_>) -> Values {
        if let Value::Deferred(deferred) = call.input(0)? {
            return match &**deferred {
                Deferred::Rows { table, ids } => self.dequantized_rows(call, table, ids),
                other => Err(format!("its input is {}", other.refusal())),
            };
        }
        let x = call.input(0)?;
        let &Value::Run(values) = x else {
            return Err(format!("its input is {}, but its scale is computed at run time", type_name(self.type_of(x))));
        };
        if !matches!(values.kind, Kind::Quantized { unsigned: true }) {
            return Err(format!("its input is {}, its zero point uint8", type_name(self.type_of(x))));
        }
        let qparams = self.qparams_of(call)?;
        one(self.dequantized_dynamically(&call.name, values, qparams)?)
    }

    /// The dynamic qparams that the scale and the zero point of a node both belong to.
    fn qparams_of(&mut self, call: &Call<'_>) -> Result<NodeId, String> {
        let scale = self.scale_of(call.input(1)?)?;
        let zero_point = match call.optional(2) {
            Some(Value::Deferred(deferred)) => match &**deferred {
                &Deferred::ZeroPoint(qparams) => Some(qparams),
                _ => None,
            },
            _ => None,
        };
        match (scale.qparams.as_slice(), scale.known, zero_point) {
            (&[qparams], None, Some(zero_point)) if qparams == zero_point => Ok(qparams),
            _ => Err("its scale and zero point are not the two of one DynamicQuantizeLinear".to_owned()),
        }
    }

    /// Rows of a dequantized table, which are the dequantized rows.
    fn dequantized_rows(&mut self, call: &Call<'_>, table: &Value, ids: &Value) -> Values {
        let [scale, zero_point] = [1, 2].map(|at| call.optional(at).cloned());
        let Some(scale) = scale else { return Err("input 1 is missing".to_owned()) };
        let count = self.host(&scale)?.data.len();
        let (before, rank) = (self.logical(ids).len(), self.logical(table).len());
        let mut attributes = Vec::new();
        if count > 1 {
            // The axis of the rows, whose first axes are those of the ids, is an axis of the table.
            let at = axis(call.node.int("axis", 1)?, before + rank - 1)?;
            let Some(at) = (at + 1).checked_sub(before).filter(|&at| at > 0) else {
                return Err(format!("it has {count} scales for axis {at} of rows, which is not one of the table"));
            };
            attributes.push(int_attribute("axis", at as i64));
        }
        let inputs = vec![Some(table.clone()), Some(scale), zero_point];
        let table = self.emit(&call.part("table"), "DequantizeLinear", inputs, attributes)?;
        Ok(vec![self.emit(&call.name, "Gather", vec![Some(table), Some(ids.clone())], Vec::new())?])
    }
}
