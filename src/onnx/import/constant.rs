//! Operators that make values of attributes and shapes.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::external::Folders;
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::integers::is_integer;
use crate::onnx::proto::data_type as ty;
use crate::onnx::slices;
use crate::onnx::tensor::{Stored, type_name};
use crate::onnx::value::Value;

operators! {
    "Constant" => Operator::stored(Importer::constant_node),
    "ConstantOfShape" => Operator::known(|f| f.constant_of_shape()).sharing(Importer::constant_behind),
    "EyeLike" => Operator::stored(Importer::eye),
    "Range" => Operator::known(|f| f.range()),
    "Shape" => Operator::stored(Importer::shape).behind(|i, c, _| i.shape(c)),
    "Size" => Operator::stored(Importer::size).behind(|i, c, _| i.size(c)),
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

    /// Ones on a diagonal, in the shape of the input.
    fn eye(&mut self, call: &Call<'_>) -> Values {
        let value = first(call)?;
        let lengths = self.logical(value);
        let &[Length::Known(rows), Length::Known(cols)] = lengths.as_slice() else {
            return Err(format!("its input has shape {}, expected two known lengths", show(&lengths)));
        };
        let data_type = call.node.int("dtype", self.type_of(value).into())?;
        let data_type = i32::try_from(data_type).unwrap_or(0);
        let (rows, cols, k) = (rows as usize, cols as usize, call.node.int("k", 0)?);
        let count = rows.saturating_mul(cols);
        self.budget.take(count, size_of::<i64>())?;
        let is_one = |at: usize| ((at % cols) as i64).checked_sub((at / cols) as i64) == Some(k);
        let data = match data_type {
            ty::FLOAT | ty::FLOAT16 | ty::BFLOAT16 | ty::DOUBLE => {
                Data::F32((0..count).map(|at| f32::from(u8::from(is_one(at)))).collect())
            }
            ty::BOOL => Data::Bool((0..count).map(is_one).collect()),
            of if is_integer(of) => Data::I64((0..count).map(|at| is_one(at).into()).collect()),
            other => return Err(format!("it makes values of {}", type_name(other))),
        };
        Ok(vec![Value::Host(Arc::new(Host::new(vec![rows, cols], data).typed(data_type)))])
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
