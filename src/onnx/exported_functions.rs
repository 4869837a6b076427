//! Functions that an export defines in its file: dynamic quantization and quantized tables that are no operators of ONNX. Any reader replaces a call by the
//! nodes of the function; the importer knows the functions, and reads a call as what it stands for.
//!
//! Quantized values are `uint8`, 128 higher than in a graph, since ONNX Runtime has fast products of `uint8` with int8 on all processors.
//! The order of operations is that of [`numerics`](crate::numerics), equation 10, so that scales, zero points and quantized values are the
//! same.

use super::attributes::{int_attribute, ints_attribute, tensor_attribute};
use super::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto, data_type as ty};
use crate::values::{Granularity, QScheme, Symmetry};

/// The domain of the functions.
pub(super) const DOMAIN: &str = "enfold";
/// The opset that the functions are written for.
const OPSET: i64 = 17;

/// The function that multiplies values with a scale for each token.
pub(super) const MATMUL: &str = "MatMulPerToken";
/// The function that dequantizes such values.
pub(super) const DEQUANTIZE: &str = "DequantizePerToken";

/// The function that looks up rows of a table of int8 with a scale for each, `[V, 1]`.
pub(super) const ROWS: &str = "EmbeddingPerRow";

/// The functions that quantize, and their schemes. Inputs are the values, the values whose range counts, the smallest and the largest
/// quantized value as floats, and the smallest scale. Outputs are quantized values, scale and zero point.
const QUANTIZE: [(&str, QScheme); 3] = [
    ("DynamicQuantizePerTensor", QScheme::per_tensor_affine()),
    ("DynamicQuantizePerTensorSymmetric", QScheme::per_tensor_symmetric()),
    ("DynamicQuantizePerToken", QScheme::per_token_affine()),
];

/// The name of the function that quantizes by a scheme, of any number of bits.
pub(super) fn quantize_name(qscheme: QScheme) -> Option<&'static str> {
    let is_same = |other: &QScheme| (other.granularity, other.symmetry) == (qscheme.granularity, qscheme.symmetry);
    QUANTIZE.iter().find(|(_, other)| is_same(other)).map(|(name, _)| *name)
}

/// The scheme of a function that quantizes.
pub(super) fn qscheme(name: &str) -> Option<QScheme> {
    QUANTIZE.iter().find(|(other, _)| *other == name).map(|(_, qscheme)| *qscheme)
}

/// One of the functions.
pub(super) fn function(name: &str) -> Option<FunctionProto> {
    let (inputs, outputs, nodes): (&[&str], &[&str], Vec<NodeProto>) = match name {
        MATMUL => (&["x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point"], &["y"], matmul()),
        ROWS => (&["table", "scales", "ids"], &["y"], rows()),
        DEQUANTIZE => (&["x", "x_scale", "x_zero_point"], &["y"], dequantize()),
        _ => {
            let inputs = &["x", "observed", "quant_min", "quant_max", "eps"];
            (inputs, &["values", "scale", "zero_point"], quantize(qscheme(name)?))
        }
    };
    let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Some(FunctionProto {
        name: name.to_owned(),
        domain: DOMAIN.to_owned(),
        input: strings(inputs),
        output: strings(outputs),
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        ..FunctionProto::default()
    })
}

/// A node with one result, after which it is named.
fn node(op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn cast(input: &str, output: &str, to: i32) -> NodeProto {
    node("Cast", &[input], output, vec![int_attribute("to", to.into())])
}

fn constant(output: &str, value: f32) -> NodeProto {
    let value = tensor(Vec::new(), ty::FLOAT, &value.to_le_bytes());
    node("Constant", &[], output, vec![tensor_attribute("value", value)])
}

fn tensor(dims: Vec<i64>, data_type: i32, bytes: &[u8]) -> TensorProto {
    TensorProto { dims, data_type, raw_data: bytes.to_vec().into(), ..TensorProto::default() }
}

/// The float 128, by which `uint8` is higher than int8.
fn offset() -> NodeProto {
    constant("offset", 128.0)
}

fn quantize(QScheme { granularity, symmetry, .. }: QScheme) -> Vec<NodeProto> {
    let plain = |op_type: &str, inputs: &[&str], output: &str| node(op_type, inputs, output, Vec::new());
    let per_token = matches!(granularity, Granularity::Token);
    let axes = per_token.then(|| ints_attribute("axes", vec![-1]));
    let reduced: Vec<_> = axes.into_iter().chain([int_attribute("keepdims", per_token.into())]).collect();
    let mut nodes = vec![
        constant("zero", 0.0),
        constant("one", 1.0),
        offset(),
        node("ReduceMin", &["observed"], "smallest", reduced.clone()),
        node("ReduceMax", &["observed"], "largest", reduced),
        plain("Min", &["smallest", "zero"], "min"),
        plain("Max", &["largest", "zero"], "max"),
        plain("Sub", &["quant_max", "quant_min"], "range"),
    ];
    if matches!(symmetry, Symmetry::Symmetric) {
        nodes.extend([
            plain("Neg", &["min"], "negated"),
            plain("Max", &["negated", "max"], "span"),
            constant("two", 2.0),
            plain("Div", &["range", "two"], "steps"),
        ]);
    } else {
        nodes.extend([plain("Sub", &["max", "min"], "span"), plain("Identity", &["range"], "steps")]);
    }
    nodes.extend([
        plain("Div", &["span", "steps"], "step"),
        plain("Max", &["step", "eps"], "scale"),
        plain("Div", &["one", "scale"], "inv_scale"),
    ]);
    match (symmetry, per_token) {
        (Symmetry::Symmetric, _) => nodes.push(plain("Identity", &["zero"], "signed_zero_point")),
        // The zero point from the end of the range whose error is smaller.
        (_, true) => nodes.extend([
            plain("Div", &["min", "scale"], "low"),
            plain("Div", &["max", "scale"], "high"),
            plain("Sub", &["quant_min", "low"], "from_low"),
            plain("Sub", &["quant_max", "high"], "from_high"),
            plain("Add", &["quant_min", "low"], "off_low"),
            plain("Add", &["quant_max", "high"], "off_high"),
            plain("Add", &["off_low", "off_high"], "off"),
            plain("Greater", &["off", "zero"], "is_low"),
            plain("Where", &["is_low", "from_low", "from_high"], "either"),
            plain("Clip", &["either", "quant_min", "quant_max"], "clipped"),
            plain("Round", &["clipped"], "signed_zero_point"),
        ]),
        (_, false) => nodes.extend([
            plain("Div", &["min", "scale"], "low"),
            plain("Round", &["low"], "rounded_low"),
            plain("Sub", &["quant_min", "rounded_low"], "from_low"),
            plain("Clip", &["from_low", "quant_min", "quant_max"], "signed_zero_point"),
        ]),
    }
    // Rounded values beyond 2²⁴, which a sum rounds again, are beyond the range anyway.
    nodes.extend([
        plain("Add", &["signed_zero_point", "offset"], "shift"),
        cast("shift", "zero_point", ty::UINT8),
        plain("Add", &["quant_min", "offset"], "lowest"),
        plain("Add", &["quant_max", "offset"], "highest"),
        plain("Mul", &["x", "inv_scale"], "multiplied"),
        plain("Round", &["multiplied"], "rounded"),
        plain("Add", &["rounded", "shift"], "shifted"),
        plain("Clip", &["shifted", "lowest", "highest"], "limited"),
        cast("limited", "values", ty::UINT8),
    ]);
    nodes
}

/// A product of values with a zero point for each token, and values with one for the tensor. ONNX Runtime's products read one zero point
/// only, so the part of the others is subtracted from the sums. Sums of a weight are constants, which ONNX Runtime computes when it loads
/// the file.
fn matmul() -> Vec<NodeProto> {
    let plain = |op_type: &str, inputs: &[&str], output: &str| node(op_type, inputs, output, Vec::new());
    let axis = tensor(vec![1], ty::INT64, &(-2i64).to_le_bytes());
    vec![
        plain("MatMulInteger", &["x", "w", "", "w_zero_point"], "products"),
        node("Constant", &[], "axis", vec![tensor_attribute("value", axis)]),
        cast("w", "wide", ty::INT32),
        cast("w_zero_point", "zero_point", ty::INT32),
        plain("Sub", &["wide", "zero_point"], "signed"),
        node("ReduceSum", &["signed", "axis"], "sums", vec![int_attribute("keepdims", 1)]),
        cast("x_zero_point", "zero_points", ty::INT32),
        plain("Mul", &["zero_points", "sums"], "of_zero_points"),
        plain("Sub", &["products", "of_zero_points"], "difference"),
        cast("difference", "accumulators", ty::FLOAT),
        plain("Mul", &["accumulators", "x_scale"], "scaled"),
        plain("Mul", &["scaled", "w_scale"], "y"),
    ]
}

fn dequantize() -> Vec<NodeProto> {
    let plain = |op_type: &str, inputs: &[&str], output: &str| node(op_type, inputs, output, Vec::new());
    vec![
        cast("x", "values", ty::FLOAT),
        cast("x_zero_point", "zero_points", ty::FLOAT),
        plain("Sub", &["values", "zero_points"], "difference"),
        plain("Mul", &["difference", "x_scale"], "y"),
    ]
}

/// Only the rows that are looked up are dequantized.
fn rows() -> Vec<NodeProto> {
    let axis = || vec![int_attribute("axis", 0)];
    vec![
        node("Gather", &["table", "ids"], "values", axis()),
        cast("values", "floats", ty::FLOAT),
        node("Gather", &["scales", "ids"], "of_rows", axis()),
        node("Mul", &["floats", "of_rows"], "y", Vec::new()),
    ]
}
