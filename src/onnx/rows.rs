//! Values that are the same for every row, where a node needs rows: the rows come from an input of the graph.

use super::host::{Data, Host, Length, NEEDS_ROWS, show};
use super::import::importer::Importer;
use super::import::operator::Call;
use super::integers::is_integer;
use super::value::{Kind, Run, Value};
use crate::graph::NodeId;
use crate::ops::{Dequantize, Input, Int32, Int32Op, IntegerType, Op, Reshape, Slice, ToFloat, ToInteger, Where};
use crate::values::{DType, QParams, TensorQParams};

impl Importer {
    /// The nodes of values that broadcast to `lengths` together. A known value that is the same for every row stays one row if another
    /// value has rows.
    pub(super) fn operands<const N: usize>(
        &mut self,
        call: &Call<'_>,
        values: [&Value; N],
        lengths: &[Length],
    ) -> Result<[Run; N], String> {
        let has_rows = |value: &&Value| match value {
            Value::Run(run) => self.draft.shape(run.id).is_batched(),
            _ => false,
        };
        let mut rows = values.iter().any(has_rows);
        let mut runs = Vec::with_capacity(N);
        for value in values {
            let run = match value {
                Value::Host(host) if host.rows.is_some() && rows && host.dims.len() == lengths.len() => {
                    self.host_run(host)?
                }
                _ => self.run(value)?,
            };
            rows |= self.draft.shape(run.id).is_batched();
            runs.push(match run.kind {
                Kind::Int(data_type) if is_integer(data_type) => run,
                _ => self.float(call, &Value::Run(run))?,
            });
        }
        runs.try_into().map_err(|_| "as many operands as values".to_owned())
    }

    /// Checks that a result has the shape that the model demands.
    pub(super) fn of_lengths(&self, run: Run, lengths: &[Length]) -> Result<Run, String> {
        let actual = self.logical(&Value::Run(run));
        if actual == lengths {
            return Ok(run);
        }
        Err(format!("its result would have shape {}, expected {}", show(&actual), show(lengths)))
    }

    /// A node with rows for a known value that is the same for every row.
    pub(super) fn with_rows(&mut self, host: &Host, rows: usize) -> Result<Run, String> {
        // The leading axis of length 1 gets the factor by which the model's axis is longer than the batch.
        let count = host.data.len().saturating_mul(rows);
        self.budget.take(count, host.data.size())?;
        let size = host.data.len().max(1);
        let mut dims = host.dims.clone();
        if rows == 1 {
            dims.remove(0);
        } else {
            dims[0] = rows;
        }
        let data = host.data.pick((0..count).map(|at| at % size));
        let one = Host { rows: None, dims, data, ..host.clone() };
        let name = host.name.as_deref().unwrap_or("rows").to_owned();
        let run = self.host_run(&one)?;
        let run = self.along_rows(&name, run, one.dims.len())?;
        Ok(Run { merged: rows, ..run })
    }

    /// Repeats `x` for each row. After the rows, the result has `rank` axes.
    pub(super) fn along_rows(&mut self, name: &str, x: Run, rank: usize) -> Result<Run, String> {
        let condition = self.condition(rank)?;
        let id = if let Kind::Int(_) = x.kind {
            let zero = self.number(0.0);
            let zeros = self.draft.add(&format!("{name}.rows"), Where, &[condition, zero, zero])?;
            let to = IntegerType::I32;
            let zeros = self.draft.add(&format!("{name}.zeros"), ToInteger { to }, &[zeros])?;
            self.draft.add(name, Int32 { op: Int32Op::Add, checked: false }, &[zeros, x.id])?
        } else {
            // Both branches are `x`, so that the result is `x` whatever the input holds.
            self.draft.add(name, Where, &[condition, x.id, x.id])?
        };
        Ok(Run { id, ..x })
    }

    /// A float for each row, of any value, with `rank` more axes of length 1.
    fn condition(&mut self, rank: usize) -> Result<NodeId, String> {
        let inputs = || self.draft.nodes.iter().enumerate().take_while(|(_, node)| matches!(node.op, Op::Input(Input)));
        let batched = || inputs().filter(|(_, node)| node.shape.is_batched());
        // An input of integers is preferred: what is computed of integers alone is a mask, which is not quantized.
        let of_integers = batched().find(|(_, node)| node.dtype == DType::I32);
        let (at, input) = of_integers.or_else(|| batched().next()).ok_or(NEEDS_ROWS)?;
        let (name, elements, dtype) = (input.name.clone(), input.shape.fixed_dims().iter().product(), input.dtype);
        let part = |part: &str| format!("{name}.{part}");
        let flat = self.draft.add(&part("flat"), Reshape { dims: vec![elements] }, &[NodeId::new(at)])?;
        let first = self.draft.add(&part("first"), Slice { axis: 1, start: 0, end: 1 }, &[flat])?;
        let float = match dtype {
            DType::I32 => self.draft.add(&part("first.float"), ToFloat, &[first])?,
            DType::I8 => {
                let qparams = TensorQParams::PerTensor(QParams::new(1.0, 0).map_err(|e| e.to_string())?);
                self.draft.add(&part("first.float"), Dequantize { qparams }, &[first])?
            }
            _ => first,
        };
        self.draft.add(&part("row"), Reshape { dims: vec![1; rank] }, &[float])
    }

    /// The constant of a known value; a leading batch has length 1.
    pub(super) fn host_run(&mut self, host: &Host) -> Result<Run, String> {
        let kind = match host.data {
            Data::F32(_) => Kind::Float,
            Data::Bool(_) => Kind::Bool,
            Data::I64(_) | Data::Lengths(_) => Kind::Int(host.data_type),
        };
        let id = if let Kind::Int(_) = kind { self.integer_constant(host)? } else { self.host_constant(host)? };
        Ok(Run { id, merged: 1, kind })
    }
}
