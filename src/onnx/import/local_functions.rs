//! The functions that a file defines itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::onnx::error::OnnxError;
use crate::onnx::proto::{FunctionProto, NodeProto};

/// The functions of a file by domain, name and overload.
#[derive(Debug, Default)]
pub(in crate::onnx) struct Functions(HashMap<[String; 3], Arc<FunctionProto>>);

impl Functions {
    /// # Errors
    /// [`OnnxError::Duplicate`] if two functions have one name.
    pub(super) fn new(functions: Vec<FunctionProto>) -> Result<Self, OnnxError> {
        let mut by_name = HashMap::with_capacity(functions.len());
        for function in functions {
            let key = [domain(&function.domain), &function.name, &function.overload].map(str::to_owned);
            let name = function.name.clone();
            if by_name.insert(key, Arc::new(function)).is_some() {
                return Err(OnnxError::Duplicate { name });
            }
        }
        Ok(Self(by_name))
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
