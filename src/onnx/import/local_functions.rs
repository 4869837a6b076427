//! The functions that a file defines itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::onnx::error::OnnxError;
use crate::onnx::exported_functions::{DOMAIN, function as exported_function};
use crate::onnx::proto::{FunctionProto, NodeProto};

/// The functions of a file by domain, name and overload.
#[derive(Debug, Default)]
pub(in crate::onnx) struct Functions {
    all: HashMap<[String; 3], Arc<FunctionProto>>,
    /// The names of those that are what an export writes.
    exported: HashSet<String>,
}

impl Functions {
    /// # Errors
    /// [`OnnxError::Duplicate`] if two functions have one name.
    pub(super) fn new(functions: Vec<FunctionProto>) -> Result<Self, OnnxError> {
        let mut all = HashMap::with_capacity(functions.len());
        let mut exported = HashSet::new();
        for function in functions {
            let key = [domain(&function.domain), &function.name, &function.overload].map(str::to_owned);
            let name = function.name.clone();
            if function.domain == DOMAIN && exported_function(&name).as_ref() == Some(&function) {
                exported.insert(name.clone());
            }
            if all.insert(key, Arc::new(function)).is_some() {
                return Err(OnnxError::Duplicate { name });
            }
        }
        Ok(Self { all, exported })
    }

    /// The function that a node calls, if it calls one.
    pub(super) fn of(&self, node: &NodeProto) -> Option<&Arc<FunctionProto>> {
        self.all.get(&[domain(&node.domain), &node.op_type, &node.overload].map(str::to_owned))
    }

    /// Whether a node calls a function that is what an export writes, node for node.
    pub(super) fn is_exported(&self, node: &NodeProto) -> bool {
        node.domain == DOMAIN && node.overload.is_empty() && self.exported.contains(&node.op_type)
    }
}

/// The default domain has two names.
pub(super) fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
