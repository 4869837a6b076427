//! Values that are the same for every row where rows are needed: rows come from an input.

use super::host::{Data, Host, Length, NEEDS_ROWS, show};
use super::import::Importer;
use super::integers::is_integer;
use super::ops::Call;
use super::values::{Kind, Run, Value};
use crate::graph::NodeId;
use crate::ops::{Dequantize, Input, Int32, Int32Op, IntegerType, Op, Reshape, Slice, ToFloat, ToInteger, Where};
use crate::values::{DType, QParams, TensorQParams};

impl Importer {
    /// Values that give `lengths` together, as nodes that do. A known one that is the same for every row may stay one row, which
    /// stands for all, if another one has rows.
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

    /// A result that must have a shape.
    pub(super) fn of_lengths(&self, run: Run, lengths: &[Length]) -> Result<Run, String> {
        let actual = self.logical(&Value::Run(run));
        if actual == lengths {
            return Ok(run);
        }
        Err(format!("its result would have shape {}, expected {}", show(&actual), show(lengths)))
    }

    /// A known value that is the same for every row, with rows.
    pub(super) fn with_rows(&mut self, host: &Host, rows: usize) -> Result<Run, String> {
        // The leading axis of one becomes the part of the batch that a model merges into it.
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

    /// `x` for each row: behind the rows, the result has `rank` axes.
    pub(super) fn along_rows(&mut self, name: &str, x: Run, rank: usize) -> Result<Run, String> {
        let condition = self.condition(rank)?;
        let id = if let Kind::Int(_) = x.kind {
            let zero = self.number(0.0);
            let zeros = self.draft.add(&format!("{name}.rows"), Op::Where(Where), &[condition, zero, zero])?;
            let to = IntegerType::I32;
            let zeros = self.draft.add(&format!("{name}.zeros"), Op::ToInteger(ToInteger { to }), &[zeros])?;
            self.draft.add(name, Op::Int32(Int32 { op: Int32Op::Add, checked: false }), &[zeros, x.id])?
        } else {
            // Chosen from the same twice, whatever the input holds.
            self.draft.add(name, Op::Where(Where), &[condition, x.id, x.id])?
        };
        Ok(Run { id, ..x })
    }

    /// Some float for each row, in a shape of `rank` more axes.
    fn condition(&mut self, rank: usize) -> Result<NodeId, String> {
        let inputs = || self.draft.nodes.iter().enumerate().take_while(|(_, node)| matches!(node.op, Op::Input(Input)));
        let batched = || inputs().filter(|(_, node)| node.shape.is_batched());
        // Of an input of integers, what follows is a mask still, and no quantity.
        let of_integers = batched().find(|(_, node)| node.dtype == DType::I32);
        let (at, input) = of_integers.or_else(|| batched().next()).ok_or(NEEDS_ROWS)?;
        let (name, elements, dtype) = (input.name.clone(), input.shape.fixed_dims().iter().product(), input.dtype);
        let part = |part: &str| format!("{name}.{part}");
        let flat = self.draft.add(&part("flat"), Op::Reshape(Reshape { dims: vec![elements] }), &[NodeId::new(at)])?;
        let first = self.draft.add(&part("first"), Op::Slice(Slice { axis: 1, start: 0, end: 1 }), &[flat])?;
        let float = match dtype {
            DType::I32 => self.draft.add(&part("first.float"), Op::ToFloat(ToFloat), &[first])?,
            DType::I8 => {
                let qparams = TensorQParams::PerTensor(QParams::new(1.0, 0).map_err(|e| e.to_string())?);
                self.draft.add(&part("first.float"), Op::Dequantize(Dequantize { qparams }), &[first])?
            }
            _ => first,
        };
        self.draft.add(&part("row"), Op::Reshape(Reshape { dims: vec![1; rank] }), &[float])
    }

    /// A known value as a constant, the batch in front as 1.
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
