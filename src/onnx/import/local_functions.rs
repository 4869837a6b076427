//! The functions that a file defines itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::onnx::proto::{FunctionProto, NodeProto};

/// The functions of a file by domain, name and overload.
#[derive(Debug, Default)]
pub(in crate::onnx) struct Functions(HashMap<[String; 3], Arc<FunctionProto>>);

impl Functions {
    pub(super) fn new(functions: Vec<FunctionProto>) -> Self {
        let key = |f: &FunctionProto| [domain(&f.domain), &f.name, &f.overload].map(str::to_owned);
        Self(functions.into_iter().map(|function| (key(&function), Arc::new(function))).collect())
    }

    /// The function that a node calls, if it calls one.
    pub(super) fn of(&self, node: &NodeProto) -> Option<&Arc<FunctionProto>> {
        self.0.get(&[domain(&node.domain), &node.op_type, &node.overload].map(str::to_owned))
    }
}

/// The default domain has two names.
pub(super) fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
