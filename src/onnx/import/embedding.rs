//! `Gather`: rows of a table, or elements at known places of a value.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::onnx::host::{Host, axis};
use crate::onnx::integers::is_integer;
use crate::onnx::proto::data_type as ty;
use crate::onnx::slices;
use crate::onnx::value::{Deferred, Run, Value};
use crate::ops::Embedding;

operators! {
    "Gather" => Operator::new(|f| f.gather(), Importer::gather).behind(Importer::gather_behind),
}

impl Importer {
    fn gather(&mut self, call: &Call<'_>) -> Values {
        let (data, indices) = (call.input(0)?, call.input(1)?);
        if let Value::Run(_) = indices {
            return self.embedding(call, data, indices);
        }
        let indices = self.host(indices)?;
        self.places(call, &indices)
    }

    /// Rows of a known table, selected by ids that are given or computed at run time.
    fn embedding(&mut self, call: &Call<'_>, table: &Value, ids: &Value) -> Values {
        let ids = self.integer(ids)?;
        let lengths = self.logical(table);
        let at = axis(call.node.int("axis", 0)?, lengths.len())?;
        let of = self.type_of(table);
        if matches!(table, Value::Run(_)) || is_integer(of) && !matches!(of, ty::INT8 | ty::UINT8) {
            return self.rows_at_run_time(call, table, ids, at);
        }
        if at != 0 {
            return self.embedding_along(call, table, &Value::Run(ids), at);
        }
        if let ty::INT8 | ty::UINT8 = of {
            let rows = Deferred::Rows { table: table.clone(), ids: Value::Run(ids) };
            return Ok(vec![Value::Deferred(rows.into())]);
        }
        let run = self.run(table)?;
        let flat = slices::flatten(&lengths, 1)?;
        let rows = self.reshaped(&call.part("table"), run, &flat)?;
        let id = self.draft.add(&call.name, Embedding { from_end: true }, &[ids.id, rows.id])?;
        self.name_after(id, self.module(table));
        let mut target = self.logical(&Value::Run(ids));
        target.extend(&lengths[1..]);
        one(self.reshaped(&call.name, Run { id, kind: run.kind, ..ids }, &target)?)
    }

    /// A table whose rows lie along another axis: the rows, with that axis in front of the table, and the axes of the ids moved behind
    /// those that were before them.
    fn embedding_along(&mut self, call: &Call<'_>, table: &Value, ids: &Value, at: usize) -> Values {
        let (rank, of_ids) = (self.logical(table).len() as i64, self.logical(ids).len() as i64);
        let mut perm: Vec<i64> = (0..rank).collect();
        perm[..=at].rotate_right(1);
        let front = self.moved(call, "table", table, &perm)?;
        let rows = self.emitted(call, "rows", "Gather", &[&front, ids], &[])?;
        let before = of_ids..of_ids + at as i64;
        let perm = before.clone().chain(0..of_ids).chain(before.end..of_ids + rank - 1).collect();
        self.result(call, "Transpose", &[&rows], &[ints_attribute("perm", perm)])
    }

    /// A call of the function that looks up rows of a table of int8 with a scale for each.
    pub(super) fn quantized_rows(&mut self, call: &Call<'_>) -> Values {
        let scales = self.host(call.input(1)?)?;
        let rows = scales.data.len();
        let scales = Value::Host(Host::new(vec![rows], scales.data.clone()).into());
        let table =
            self.emitted(call, "table", "DequantizeLinear", &[call.input(0)?, &scales], &[int_attribute("axis", 0)])?;
        self.result(call, "Gather", &[&table, call.input(2)?], &[])
    }
}
