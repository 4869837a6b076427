//! The attributes of a node: how they are read and written. An error says that an attribute is of the wrong type.

use prost::bytes::Bytes;

use super::proto::{AttributeProto, NodeProto, TensorProto, attribute_type as ty};

impl NodeProto {
    /// The name of the node, or the name of its first output if the node has none.
    pub(super) fn title(&self) -> &str {
        if self.name.is_empty() { self.output.first().map_or("", String::as_str) } else { &self.name }
    }

    /// Whether the operator belongs to the default domain.
    pub(super) fn is_default_domain(&self) -> bool {
        matches!(self.domain.as_str(), "" | "ai.onnx")
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute.iter().any(|a| a.name == name)
    }

    fn attribute(&self, name: &str, r#type: i32) -> Result<Option<&AttributeProto>, String> {
        match self.attribute.iter().find(|a| a.name == name) {
            // Old files have no type of attributes.
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

    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<&str>>, String> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| format!("attribute {name} is not text"));
        let list = self.attribute(name, ty::STRINGS)?;
        list.map(|a| a.strings.iter().map(|bytes| text(bytes)).collect()).transpose()
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&TensorProto>, String> {
        Ok(self.attribute(name, ty::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Whether the node contains a graph, as `If` and `Loop` do.
    pub(super) fn has_graph(&self) -> bool {
        self.attribute.iter().any(|a| a.g.is_some() || a.r#type == ty::GRAPH)
    }
}

pub(super) fn int_attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: ty::INT, ..Default::default() }
}

pub(super) fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f, r#type: ty::FLOAT, ..Default::default() }
}

pub(super) fn string_attribute(name: &str, text: &'static str) -> AttributeProto {
    let s = Bytes::from_static(text.as_bytes());
    AttributeProto { name: name.to_owned(), s, r#type: ty::STRING, ..Default::default() }
}

pub(super) fn tensor_attribute(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { name: name.to_owned(), t: Some(tensor), r#type: ty::TENSOR, ..Default::default() }
}

pub(super) fn ints_attribute(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ints, r#type: ty::INTS, ..Default::default() }
}
