//! The float networks of the cases, and their quantizers.

use std::collections::HashMap;

use enfold::graph::{GraphError, NodeId};
use enfold::numerics::EPS;
use enfold::ops::{Linear, Op, Unary, UnaryOp};
use enfold::quantize::{
    Annotations, ComposableQuantizer, ConvertOptions, DerivedRule, DerivedSpec, EdgeOrNode, FixedQParamsSpec,
    ObservedSpec, ObserverKind, PrepareError, QuantizationAnnotation, QuantizationConfig, QuantizationSpec, Quantizer,
    WgpuQuantizer, convert, prepare,
};
use enfold::values::{QParams, QScheme, QuantRange};
use enfold::{Graph, GraphBuilder, Shape};

use super::file::Golden;

/// The float network of a case.
pub(crate) fn float_graph(golden: &Golden) -> Result<Graph, String> {
    let mut g = Layers { golden, builder: GraphBuilder::new(), error: None, shared: HashMap::new() };
    let x = golden.tensor("in.x")?;
    let x = g.builder.input("x", Shape::batched(&x.shape()[1..])).map_err(|e| e.to_string())?;
    let images = golden.kind.starts_with("conv");
    let y = match golden.text("model")? {
        model if images => super::images::network(&mut g, model, x).ok_or_else(|| format!("unknown model {model}"))?,
        "mlp" => {
            let layers = golden.int("layers")?;
            let mut h = x;
            for i in 0..layers {
                h = g.linear(&format!("fc.{i}"), h);
                if i + 1 < layers || golden.flag("last_relu")? {
                    h = g.add(|b| b.relu(&format!("relu.{i}"), h));
                }
            }
            h
        }
        "residual" => {
            let h = g.linear("up", x);
            let h = g.add(|b| b.relu("relu", h));
            let h = g.linear("down", h);
            let h = g.add(|b| b.add("add", x, h));
            g.linear("head", h)
        }
        "gate" => {
            let (up, gate) = (g.linear("up", x), g.linear("gate", x));
            let gate = g.add(|b| b.sigmoid("sigmoid", gate));
            let h = g.add(|b| b.mul("mul", up, gate));
            g.linear("down", h)
        }
        "cat" => {
            let a = g.linear("a", x);
            let a = g.add(|b| b.relu("relu", a));
            let b = g.linear("b", x);
            let h = g.add(|g| g.concat("cat", &[a, b], 1));
            g.linear("head", h)
        }
        "views" => {
            let h = g.linear("a", x);
            let h = g.add(|b| b.relu("relu", h));
            let h = g.add(|b| b.flatten("flatten", h, 1));
            g.linear("b", h)
        }
        "add_relu" => {
            let (a, b) = (g.linear("a", x), g.linear("b", x));
            let h = g.add(|g| g.add("add", a, b));
            let h = g.add(|g| g.relu("relu", h));
            g.add(|g| g.add_scalar("add_1", h, 0.5))
        }
        "tied" => {
            let h = g.linear("fc", x);
            let h = g.add(|b| b.relu("relu", h));
            let (w, bias) = g.shared["fc"];
            g.add(|b| b.linear_nodes("fc_1", h, w, bias))
        }
        "transformer_ffn" => {
            let (w, b) = (golden.tensor("param.norm.weight")?.clone(), golden.tensor("param.norm.bias")?.clone());
            let h = g.add(|g| g.layer_norm("norm", x, w, b, 1e-5));
            let h = g.linear("up", h);
            let h = g.add(|b| b.gelu("gelu", h));
            let h = g.linear("down", h);
            g.add(|b| b.add("add", x, h))
        }
        other => return Err(format!("unknown model {other}")),
    };
    match g.error {
        Some(error) => Err(error),
        None => g.builder.finish([y]).map_err(|e| e.to_string()),
    }
}

/// Keeps the first error, so that a network reads as one.
pub(super) struct Layers<'g> {
    pub(super) golden: &'g Golden,
    builder: GraphBuilder,
    error: Option<String>,
    /// Weight and bias of each layer.
    shared: HashMap<String, (NodeId, Option<NodeId>)>,
}

impl Layers<'_> {
    pub(super) fn add(&mut self, node: impl FnOnce(&mut GraphBuilder) -> Result<NodeId, GraphError>) -> NodeId {
        node(&mut self.builder).unwrap_or_else(|e| {
            self.error.get_or_insert(e.to_string());
            // Any node will do, since the error is returned in the end.
            self.builder.input("failed", Shape::rows(1)).expect("an input")
        })
    }

    pub(super) fn linear(&mut self, name: &str, x: NodeId) -> NodeId {
        let golden = self.golden;
        let weight = golden.tensor(&format!("param.{name}.weight"));
        let Ok(weight) = weight.cloned() else {
            self.error.get_or_insert(format!("no weight of {name}"));
            return x;
        };
        let w = self.add(|b| b.constant(&format!("{name}.weight"), weight));
        let bias = golden.tensor(&format!("param.{name}.bias")).ok().cloned();
        let bias = bias.map(|bias| self.add(|b| b.constant(&format!("{name}.bias"), bias)));
        self.shared.insert(name.to_owned(), (w, bias));
        self.add(|b| b.linear_nodes(name, x, w, bias))
    }
}

pub(super) fn config(golden: &Golden) -> Result<QuantizationConfig, String> {
    let mut config = QuantizationConfig::symmetric();
    if golden.flag("per_channel")? {
        config = config.per_channel();
    }
    Ok(match golden.text("mode") {
        Ok("dynamic") => config.dynamic(),
        _ => config,
    })
}

/// The quantizer of a case.
fn quantizer(golden: &Golden) -> Result<Box<dyn Quantizer>, String> {
    let per_channel = || QuantizationConfig::symmetric().per_channel();
    Ok(match golden.text("setting") {
        Err(_) => Box::new(WgpuQuantizer::new().set_global(config(golden)?).xnnpack_compatible(true)),
        Ok("module_name") => Box::new(WgpuQuantizer::new().set_module_name("fc.1", per_channel())),
        Ok("module_type") => Box::new(WgpuQuantizer::new().set_module_type("Linear", per_channel())),
        Ok("composable_dynamic_then_static") => Box::new(ComposableQuantizer::new(vec![
            Box::new(WgpuQuantizer::new().set_module_name("fc.0", per_channel().dynamic())),
            Box::new(WgpuQuantizer::new().set_module_name("fc.2", per_channel())),
        ])),
        Ok("derived_bias") => Box::new(DerivedBias),
        Ok("fixed_qparams_sigmoid") => Box::new(FixedSigmoid),
        Ok(other) => return Err(format!("unknown setting {other}")),
    })
}

fn activation() -> QuantizationSpec {
    let (range, qscheme) = (QuantRange::INT8, QScheme::per_tensor_affine());
    ObservedSpec { range, qscheme, observer: ObserverKind::MinMax, eps: EPS }.into()
}

/// Quantizes the bias of linear layers with the scales of input and weight.
struct DerivedBias;

impl Quantizer for DerivedBias {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        for (id, node) in graph.iter().filter(|(_, node)| node.op == Op::Linear(Linear::default())) {
            let [x, w, b] = node.inputs[..] else { continue };
            let edge = |producer| EdgeOrNode::Edge { producer, consumer: id };
            let weight = ObservedSpec {
                range: QuantRange::INT8_NARROW,
                qscheme: QScheme::per_tensor_symmetric(),
                observer: ObserverKind::MinMax,
                eps: EPS,
            };
            let derived_from = vec![edge(x), edge(w)];
            let bias = DerivedSpec { derived_from, rule: DerivedRule::BiasScale, range: QuantRange::INT32 };
            let input_qspec_map = vec![(x, Some(activation())), (w, Some(weight.into())), (b, Some(bias.into()))];
            let output_qspec = Some(activation());
            annotations.set(id, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
        }
        Ok(annotations)
    }
}

/// Sigmoids, whose range is known.
struct FixedSigmoid;

impl Quantizer for FixedSigmoid {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        for (id, node) in graph.iter().filter(|(_, node)| node.op == Op::Unary(Unary { op: UnaryOp::Sigmoid })) {
            let qparams = QParams::new(1.0 / 256.0, -128).expect("valid");
            let fixed = FixedQParamsSpec { qparams, range: QuantRange::INT8 };
            let input_qspec_map = vec![(node.inputs[0], Some(activation()))];
            let output_qspec = Some(fixed.into());
            annotations.set(id, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
        }
        Ok(annotations)
    }
}

/// The quantize/dequantize form, calibrated on the batches of the case.
pub(crate) fn quantized_graph(golden: &Golden, float: &Graph) -> Result<Graph, String> {
    let mut prepared = prepare(float, &*quantizer(golden)?).map_err(|e| e.to_string())?;
    for batch in 0..golden.int("calib")? {
        prepared.observe(&[golden.tensor(&format!("in.calib{batch}"))?]).map_err(|e| e.to_string())?;
    }
    convert(&prepared, &ConvertOptions::default()).map_err(|e| e.to_string())
}
