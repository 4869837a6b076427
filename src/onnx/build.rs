//! Small models for tests.

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use super::{ImportOptions, OnnxError, import};
use crate::graph::Graph;
use crate::values::Tensor;

/// A model that is written node by node.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) model: ModelProto,
}

/// A length of an input: a number or a symbol.
pub(super) fn dim(text: &str) -> DimensionProto {
    match text.parse() {
        Ok(value) => DimensionProto { dim_value: Some(value), dim_param: None },
        Err(_) => DimensionProto { dim_value: None, dim_param: Some(text.to_owned()) },
    }
}

pub(super) fn value(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let shape = TensorShapeProto { dim: dims.iter().map(|text| dim(text)).collect() };
    let tensor = TensorTypeProto { elem_type, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let (dims, name, float_data) = (dims.to_vec(), name.to_owned(), values.to_vec());
    TensorProto { dims, name, data_type: data_type::FLOAT, float_data, ..TensorProto::default() }
}

pub(super) fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    let (dims, name, int64_data) = (dims.to_vec(), name.to_owned(), values.to_vec());
    TensorProto { dims, name, data_type: data_type::INT64, int64_data, ..TensorProto::default() }
}

pub(super) fn small(name: &str, data_type: i32, dims: &[i64], values: &[i32]) -> TensorProto {
    let (dims, name, int32_data) = (dims.to_vec(), name.to_owned(), values.to_vec());
    TensorProto { dims, name, data_type, int32_data, ..TensorProto::default() }
}

impl Build {
    pub(super) fn new(opset: i64) -> Self {
        let opset = OperatorSetIdProto { domain: String::new(), version: opset };
        let graph = Some(GraphProto::default());
        Self { model: ModelProto { ir_version: 8, graph, opset_import: vec![opset], ..ModelProto::default() } }
    }

    pub(super) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.get_or_insert_default()
    }

    pub(super) fn input(mut self, name: &str, dims: &[&str]) -> Self {
        self.graph().input.push(value(name, data_type::FLOAT, dims));
        self
    }

    pub(super) fn ids(mut self, name: &str, dims: &[&str]) -> Self {
        self.graph().input.push(value(name, data_type::INT64, dims));
        self
    }

    pub(super) fn output(mut self, name: &str) -> Self {
        self.graph().output.push(value(name, data_type::FLOAT, &[]));
        self
    }

    pub(super) fn store(mut self, tensor: TensorProto) -> Self {
        self.graph().initializer.push(tensor);
        self
    }

    pub(super) fn floats(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.store(floats(name, dims, values))
    }

    pub(super) fn ints(self, name: &str, dims: &[i64], values: &[i64]) -> Self {
        self.store(ints(name, dims, values))
    }

    /// A node; inputs and outputs are separated by spaces, and `_` is none.
    pub(super) fn node(mut self, op_type: &str, inputs: &str, outputs: &str) -> Self {
        let names = |text: &str| text.split(' ').map(|name| name.trim_matches('_').to_owned()).collect::<Vec<_>>();
        let (input, output) = (names(inputs), names(outputs));
        let input = if inputs.is_empty() { Vec::new() } else { input };
        self.graph().node.push(NodeProto { input, output, op_type: op_type.to_owned(), ..NodeProto::default() });
        self
    }

    fn attribute(mut self, attribute: AttributeProto) -> Self {
        let last = self.graph().node.last_mut().expect("a node before its attribute");
        last.attribute.push(attribute);
        self
    }

    pub(super) fn int(self, name: &str, i: i64) -> Self {
        let (name, r#type) = (name.to_owned(), attribute_type::INT);
        self.attribute(AttributeProto { name, i, r#type, ..AttributeProto::default() })
    }

    pub(super) fn float(self, name: &str, f: f32) -> Self {
        let (name, r#type) = (name.to_owned(), attribute_type::FLOAT);
        self.attribute(AttributeProto { name, f, r#type, ..AttributeProto::default() })
    }

    pub(super) fn list(self, name: &str, ints: &[i64]) -> Self {
        let (name, r#type, ints) = (name.to_owned(), attribute_type::INTS, ints.to_vec());
        self.attribute(AttributeProto { name, ints, r#type, ..AttributeProto::default() })
    }

    pub(super) fn float_list(self, name: &str, floats: &[f32]) -> Self {
        let (name, r#type, floats) = (name.to_owned(), attribute_type::FLOATS, floats.to_vec());
        self.attribute(AttributeProto { name, floats, r#type, ..AttributeProto::default() })
    }

    pub(super) fn text(self, name: &str, text: &'static str) -> Self {
        let (name, r#type, s) = (name.to_owned(), attribute_type::STRING, Bytes::from_static(text.as_bytes()));
        self.attribute(AttributeProto { name, s, r#type, ..AttributeProto::default() })
    }

    pub(super) fn tensor(self, name: &str, tensor: TensorProto) -> Self {
        let (name, r#type, t) = (name.to_owned(), attribute_type::TENSOR, Some(tensor));
        self.attribute(AttributeProto { name, t, r#type, ..AttributeProto::default() })
    }

    /// Sets the domain of the last node.
    pub(super) fn domain(mut self, domain: &str) -> Self {
        if let Some(node) = self.graph().node.last_mut() {
            domain.clone_into(&mut node.domain);
        }
        self
    }

    /// Names the last node.
    pub(super) fn named(mut self, name: &str) -> Self {
        if let Some(node) = self.graph().node.last_mut() {
            name.clone_into(&mut node.name);
        }
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    pub(super) fn import(&self, dims: &[(&str, usize)]) -> Result<Graph, OnnxError> {
        import(self.bytes(), None, &ImportOptions::with_dims(dims.iter().copied()))
    }

    /// The graph, which must be valid.
    pub(super) fn done(&self, dims: &[(&str, usize)]) -> Graph {
        self.import(dims).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// The op names of a graph, but for constants and inputs.
pub(super) fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().iter().map(|node| node.op.name()).filter(|op| !matches!(*op, "constant" | "input")).collect()
}

pub(super) fn tensor(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(dims, values.to_vec()).expect("as many values as the shape says")
}
