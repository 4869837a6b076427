//! The nodes and initializers of a file under construction, with the names of all values.

use std::collections::{HashMap, HashSet};

use prost::bytes::Bytes;

use crate::onnx::attributes::int_attribute;
use crate::onnx::proto::{
    AttributeProto, DimensionProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, data_type,
};
use crate::onnx::tensor::element_type;
use crate::values::{QParams, Shape, Tensor, TensorQParams};

#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<TensorProto>,
    /// The names of all values.
    taken: HashSet<String>,
    /// For each name that was asked for again, the last number tried, so that a thousand equal names take a thousand steps.
    numbers: HashMap<String, usize>,
    /// The names of the scale and zero point of whole tensors, which a quantize node shares with its dequantize nodes.
    pub(super) scalars: HashMap<(u32, i32, i32), [String; 2]>,
}

impl Writer {
    /// Reserves a name for a value; `false` if another value has it.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.taken.insert(name.to_owned())
    }

    /// The name `wish`, with a number appended if another value has it.
    pub(super) fn unique(&mut self, wish: &str) -> String {
        if self.taken.insert(wish.to_owned()) {
            return wish.to_owned();
        }
        let number = self.numbers.entry(wish.to_owned()).or_default();
        loop {
            *number += 1;
            let name = format!("{wish}.{number}");
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Adds a node with one result.
    pub(super) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[impl AsRef<str>],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| input.as_ref().to_owned()).collect(),
            output: vec![output.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes,
            ..NodeProto::default()
        });
    }

    /// Adds a node that has the name of its result, which is `wish` or `wish` with a number. The name is returned.
    pub(super) fn part(
        &mut self,
        op: &str,
        wish: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.unique(wish);
        self.node(op, &output, inputs, &output, attributes);
        output
    }

    /// Adds a float without axes as an initializer and returns its name.
    pub(super) fn scalar(&mut self, wish: &str, value: f32) -> String {
        self.raw(wish, &[], data_type::FLOAT, value.to_le_bytes().to_vec())
    }

    /// Adds a vector of floats as an initializer and returns its name.
    pub(super) fn floats(&mut self, wish: &str, values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(wish, &[values.len()], data_type::FLOAT, bytes)
    }

    /// Adds floats `[N, 1]` as an initializer and returns its name.
    pub(super) fn column(&mut self, wish: &str, values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(wish, &[values.len(), 1], data_type::FLOAT, bytes)
    }

    /// Adds a vector of `int64`, such as axes or a shape, as an initializer and returns its name.
    pub(super) fn int64s(&mut self, wish: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(wish, &[values.len()], data_type::INT64, bytes)
    }

    /// Adds an initializer and returns its name.
    pub(super) fn tensor(&mut self, wish: &str, tensor: &Tensor) -> String {
        let name = self.unique(wish);
        self.named_tensor(&name, tensor);
        name
    }

    /// Adds an initializer under a name that is reserved for it.
    pub(super) fn named_tensor(&mut self, name: &str, tensor: &Tensor) {
        let bytes: Vec<u8> = match tensor {
            Tensor::F32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Tensor::I8(a) => a.iter().map(|v| v.to_le_bytes()[0]).collect(),
            Tensor::I32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Tensor::I64(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.named(name, tensor.shape(), element_type(tensor.dtype()), bytes);
    }

    /// Adds a quantized value of type `quantized`, such as a zero point, as an initializer and returns its name.
    pub(super) fn quantized_value(&mut self, wish: &str, value: i32, quantized: i32) -> String {
        self.raw(wish, &[], quantized, vec![stored(value, quantized)])
    }

    /// Adds bytes as an initializer of `uint8` and returns its name.
    pub(super) fn bytes(&mut self, wish: &str, dims: &[usize], bytes: Vec<u8>) -> String {
        self.raw(wish, dims, data_type::UINT8, bytes)
    }

    /// Gives the domain of another operator set to the last node of an operator.
    pub(super) fn set_domain(&mut self, op: &str, domain: &str) {
        if let Some(node) = self.nodes.iter_mut().rev().find(|node| node.op_type == op) {
            node.domain = domain.to_owned();
        }
    }

    fn raw(&mut self, wish: &str, dims: &[usize], data_type: i32, bytes: Vec<u8>) -> String {
        let name = self.unique(wish);
        self.named(&name, dims, data_type, bytes);
        name
    }

    fn named(&mut self, name: &str, dims: &[usize], data_type: i32, bytes: Vec<u8>) {
        let dims = dims.iter().map(|&d| int(d)).collect();
        let raw_data = Bytes::from(bytes);
        self.initializers.push(TensorProto { dims, data_type, name: name.to_owned(), raw_data, ..Default::default() });
    }

    /// Adds a QuantizeLinear or DequantizeLinear. Quantized values are of type `quantized`: int8, `uint8`, which are 128 higher than in
    /// the graph, or int32.
    pub(super) fn linear(
        &mut self,
        op: &str,
        name: &str,
        input: &str,
        output: &str,
        qparams: &TensorQParams,
        quantized: i32,
    ) {
        let ([scale, zero_point], attributes) = match qparams {
            TensorQParams::PerTensor(q) if quantized == data_type::INT32 => {
                ([self.scalar(&format!("{output}.scale"), q.scale()), String::new()], Vec::new())
            }
            TensorQParams::PerTensor(q) => (self.scalar_qparams(output, *q, quantized), Vec::new()),
            TensorQParams::PerChannel { channels, ch_axis } => {
                let scales = channels.iter().flat_map(|q| q.scale().to_le_bytes()).collect();
                let zero_points = channels.iter().map(|q| stored(q.zero_point(), quantized)).collect();
                let scale = self.raw(&format!("{output}.scale"), &[channels.len()], data_type::FLOAT, scales);
                let zero_point = match quantized {
                    data_type::INT32 => String::new(),
                    _ => self.raw(&format!("{output}.zero_point"), &[channels.len()], quantized, zero_points),
                };
                ([scale, zero_point], vec![int_attribute("axis", int(*ch_axis))])
            }
            // Layers write the weights of groups themselves, and the check of the graph refuses all others.
            TensorQParams::PerGroup(_) => Default::default(),
        };
        // Quantized values of 32 bits have no zero point.
        let inputs = [input, &scale, &zero_point];
        let inputs = if quantized == data_type::INT32 { &inputs[..2] } else { &inputs[..] };
        self.node(op, name, inputs, output, attributes);
    }

    fn scalar_qparams(&mut self, output: &str, q: QParams, quantized: i32) -> [String; 2] {
        let key = (q.scale().to_bits(), q.zero_point(), quantized);
        if let Some(names) = self.scalars.get(&key) {
            return names.clone();
        }
        let scale = self.scalar(&format!("{output}.scale"), q.scale());
        let zero_point = self.quantized_value(&format!("{output}.zero_point"), q.zero_point(), quantized);
        let names = [scale, zero_point];
        self.scalars.insert(key, names.clone());
        names
    }
}

/// The domain of ONNX Runtime's own operators.
pub(super) const CONTRIB: &str = "com.microsoft";

/// The byte of a quantized value, whose type is int8 or `uint8`.
fn stored(value: i32, quantized: i32) -> u8 {
    (if quantized == data_type::UINT8 { value + 128 } else { value }) as u8
}

/// Writes the nodes of ONNX that one node of the graph becomes. The last of them has the name of the graph's node, the others are called
/// `{node}.{part}`, as their values are.
#[derive(Debug)]
pub(super) struct Parts<'w> {
    pub(super) writer: &'w mut Writer,
    pub(super) name: &'w str,
    /// The name of the value that the node of the graph computes.
    pub(super) output: String,
}

impl Parts<'_> {
    /// A constant float without axes.
    pub(super) fn scalar(&mut self, part: &str, value: f32) -> String {
        self.writer.scalar(&format!("{}.{part}", self.output), value)
    }

    /// A constant vector of `int64`.
    pub(super) fn int64s(&mut self, part: &str, values: &[i64]) -> String {
        self.writer.int64s(&format!("{}.{part}", self.output), values)
    }

    /// A constant vector of floats.
    pub(super) fn floats(&mut self, part: &str, values: &[f32]) -> String {
        self.writer.floats(&format!("{}.{part}", self.output), values)
    }

    pub(super) fn op(&mut self, op: &str, part: &str, inputs: &[impl AsRef<str>]) -> String {
        self.op_with(op, part, inputs, Vec::new())
    }

    pub(super) fn op_with(
        &mut self,
        op: &str,
        part: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.writer.part(op, &format!("{}.{part}", self.output), inputs, attributes)
    }

    pub(super) fn last(self, op: &str, inputs: &[impl AsRef<str>]) {
        self.last_with(op, inputs, Vec::new());
    }

    /// The node that computes the value of the graph's node.
    pub(super) fn last_with(self, op: &str, inputs: &[impl AsRef<str>], attributes: Vec<AttributeProto>) {
        self.writer.node(op, self.name, inputs, &self.output, attributes);
    }
}

/// A length or an axis as `i64`, which holds all of them.
pub(super) fn int(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The declaration of an input or output.
pub(super) fn value_info(name: &str, elem_type: i32, shape: &Shape, batch: &str) -> ValueInfoProto {
    let rows = shape.is_batched().then(|| DimensionProto { dim_value: None, dim_param: Some(batch.to_owned()) });
    let dims = shape.fixed_dims().into_iter().map(|d| DimensionProto { dim_value: Some(int(d)), dim_param: None });
    let shape = Some(TensorShapeProto { dim: rows.into_iter().chain(dims).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}
