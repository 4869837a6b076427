//! Writes models with inputs and the interpreter's outputs, to compare ONNX Runtime with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use enfold::graph::{Node, NodeId};
use enfold::interp::Interpreter;
use enfold::onnx::{ExportOptions, Preset, save};
use enfold::ops::{Dequantize, Op};
use enfold::quantize::{
    ConvertOptions, QuantizationConfig, QuantizationSpec, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::{DType, QuantRange, TensorQParams};
use enfold::{Graph, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::nets::{self, Net};
use crate::random::Random;

/// A way to quantize.
pub(super) struct Variant {
    pub(super) name: &'static str,
    config: QuantizationConfig,
    pub(super) preset: Preset,
    fold_quantize: bool,
}

pub(super) fn variants() -> Vec<Variant> {
    let range = |lo, hi| QuantRange::new(lo, hi).expect("valid");
    let symmetric = QuantizationConfig::symmetric;
    let variant = |name, config| Variant { name, config, preset: Preset::OnnxRuntime, fold_quantize: true };
    let mut four_bits = symmetric().per_channel().weight_range(range(-7, 7));
    if let Some(QuantizationSpec::Observed(weight)) = &mut four_bits.weight {
        weight.eps = 1e-12;
    }
    vec![
        variant("per_channel", symmetric().per_channel()),
        variant("per_tensor", symmetric()),
        variant("four_bits", four_bits),
        variant("seven_bit_weights", symmetric().per_channel().weight_range(range(-63, 63))),
        variant("seven_bit_activations", symmetric().per_channel().activation_range(range(-64, 63))),
        Variant { fold_quantize: false, ..variant("not_folded", symmetric().per_channel()) },
        Variant { preset: Preset::TensorRt, ..variant("tensorrt", symmetric().per_channel().symmetric_activations()) },
        variant("dynamic", symmetric().per_channel().dynamic()),
        variant("dynamic_symmetric", symmetric().symmetric_activations().dynamic()),
        variant("dynamic_seven_bits", symmetric().per_channel().activation_range(range(-64, 63)).dynamic()),
        variant("per_token", symmetric().per_channel().dynamic_per_token()),
    ]
}

/// Weights in groups, whose last may be shorter, with activations quantized statically or for each row.
fn group_variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for (size, names) in [
        (32, ["groups_32", "groups_32_asymmetric"]),
        (64, ["groups_64", "groups_64_asymmetric"]),
        (128, ["groups_128", "groups_128_asymmetric"]),
    ] {
        for (asymmetric, name) in [false, true].into_iter().zip(names) {
            let config = QuantizationConfig::symmetric().weight_bits(4).weight_group(size);
            let config = if asymmetric { config.asymmetric_weights() } else { config };
            let config = if size == 64 { config } else { config.dynamic_per_token() };
            variants.push(Variant { name, config, preset: Preset::OnnxRuntime, fold_quantize: true });
        }
    }
    variants
}

pub(super) fn quantize(net: &Net, variant: &Variant) -> Graph {
    let mut quantizer = WgpuQuantizer::new().set_global(variant.config.clone()).quantize_matmul(true);
    if net.name == "encoder" {
        // Scores are not quantized: −1e9, which masks tokens, would set a scale at which all other scores are 0.
        quantizer = quantizer.set_module_name("attention.masked", None).set_module_name("mask", None);
    }
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    let mut random = Random::new(11);
    for _ in 0..4 {
        prepared.observe(&net.batch(&mut random, 8)).expect("observed");
    }
    let options = ConvertOptions { fold_quantize: variant.fold_quantize, ..Default::default() };
    convert(&prepared, &options).expect("converted")
}

/// The scale of an output that is quantized, or that operators which move quantized values give.
fn step(graph: &Graph, mut id: NodeId) -> Option<f32> {
    loop {
        let node = graph.node(id);
        match &node.op {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(q) }) => return Some(q.scale()),
            Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) | Op::Max(_) | Op::Slice(_) => {
                id = node.inputs[0];
            }
            _ => return None,
        }
    }
}

fn write(directory: &Path, name: &str, graph: &Graph, net: &Net, preset: Preset) {
    let path = directory.join(format!("{name}.onnx"));
    save(graph, &path, &ExportOptions { preset, ..ExportOptions::default() }).unwrap_or_else(|e| panic!("{name}: {e}"));
    let integers = to_integer(graph).unwrap_or_else(|e| panic!("{name}: {e}"));
    // ONNX Runtime's operator for weights in groups multiplies floats.
    let is_float_product = |node: &&Node| matches!(node.op, Op::Linear(_) | Op::MatMul(_) | Op::IntegerLinearGroups(_));
    let float_products = integers.nodes().iter().filter(is_float_product).count();
    let interpreter = Interpreter::new(graph);
    let mut random = Random::new(23);
    // The file leaves the batch open.
    for (case, rows) in [32, 1].into_iter().enumerate() {
        let inputs = net.batch(&mut random, rows);
        let outputs = interpreter.run(&inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        let mut metadata = HashMap::from([("float_products".to_owned(), float_products.to_string())]);
        for (id, value) in graph.inputs().iter().zip(&inputs) {
            tensors.push((format!("in.{}", graph.node(*id).name), value));
        }
        let fed: Vec<_> = graph.inputs().iter().copied().zip(&inputs).collect();
        let quantizes = |id: &NodeId| {
            let node = graph.node(*id);
            let constant = |id: &NodeId| matches!(interpreter.constant_value(*id), Ok(Some(_)));
            matches!(node.op, Op::Quantize(_)) && !constant(id)
        };
        let codes: Vec<NodeId> = graph.iter().map(|(id, _)| id).filter(quantizes).collect();
        let values = interpreter.run_nodes(&fed, &codes).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (id, value) in codes.iter().zip(&values) {
            tensors.push((format!("code.{}", graph.node(*id).name), value));
        }
        for (at, (id, value)) in graph.outputs().iter().zip(&outputs).enumerate() {
            // The outputs are in the order of the graph's outputs.
            tensors.push((format!("out.{at}"), value));
            if let Some(step) = step(graph, *id) {
                metadata.insert(format!("step.{at}"), step.to_string());
            }
        }
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, tensor)| bytes(tensor)).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let dtype = match tensor.dtype() {
                DType::F32 => Dtype::F32,
                DType::I8 => Dtype::I8,
                DType::I32 => Dtype::I32,
                DType::I64 => Dtype::I64,
            };
            (name, TensorView::new(dtype, tensor.shape().to_vec(), bytes).expect("lengths fit"))
        });
        let file = safetensors::serialize(views, Some(metadata.into_iter().collect())).expect("a file");
        std::fs::write(directory.join(format!("{name}.{case}.safetensors")), file).expect("written");
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor {
        Tensor::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I8(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The folder that `tests/onnx/check_with_onnxruntime.py` reads, below `target/onnxruntime`.
#[test]
#[ignore = "writes files for tests/onnx/check_with_onnxruntime.py, which runs it"]
fn write_models_for_onnxruntime() {
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/onnxruntime");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a folder");
    let mut written = 0;
    for net in nets::all() {
        write(&directory, &format!("{}.float", net.name), &net.graph, &net, Preset::OnnxRuntime);
        written += 1;
        for variant in variants() {
            // With its option against saturation, ONNX Runtime 1.32 refuses a weight that two layers share.
            if net.name == "tied" && variant.name != "four_bits" {
                continue;
            }
            let graph = quantize(&net, &variant);
            write(&directory, &format!("{}.{}", net.name, variant.name), &graph, &net, variant.preset);
            written += 1;
        }
    }
    let net = nets::grouped();
    for variant in group_variants() {
        let graph = quantize(&net, &variant);
        write(&directory, &format!("{}.{}", net.name, variant.name), &graph, &net, variant.preset);
        written += 1;
    }
    assert!(written > 50, "{written} models");
}
