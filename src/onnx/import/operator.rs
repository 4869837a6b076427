//! The importer's rules for an ONNX operator.

use std::sync::Arc;

use super::importer::Importer;
use crate::onnx::fold::{Fold, Folded};
use crate::onnx::host::Host;
use crate::onnx::names::clean;
use crate::onnx::proto::{AttributeProto, NodeProto};
use crate::onnx::value::{Deferred, Kind, Run, Value};

/// The values that a node writes, in the order of its outputs. An error is the reason why the node is not supported.
pub(in crate::onnx) type Values = Result<Vec<Value>, String>;

/// A node and the values that it reads.
#[derive(Debug)]
pub(in crate::onnx) struct Call<'a> {
    pub(in crate::onnx) node: &'a NodeProto,
    pub(in crate::onnx) inputs: Vec<Option<Value>>,
    /// The name of the graph node that the result comes from.
    pub(in crate::onnx) name: String,
}

impl Call<'_> {
    pub(in crate::onnx) fn input(&self, at: usize) -> Result<&Value, String> {
        self.optional(at).ok_or_else(|| format!("input {at} is missing"))
    }

    pub(in crate::onnx) fn optional(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at).and_then(Option::as_ref)
    }

    /// The name of one of the graph nodes that the ONNX node becomes.
    pub(in crate::onnx) fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// Returns the name of the node that combines input `at` with those before it. The last node has the name of the call.
    pub(super) fn step(&self, at: usize) -> String {
        if at + 1 == self.inputs.len() { self.name.clone() } else { self.part(&format!("step{at}")) }
    }

    /// The name of the product of so many factors, of `exponent` in all. The last product has the name of the call.
    pub(super) fn power(&self, factors: u32, exponent: f32) -> String {
        if factors == exponent as u32 { self.name.clone() } else { self.part(&format!("power{factors}")) }
    }
}

/// Makes nodes of the graph.
type Translate = fn(&mut Importer, &Call<'_>) -> Values;
/// Evaluates a node whose inputs are known and decoded.
type Evaluate = fn(&mut Fold<'_>) -> Folded;
/// Makes a value that shares the data of the only input, if the operator can.
type Share = fn(&mut Importer, &NodeProto, &Value) -> Result<Option<Value>, String>;
/// Says whether known inputs are decoded before the node is evaluated or translated.
type Decodes = fn(&Importer, &[Option<Value>]) -> bool;

/// Translates a node that reads values whose batch is not in front. The operator is the one that the rule belongs to.
type Behind = fn(&mut Importer, &Call<'_>, Operator) -> Values;

/// The importer's rules for one ONNX operator.
#[derive(Clone, Copy)]
pub(in crate::onnx) struct Operator {
    translate: Translate,
    fold: Option<Evaluate>,
    share: Option<Share>,
    decodes: Decodes,
    deferring: Option<Translate>,
    behind: Option<Behind>,
    on_codes: bool,
}

impl Operator {
    /// An operator that is evaluated if all its inputs are known, and else becomes nodes of the graph.
    pub(super) fn new(fold: Evaluate, translate: Translate) -> Self {
        Self { fold: Some(fold), ..Self::nodes(translate) }
    }

    /// An operator that is supported only if all its inputs are known.
    pub(super) fn known(fold: Evaluate) -> Self {
        Self::new(fold, |_, _| Err(ONLY_KNOWN.to_owned()))
    }

    /// An operator that always becomes nodes of the graph, on constants too.
    pub(super) fn nodes(translate: Translate) -> Self {
        let decodes: Decodes = |_, _| true;
        Self { translate, fold: None, share: None, decodes, deferring: None, behind: None, on_codes: false }
    }

    /// An operator that reads stored values as they are in the file.
    pub(super) fn stored(translate: Translate) -> Self {
        Self { decodes: |_, _| false, ..Self::nodes(translate) }
    }

    /// The same operator, which may give a value that shares the data of its input.
    pub(super) fn sharing(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }

    /// The same operator, with a rule for inputs that are no nodes of the graph yet.
    pub(super) fn deferring(self, translate: Translate) -> Self {
        Self { deferring: Some(translate), ..self }
    }

    /// The same operator, with a rule for values whose batch is not in front.
    pub(super) fn behind(self, translate: Behind) -> Self {
        Self { behind: Some(translate), ..self }
    }

    /// The same operator, which computes on the numbers that quantized values are.
    pub(super) fn on_codes(self) -> Self {
        Self { on_codes: true, ..self }
    }

    /// The same operator, with a rule that says whether known inputs are decoded.
    pub(super) fn decoding(self, decodes: Decodes) -> Self {
        Self { decodes, ..self }
    }
}

/// The reason to refuse an operator without a translation.
pub(super) const ONLY_KNOWN: &str = "it is supported only where its inputs are known while importing";

impl Importer {
    /// Evaluates or translates a node of the default domain.
    pub(super) fn evaluate(&mut self, node: &NodeProto, operator: Operator, mut inputs: Vec<Option<Value>>) -> Values {
        if let (Some(share), [Some(value)]) = (operator.share, &inputs[..])
            && let Some(same) = share(self, node, value)?
        {
            return Ok(vec![same]);
        }
        if let Some(translate) = operator.behind.filter(|_| inputs.iter().flatten().any(is_behind)) {
            return translate(self, &Call { node, inputs, name: clean(node.title()) }, operator);
        }
        if let Some((at, deferred)) = deferred(&inputs) {
            return match operator.deferring {
                Some(translate) => translate(self, &Call { node, inputs, name: clean(node.title()) }),
                None => Err(format!(
                    "its input {} is {}",
                    node.input.get(at).map_or("", String::as_str),
                    deferred.refusal()
                )),
            };
        }
        let known = inputs.iter().flatten().all(|value| !matches!(value, Value::Run(_)));
        if known && (operator.decodes)(self, &inputs) {
            let decoded = inputs.iter().map(|value| value.as_ref().map(|value| self.host(value)).transpose());
            let hosts = decoded.collect::<Result<Vec<_>, _>>()?;
            if let Some(fold) = operator.fold {
                let mut call = Fold { node, inputs: &hosts, budget: &mut self.budget, opset: self.opset };
                if let Some(results) = fold(&mut call)? {
                    let value = |host: Host| Ok(Value::Host(Arc::new(host.in_range(&hosts)?)));
                    return results.into_iter().map(value).collect();
                }
            }
            inputs = hosts.into_iter().map(|host| host.map(Value::Host)).collect();
        }
        let call = Call { node, inputs, name: clean(node.title()) };
        match call.inputs.iter().flatten().find_map(unsigned).filter(|_| operator.on_codes) {
            Some(unsigned) => self.on_codes(&call, unsigned),
            None => (operator.translate)(self, &call),
        }
    }
}

/// Whether quantized values that are computed at run time are of `uint8`; `None` for other values.
fn unsigned(value: &Value) -> Option<bool> {
    match value {
        Value::Run(Run { kind: Kind::Quantized { unsigned }, .. }) => Some(*unsigned),
        _ => None,
    }
}

/// Whether the model has the batch of a value behind another axis.
pub(super) fn is_behind(value: &Value) -> bool {
    matches!(value, Value::Deferred(deferred) if matches!(**deferred, Deferred::Behind { .. }))
}

/// The first input that is no node of the graph yet.
fn deferred(inputs: &[Option<Value>]) -> Option<(usize, Arc<Deferred>)> {
    inputs.iter().enumerate().find_map(|(at, value)| match value {
        Some(Value::Deferred(deferred)) => Some((at, Arc::clone(deferred))),
        _ => None,
    })
}

/// The opset whose operators are emitted.
const EMITTED: i64 = 21;

impl Importer {
    /// Evaluates or translates an operator of the default domain that a node of the file stands for, with the forms of opset 21. It
    /// must have one result.
    pub(super) fn emit(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: Vec<Option<Value>>,
        attribute: Vec<AttributeProto>,
    ) -> Result<Value, String> {
        let operator = (self.operator)(op_type).ok_or_else(|| format!("it needs {op_type}, which is not supported"))?;
        let node = NodeProto { name: name.to_owned(), op_type: op_type.to_owned(), attribute, ..NodeProto::default() };
        let opset = std::mem::replace(&mut self.opset, EMITTED);
        let results = self.evaluate(&node, operator, inputs);
        self.opset = opset;
        let mut results = results?;
        if results.is_empty() { Err(format!("{op_type} has no result")) } else { Ok(results.swap_remove(0)) }
    }
}

/// The values of a node with one result, which is computed at run time.
pub(super) fn one(run: Run) -> Values {
    Ok(vec![Value::Run(run)])
}
