//! Attributes of a node, with their types checked.

use super::proto::{AttributeProto, NodeProto, TensorProto, attribute_type as ty};

impl NodeProto {
    /// Its name; without one, that of its first output.
    pub(super) fn title(&self) -> &str {
        if self.name.is_empty() { self.output.first().map_or("", String::as_str) } else { &self.name }
    }

    /// Whether the operator is one of the default set.
    pub(super) fn is_default_domain(&self) -> bool {
        matches!(self.domain.as_str(), "" | "ai.onnx")
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute.iter().any(|a| a.name == name)
    }

    fn attribute(&self, name: &str, r#type: i32) -> Result<Option<&AttributeProto>, String> {
        match self.attribute.iter().find(|a| a.name == name) {
            // Old files leave the type out.
            Some(a) if a.r#type != r#type && a.r#type != 0 => Err(format!("attribute {name} is of the wrong type")),
            found => Ok(found),
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        Ok(self.attribute(name, ty::INT)?.map_or(default, |a| a.i))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        Ok(self.attribute(name, ty::FLOAT)?.map_or(default, |a| a.f))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Option<&[f32]>, String> {
        Ok(self.attribute(name, ty::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&[i64]>, String> {
        Ok(self.attribute(name, ty::INTS)?.map(|a| a.ints.as_slice()))
    }

    pub(super) fn string<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, String> {
        match self.attribute(name, ty::STRING)? {
            None => Ok(default),
            Some(a) => std::str::from_utf8(&a.s).map_err(|_| format!("attribute {name} is not text")),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&TensorProto>, String> {
        Ok(self.attribute(name, ty::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Whether it holds a graph of its own, as `If` and `Loop` do.
    pub(super) fn has_graph(&self) -> bool {
        self.attribute.iter().any(|a| a.g.is_some() || a.r#type == ty::GRAPH)
    }
}
