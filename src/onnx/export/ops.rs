//! One node of a graph after the other as nodes of ONNX.

use std::collections::HashMap;

use super::ExportOptions;
use super::dynamic::Parameters;
use super::writer::{Parts, Writer, float_attribute, int, int_attribute, ints_attribute, value_info};
use crate::graph::{Graph, Node, NodeId};
use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, data_type};
use crate::onnx::tensor::{element_type, numbers, type_name};
use crate::ops::{
    Add, AddScalar, BatchNorm, Binary, BinaryOp, ChooseQParams, Clamp, Concat, Dequantize, DequantizeDynamic, Div,
    Embedding, Input, Int32, LayerNorm, Linear, MatMul, Max, Mul, MulScalar, Op, Quantize, Slice, Softmax, Sum,
    ToFloat, ToInteger, Transpose, Unary, UnaryOp, Where,
};
use crate::values::{DType, QuantRange, Shape, TensorQParams};

/// The version of the set of operators.
const OPSET: i64 = 17;
/// The version of the format, the first to have that set.
const IR_VERSION: i64 = 8;

/// A graph on its way to a file; `check` has admitted it.
#[derive(Debug)]
pub(super) struct Exporter<'g> {
    pub(super) graph: &'g Graph,
    pub(super) options: &'g ExportOptions,
    pub(super) writer: Writer,
    /// The name of each node's value.
    names: Vec<String>,
    /// Whether that value is there; constants are written when first read.
    written: Vec<bool>,
    /// Weights that were written transposed.
    pub(super) transposed: HashMap<NodeId, String>,
    /// What each choice of parameters became.
    pub(super) parameters: HashMap<NodeId, Parameters>,
}

/// The number of a type by its name; none for a name that is none.
fn declared(name: Option<&String>) -> Option<i32> {
    numbers().find(|(_, known)| Some(known) == name).map(|(number, _)| number)
}

impl<'g> Exporter<'g> {
    pub(super) fn new(graph: &'g Graph, options: &'g ExportOptions) -> Self {
        let nodes = graph.nodes().len();
        Self {
            graph,
            options,
            writer: Writer::default(),
            names: vec![String::new(); nodes],
            written: vec![false; nodes],
            transposed: HashMap::new(),
            parameters: HashMap::new(),
        }
    }

    /// Writes the nodes that are needed.
    pub(super) fn run(mut self, needed: &[bool]) -> ModelProto {
        let outputs = self.assign_names();
        let mut graph = GraphProto { name: "enfold".to_owned(), ..Default::default() };
        let batch = &self.options.batch;
        for &id in self.graph.inputs() {
            let node = self.graph.node(id);
            let elem_type = self.input_type(node);
            graph.input.push(value_info(&node.name, elem_type, &node.shape, batch));
        }
        for (id, node) in self.graph.iter() {
            if needed[id.index()] && !self.is_constant(id) {
                self.write(id, node);
                self.written[id.index()] = true;
            }
        }
        let mut declared = self.output_types().into_iter();
        for (&id, output) in self.graph.outputs().iter().zip(&outputs) {
            let value = self.value(id);
            let node = self.graph.node(id);
            let elem_type = declared.next().flatten();
            if let Some(to) = elem_type {
                self.writer.node("Cast", output, &[&value], output, vec![int_attribute("to", to.into())]);
            } else if value != *output {
                self.writer.node("Identity", output, &[&value], output, Vec::new());
            }
            let elem_type = elem_type.unwrap_or_else(|| element_type(node.dtype));
            graph.output.push(value_info(output, elem_type, &node.shape, batch));
        }
        graph.node = self.writer.nodes;
        graph.initializer = self.writer.initializers;
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: self.options.producer.clone(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            functions: Vec::new(),
        }
    }

    /// The type that an input is declared in: that of the file which the graph comes from, else its own, and of ids `int64`, as
    /// tokenizers make them.
    fn input_type(&self, node: &Node) -> i32 {
        let own = if node.dtype == DType::I32 { data_type::INT64 } else { element_type(node.dtype) };
        declared(self.graph.declared_types().inputs.get(&node.name)).unwrap_or(own)
    }

    /// Of each output the type that it is cast to, if it is.
    fn output_types(&self) -> Vec<Option<i32>> {
        let types = &self.graph.declared_types().outputs;
        self.graph.output_names().iter().map(|name| declared(types.get(name))).collect()
    }

    /// Whether an input is declared in another type than that of its node.
    fn is_cast(&self, node: &Node) -> bool {
        node.op == Op::Input(Input) && self.input_type(node) != element_type(node.dtype)
    }

    /// Names all values: inputs first, then outputs, which a node of the same name must give way to. The names of outputs.
    fn assign_names(&mut self) -> Vec<String> {
        for &id in self.graph.inputs() {
            self.writer.take(&self.graph.node(id).name);
        }
        let mut outputs = Vec::new();
        let types = self.output_types();
        for ((&id, wish), cast) in self.graph.outputs().iter().zip(self.graph.output_names()).zip(types) {
            let free = self.writer.take(wish);
            let name = if free { wish.clone() } else { self.writer.unique(&self.graph.node(id).name) };
            // What a node computes can have the name at once; anything else is passed on to it at the end.
            if cast.is_none() && !self.is_constant(id) && self.graph.node(id).op != Op::Input(Input) {
                self.names[id.index()].clone_from(&name);
            }
            outputs.push(name);
        }
        for (id, node) in self.graph.iter() {
            if !self.names[id.index()].is_empty() {
                continue;
            }
            self.names[id.index()] = match node.op {
                // Ids are cast to what the graph takes, under another name, and so is what is declared otherwise.
                Op::Input(Input) if self.is_cast(node) => {
                    let of = type_name(element_type(node.dtype));
                    self.writer.unique(&format!("{}.{of}", node.name))
                }
                Op::Input(Input) => node.name.clone(),
                _ => self.writer.unique(&node.name),
            };
        }
        outputs
    }

    /// The name of a node's value, whether it is there yet or not.
    pub(super) fn name(&self, id: NodeId) -> &str {
        &self.names[id.index()]
    }

    /// Gives a node's value the name of another.
    pub(super) fn rename(&mut self, id: NodeId, name: String) {
        self.names[id.index()] = name;
    }

    /// The name of a node's value, which is written first if it is a constant.
    pub(super) fn value(&mut self, id: NodeId) -> String {
        if !self.written[id.index()] && self.is_constant(id) {
            self.written[id.index()] = true;
            self.write_constant(id);
        }
        self.names[id.index()].clone()
    }

    /// Whether a node's value is there.
    pub(super) fn is_written(&self, id: NodeId) -> bool {
        self.written[id.index()]
    }

    fn write(&mut self, id: NodeId, node: &'g Node) {
        match &node.op {
            Op::Input(Input) if self.is_cast(node) => {
                let to = int_attribute("to", element_type(node.dtype).into());
                let output = self.names[id.index()].clone();
                self.writer.node("Cast", &output, &[&node.name], &output, vec![to]);
            }
            Op::Input(Input) | Op::Constant(_) => {}
            Op::Linear(Linear) => self.linear(id, node),
            Op::ChooseQParams(ChooseQParams { qscheme, range, eps }) => self.choose(id, *qscheme, *range, *eps),
            Op::QuantizeDynamic(_) => self.quantize_dynamic(id),
            Op::DequantizeDynamic(DequantizeDynamic) => self.dequantize_dynamic(id),
            _ => {
                let product = node.op == Op::MatMul(MatMul);
                let mut value = |&input| if product { self.factor(input) } else { self.value(input) };
                let inputs: Vec<String> = node.inputs.iter().map(&mut value).collect();
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let output = self.names[id.index()].clone();
                self.simple(node, &inputs, &output);
            }
        }
    }

    /// A Gemm, which reads the weight as it is; beyond two axes, and of what is quantized dynamically, a MatMul, which wants it
    /// transposed: ONNX Runtime has integer kernels for that form alone.
    fn linear(&mut self, id: NodeId, node: &Node) {
        let (x, w) = (self.value(node.inputs[0]), node.inputs[1]);
        let output = self.names[id.index()].clone();
        let of = self.graph.node(node.inputs[0]);
        if of.shape.rank() == 2 && of.op != Op::DequantizeDynamic(DequantizeDynamic) {
            let inputs: Vec<String> = [x, self.factor(w)].into_iter().chain(self.bias(id)).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            self.writer.node("Gemm", &node.name, &inputs, &output, vec![int_attribute("transB", 1)]);
            return;
        }
        let w = self.transposed(w);
        if node.inputs.len() < 3 {
            self.writer.node("MatMul", &node.name, &[&x, &w], &output, Vec::new());
            return;
        }
        // The sum is a node of its own here, in float: a bias of codes would fuse to nothing.
        let bias = self.value(node.inputs[2]);
        let product = self.writer.part("MatMul", &format!("{output}.product"), &[&x, &w], Vec::new());
        self.writer.node("Add", &node.name, &[&product, &bias], &output, Vec::new());
    }

    /// An op that reads nothing but the values of its inputs.
    fn simple(&mut self, node: &Node, inputs: &[&str], output: &str) {
        let x = inputs[0];
        let name = &node.name;
        let rank = |at: usize| self.graph.node(node.inputs[at]).shape.rank();
        let axis = |at: usize| vec![int_attribute("axis", int(at))];
        match &node.op {
            Op::MatMul(MatMul) => self.writer.node("MatMul", name, inputs, output, Vec::new()),
            Op::Add(Add) => self.writer.node("Add", name, inputs, output, Vec::new()),
            Op::Mul(Mul) => self.writer.node("Mul", name, inputs, output, Vec::new()),
            Op::Div(Div) => self.writer.node("Div", name, inputs, output, Vec::new()),
            Op::Where(Where) => {
                let mut parts = Parts { writer: &mut self.writer, node: output };
                let zero = parts.scalar("zero", 0.0);
                let is_zero = parts.op("Equal", "is_zero", &[x, &zero]);
                self.writer.node("Where", name, &[&is_zero, inputs[2], inputs[1]], output, Vec::new());
            }
            Op::AddScalar(AddScalar { value }) => self.with_scalar("Add", name, x, *value, output),
            Op::MulScalar(MulScalar { value }) => self.with_scalar("Mul", name, x, *value, output),
            Op::Unary(Unary { op }) => self.unary(*op, name, x, output),
            Op::Binary(Binary { op }) => self.binary(*op, name, inputs, output),
            Op::Clamp(Clamp { min, max }) => self.clip(name, x, [*min, *max], output),
            Op::ToFloat(ToFloat) => {
                self.writer.node("Cast", name, inputs, output, vec![int_attribute("to", data_type::FLOAT.into())]);
            }
            Op::ToInteger(ToInteger { to }) => self.cast_to(node, *to, x, output),
            Op::Int32(Int32 { op, .. }) => self.int32(*op, name, inputs, output),
            Op::Reshape(_) | Op::Flatten(_) => self.reshape(name, x, &node.shape, output),
            Op::Transpose(Transpose { perm }) => {
                let perm = ints_attribute("perm", perm.iter().map(|&axis| int(axis)).collect());
                self.writer.node("Transpose", name, inputs, output, vec![perm]);
            }
            Op::Concat(Concat { axis: at }) => self.writer.node("Concat", name, inputs, output, axis(*at)),
            Op::Slice(Slice { axis, start, end }) => {
                let [start, end, axis] = [("start", start), ("end", end), ("axis", axis)]
                    .map(|(what, n)| self.writer.int64s(&format!("{output}.{what}"), &[int(*n)]));
                self.writer.node("Slice", name, &[x, &start, &end, &axis], output, Vec::new());
            }
            Op::Max(Max { axis }) => {
                let attributes = vec![ints_attribute("axes", vec![int(*axis)]), int_attribute("keepdims", 0)];
                self.writer.node("ReduceMax", name, inputs, output, attributes);
            }
            Op::Sum(Sum { axis, .. }) => {
                let axes = self.writer.int64s(&format!("{output}.axes"), &[int(*axis)]);
                self.writer.node("ReduceSum", name, &[x, &axes], output, vec![int_attribute("keepdims", 0)]);
            }
            Op::Softmax(Softmax { axis: at }) => self.writer.node("Softmax", name, inputs, output, axis(*at)),
            Op::LayerNorm(LayerNorm { eps }) => {
                let mut attributes = axis(rank(0) - rank(1));
                attributes.push(float_attribute("epsilon", *eps));
                self.writer.node("LayerNormalization", name, inputs, output, attributes);
            }
            Op::BatchNorm(BatchNorm { eps }) => {
                let &[x, mean, variance, weight, bias] = inputs else { return };
                let inputs = [x, weight, bias, mean, variance];
                self.writer.node("BatchNormalization", name, &inputs, output, vec![float_attribute("epsilon", *eps)]);
            }
            Op::Embedding(Embedding) => self.writer.node("Gather", name, &[inputs[1], x], output, axis(0)),
            Op::Quantize(Quantize { qparams, range }) => self.quantize(name, x, qparams, *range, output),
            Op::Dequantize(Dequantize { qparams }) => {
                let codes = self.graph.node(node.inputs[0]).dtype;
                self.writer.linear("DequantizeLinear", name, x, output, qparams, codes);
            }
            // The others are written elsewhere, or were refused.
            _ => {}
        }
    }

    /// Codes beyond `range` do not occur: the value is clipped to what the outermost codes stand for.
    fn quantize(&mut self, name: &str, x: &str, qparams: &TensorQParams, range: QuantRange, output: &str) {
        let mut x = x.to_owned();
        if let TensorQParams::PerTensor(q) = qparams
            && range != QuantRange::INT8
        {
            let bounds = [range.quant_min(), range.quant_max()].map(|code| (code - q.zero_point()) as f32 * q.scale());
            let clipped = self.writer.unique(&format!("{output}.clip"));
            self.clip(&clipped, &x, bounds, &clipped);
            x = clipped;
        }
        self.writer.linear("QuantizeLinear", name, &x, output, qparams, DType::I8);
    }

    fn with_scalar(&mut self, op: &str, name: &str, x: &str, value: f32, output: &str) {
        let value = self.writer.scalar(&format!("{output}.scalar"), value);
        self.writer.node(op, name, &[x, &value], output, Vec::new());
    }

    /// An infinite bound is left out.
    fn clip(&mut self, name: &str, x: &str, [min, max]: [f32; 2], output: &str) {
        let mut inputs = vec![x.to_owned()];
        for (what, bound) in [("min", min), ("max", max)] {
            let wish = format!("{output}.{what}");
            inputs.push(if bound.is_finite() { self.writer.scalar(&wish, bound) } else { String::new() });
        }
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.writer.node("Clip", name, &inputs, output, Vec::new());
    }

    /// A length of 0 stands for that of the input, which has `rows` in front too.
    fn reshape(&mut self, name: &str, x: &str, shape: &Shape, output: &str) {
        let rows = shape.is_batched().then_some(0);
        let dims: Vec<i64> = rows.into_iter().chain(shape.fixed_dims().iter().map(|&d| int(d))).collect();
        let dims = self.writer.int64s(&format!("{output}.shape"), &dims);
        self.writer.node("Reshape", name, &[x, &dims], output, Vec::new());
    }

    fn unary(&mut self, op: UnaryOp, name: &str, x: &str, output: &str) {
        let plain = match op {
            UnaryOp::Relu => "Relu",
            UnaryOp::Sigmoid => "Sigmoid",
            UnaryOp::Tanh => "Tanh",
            UnaryOp::Sqrt => "Sqrt",
            UnaryOp::Exp => "Exp",
            UnaryOp::Log => "Log",
            UnaryOp::Erf => "Erf",
            UnaryOp::Abs => "Abs",
            UnaryOp::Sign => "Sign",
            UnaryOp::Sin => "Sin",
            UnaryOp::Cos => "Cos",
            UnaryOp::Round => "Round",
            UnaryOp::Floor => "Floor",
            UnaryOp::Ceil => "Ceil",
            UnaryOp::IsNan => {
                let is_nan = Parts { writer: &mut self.writer, node: output }.op("IsNaN", "is_nan", &[x]);
                let to = int_attribute("to", data_type::FLOAT.into());
                return self.writer.node("Cast", name, &[&is_nan], output, vec![to]);
            }
            UnaryOp::Gelu => return self.gelu(name, x, output),
            UnaryOp::GeluTanh => return self.gelu_tanh(name, x, output),
            UnaryOp::Silu => {
                let mut parts = Parts { writer: &mut self.writer, node: output };
                let sigmoid = parts.op("Sigmoid", "sigmoid", &[x]);
                return self.writer.node("Mul", name, &[x, &sigmoid], output, Vec::new());
            }
            UnaryOp::Step => {
                let mut parts = Parts { writer: &mut self.writer, node: output };
                let zero = parts.scalar("zero", 0.0);
                let greater = parts.op("Greater", "greater", &[x, &zero]);
                let to = int_attribute("to", data_type::FLOAT.into());
                return self.writer.node("Cast", name, &[&greater], output, vec![to]);
            }
            UnaryOp::RoundF16 => return self.rounding(data_type::FLOAT16, name, x, output),
            UnaryOp::RoundBf16 => return self.rounding(data_type::BFLOAT16, name, x, output),
        };
        self.writer.node(plain, name, &[x], output, Vec::new());
    }

    /// There and back.
    fn rounding(&mut self, narrow: i32, name: &str, x: &str, output: &str) {
        let to = |data_type: i32| vec![int_attribute("to", data_type.into())];
        let rounded = Parts { writer: &mut self.writer, node: output }.op_with("Cast", "rounded", &[x], to(narrow));
        self.writer.node("Cast", name, &[&rounded], output, to(data_type::FLOAT));
    }

    /// Comparisons are booleans in ONNX, and numbers here.
    fn binary(&mut self, op: BinaryOp, name: &str, inputs: &[&str], output: &str) {
        let compared = match op {
            BinaryOp::Maximum => return self.writer.node("Max", name, inputs, output, Vec::new()),
            BinaryOp::Minimum => return self.writer.node("Min", name, inputs, output, Vec::new()),
            BinaryOp::Equal => "Equal",
            BinaryOp::Less => "Less",
            BinaryOp::LessOrEqual => "LessOrEqual",
        };
        let mut parts = Parts { writer: &mut self.writer, node: output };
        let holds = parts.op(compared, "holds", inputs);
        let to = int_attribute("to", data_type::FLOAT.into());
        self.writer.node("Cast", name, &[&holds], output, vec![to]);
    }

    /// `(x · (1 + erf(x / √2))) · 0.5`, in the order that ONNX Runtime looks for.
    fn gelu(&mut self, name: &str, x: &str, output: &str) {
        let mut parts = Parts { writer: &mut self.writer, node: output };
        let root = parts.scalar("sqrt_2", std::f32::consts::SQRT_2);
        let one = parts.scalar("one", 1.0);
        let half = parts.scalar("half", 0.5);
        let divided = parts.op("Div", "divided", &[x, &root]);
        let erf = parts.op("Erf", "erf", &[&divided]);
        let sum = parts.op("Add", "sum", &[&erf, &one]);
        let product = parts.op("Mul", "product", &[x, &sum]);
        self.writer.node("Mul", name, &[&product, &half], output, Vec::new());
    }

    /// `(x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))) · 0.5`.
    fn gelu_tanh(&mut self, name: &str, x: &str, output: &str) {
        let mut parts = Parts { writer: &mut self.writer, node: output };
        let three = parts.scalar("three", 3.0);
        let cubic = parts.scalar("cubic", 0.044_715);
        let root = parts.scalar("sqrt_2_over_pi", (2.0 / std::f64::consts::PI).sqrt() as f32);
        let one = parts.scalar("one", 1.0);
        let half = parts.scalar("half", 0.5);
        let cube = parts.op("Pow", "cube", &[x, &three]);
        let scaled = parts.op("Mul", "scaled_cube", &[&cube, &cubic]);
        let inner = parts.op("Add", "inner", &[x, &scaled]);
        let argument = parts.op("Mul", "argument", &[&inner, &root]);
        let tanh = parts.op("Tanh", "tanh", &[&argument]);
        let sum = parts.op("Add", "sum", &[&tanh, &one]);
        let product = parts.op("Mul", "product", &[x, &sum]);
        self.writer.node("Mul", name, &[&product, &half], output, Vec::new());
    }
}
