//! Operators that make values of attributes and shapes.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::external::Folders;
use crate::onnx::host::{Data, Host};
use crate::onnx::slices;
use crate::onnx::tensor::Stored;
use crate::onnx::value::Value;

operators! {
    "Constant" => Operator::stored(Importer::constant_node),
    "ConstantOfShape" => Operator::known(|f| f.constant_of_shape()),
    "Range" => Operator::known(|f| f.range()),
    "Shape" => Operator::stored(Importer::shape),
    "Size" => Operator::stored(Importer::size),
}

impl Importer {
    fn constant_node(&mut self, call: &Call<'_>) -> Values {
        let node = call.node;
        let name = node.output.first().map(|name| Arc::from(name.as_str()));
        let host = if let Some(proto) = node.tensor("value")? {
            // The tensor is kept like an initializer, since weights may stand here too.
            let stored = Stored::new(proto.clone(), Folders::default()).map_err(|e| e.to_string())?;
            self.stored.push(stored.renamed(name.as_deref().unwrap_or("")));
            return Ok(vec![Value::Stored(self.stored.len() - 1)]);
        } else if node.has("value_float") {
            Host::new(Vec::new(), Data::F32(vec![node.float("value_float", 0.0)?]))
        } else if node.has("value_int") {
            Host::new(Vec::new(), Data::I64(vec![node.int("value_int", 0)?]))
        } else if let Some(floats) = node.floats("value_floats")? {
            Host::new(vec![floats.len()], Data::F32(floats.to_vec()))
        } else if let Some(ints) = node.ints("value_ints")? {
            Host::new(vec![ints.len()], Data::I64(ints.to_vec()))
        } else {
            return Err("it has no value of numbers".to_owned());
        };
        Ok(vec![Value::Host(Arc::new(Host { name, ..host }))])
    }

    fn size(&mut self, call: &Call<'_>) -> Values {
        let size = slices::flatten(&self.logical(first(call)?), 0)?.pop();
        let host = Host::new(Vec::new(), Data::lengths(size.into_iter().collect()));
        Ok(vec![Value::Host(Arc::new(host))])
    }

    fn shape(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(first(call)?);
        let rank = lengths.len() as i64;
        let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
        let (start, end) = (bound(call.node.int("start", 0)?), bound(call.node.int("end", rank)?));
        let axes = if start < end { &lengths[start..end] } else { &[] };
        Ok(vec![Value::Host(Arc::new(Host::vector(axes.to_vec())))])
    }
}

fn first<'c>(call: &'c Call<'_>) -> Result<&'c Value, String> {
    call.optional(0).ok_or_else(|| "it has no input".to_owned())
}
