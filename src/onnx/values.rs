//! Conversions of values while importing.

use std::sync::Arc;

use super::dims::elements;
use super::host::{Host, Length};
use super::import::importer::Importer;
use super::import::operator::Call;
use super::names;
use super::proto::data_type as ty;
use super::tensor::type_name;
use super::value::{Deferred, Kind, Run, Value};
use crate::graph::NodeId;
use crate::ops::ToFloat;
use crate::values::Tensor;

impl Importer {
    /// The shape of a value as the model sees it.
    pub(super) fn logical(&self, value: &Value) -> Vec<Length> {
        let known = |dims: &[usize]| dims.iter().map(|&d| Length::Known(d as i64)).collect();
        match value {
            Value::Stored(at) => known(&self.stored[*at].dims),
            Value::Host(host) => host.logical(),
            Value::Quantized(quantized) => known(quantized.values.shape()),
            Value::Deferred(deferred) => match &**deferred {
                Deferred::Behind { value, axis } => {
                    let mut lengths = self.logical(value);
                    lengths[..=*axis].rotate_left(1);
                    lengths
                }
                _ => Vec::new(),
            },
            Value::Unsupported => Vec::new(),
            Value::Run(run) => {
                let shape = self.draft.shape(run.id);
                if !shape.is_batched() {
                    return known(&shape.fixed_dims());
                }
                let rest = &shape.fixed_dims()[usize::from(run.merged > 1)..];
                std::iter::once(Length::Rows(run.merged as i64)).chain(known(rest)).collect()
            }
        }
    }

    /// The decoded tensor of a known value. An error says that the value is computed at run time.
    pub(super) fn host(&mut self, value: &Value) -> Result<Arc<Host>, String> {
        match value {
            Value::Host(host) => Ok(Arc::clone(host)),
            Value::Stored(at) => {
                if let Some(host) = self.decoded.get(at) {
                    return Ok(Arc::clone(host));
                }
                let stored = &self.stored[*at];
                self.budget.take(stored.decoded_bytes(), 1)?;
                let name = Some(Arc::from(stored.name()));
                if elements(&stored.dims).is_none() {
                    return Err(format!("shape {:?} is too large", stored.dims));
                }
                let (dims, data) = (stored.dims.clone(), stored.data()?);
                let host = Host { rows: None, dims, data, data_type: stored.data_type, name };
                let host = Arc::new(host);
                self.decoded.insert(*at, Arc::clone(&host));
                Ok(host)
            }
            Value::Quantized(quantized) => {
                self.budget.take(quantized.values.len(), 4)?;
                quantized.host().map(Arc::new)
            }
            Value::Run(run) => {
                let name =
                    self.reading.iter().find(|(_, id)| *id == run.id).map_or("one of its inputs", |(name, _)| name);
                Err(format!("{name} is computed at run time, and must be known while importing"))
            }
            Value::Deferred(deferred) => Err(deferred.refusal()),
            Value::Unsupported => Err("one of its inputs is not supported".to_owned()),
        }
    }

    /// A value as a node of the graph. Known values become constants.
    pub(super) fn run(&mut self, value: &Value) -> Result<Run, String> {
        let fixed = |id, kind| Ok(Run { id, merged: 1, kind });
        match value {
            Value::Run(run) => Ok(*run),
            Value::Stored(at) if self.stored[*at].is_float() => fixed(self.stored_constant(*at)?, Kind::Float),
            Value::Quantized(quantized) => fixed(self.quantized_constant(quantized)?, Kind::Float),
            Value::Host(_) | Value::Stored(_) => {
                let host = self.host(value)?;
                match host.rows {
                    Some(rows) => self.with_rows(&host, rows),
                    None => self.host_run(&host),
                }
            }
            Value::Deferred(deferred) => Err(deferred.refusal()),
            Value::Unsupported => Err("one of its inputs is not supported".to_owned()),
        }
    }

    /// A constant of floats, whatever the type of the value; a leading batch has length 1.
    pub(super) fn host_constant(&mut self, host: &Host) -> Result<NodeId, String> {
        self.budget.take(host.data.len(), 4)?;
        let tensor = Tensor::from_f32(&host.dims, host.to_floats()?).map_err(|e| e.to_string())?;
        Ok(self.draft.constant(host.name.as_deref().unwrap_or(""), tensor))
    }

    /// A constant of integers; a leading batch has length 1.
    pub(super) fn integer_constant(&mut self, host: &Host) -> Result<NodeId, String> {
        self.budget.take(host.data.len(), 4)?;
        let narrow = |(at, v): (usize, i64)| {
            i32::try_from(v).map_err(|_| format!("element {at} is {v}, which does not fit 32 bits"))
        };
        let integers = host.integers()?.into_iter().enumerate().map(narrow).collect::<Result<_, _>>()?;
        let tensor = Tensor::from_i32(&host.dims, integers).map_err(|e| e.to_string())?;
        Ok(self.draft.constant(host.name.as_deref().unwrap_or(""), tensor))
    }

    /// The constant of a stored tensor of floats, which is made once.
    pub(super) fn stored_constant(&mut self, at: usize) -> Result<NodeId, String> {
        if let Some(&id) = self.constants.get(&(at, false)) {
            return Ok(id);
        }
        let stored = &self.stored[at];
        let tensor = Tensor::from_f32(&stored.dims, stored.floats()?).map_err(|e| e.to_string())?;
        let id = self.draft.constant(stored.name(), tensor);
        self.constants.insert((at, false), id);
        Ok(id)
    }

    /// A value of floats, or of booleans, which are floats in a graph.
    pub(super) fn float(&mut self, call: &Call<'_>, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        match run.kind {
            Kind::Float | Kind::Bool => Ok(run),
            Kind::Int(ty::BOOL) => self.as_float(call, value),
            Kind::Int(data_type) => Err(format!("it is not supported for {} at run time", type_name(data_type))),
            Kind::Quantized { .. } => Err("it computes on quantized values".to_owned()),
        }
    }

    /// A value as floats. Integers are converted to the nearest float.
    pub(super) fn as_float(&mut self, call: &Call<'_>, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        let Kind::Int(data_type) = run.kind else { return self.float(call, value) };
        let id = self.draft.add(&call.part("float"), ToFloat, &[run.id])?;
        Ok(Run { id, kind: if data_type == ty::BOOL { Kind::Bool } else { Kind::Float }, ..run })
    }

    /// The element of a known value that has one element.
    pub(super) fn scalar(&mut self, value: &Value) -> Option<f32> {
        let single = match value {
            Value::Run(_) | Value::Deferred(_) | Value::Unsupported | Value::Quantized(_) => false,
            Value::Stored(at) => self.stored[*at].len() == 1,
            Value::Host(host) => host.data.len() == 1 && host.rows.is_none(),
        };
        if single { self.host(value).ok()?.scalar() } else { None }
    }

    /// The axis of a node that corresponds to an axis of the model. An error says that it is the batch.
    pub(super) fn inner_axis(&self, run: Run, axis: usize) -> Result<usize, String> {
        if axis == 0 && self.draft.shape(run.id).is_batched() {
            return Err("it works along the batch".to_owned());
        }
        Ok(axis + usize::from(run.merged > 1))
    }

    /// The name of the module that a known value is a parameter of.
    pub(super) fn module(&self, value: &Value) -> Option<String> {
        let name = match value {
            Value::Stored(at) => self.stored[*at].name(),
            Value::Host(host) => host.name.as_deref()?,
            Value::Quantized(quantized) => &quantized.name,
            Value::Run(_) | Value::Deferred(_) | Value::Unsupported => return None,
        };
        names::module(name)
    }

    /// Names a node after the module that a parameter of it belongs to.
    pub(super) fn name_after(&mut self, id: NodeId, module: Option<String>) {
        if let Some(module) = module {
            let node = &mut self.draft.nodes[id.index()];
            node.name.clone_from(&module);
            node.origin = module;
        }
    }
}
