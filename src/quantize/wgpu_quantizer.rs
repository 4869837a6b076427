//! The quantizer for the engines of this crate, with the rules of XNNPACK's.

use super::annotation::{Annotations, QuantizationAnnotation};
use super::prepare::PrepareError;
use super::quantizer::Quantizer;
use super::spec::{ObservedSpec, ObserverKind, QuantizationSpec};
use crate::graph::{Graph, NodeId, Op, UnaryOp};
use crate::numerics::EPS;
use crate::qparams::{QScheme, QuantRange};

/// The specs that a quantizer hands to its patterns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationConfig {
    /// For the input of a pattern.
    pub input_activation: Option<QuantizationSpec>,
    /// For its output.
    pub output_activation: Option<QuantizationSpec>,
    /// For its weight.
    pub weight: Option<QuantizationSpec>,
}

impl QuantizationConfig {
    /// Static int8: weights symmetric per tensor in −127..=127 by [`ObserverKind::MinMax`], activations affine in
    /// −128..=127 by [`ObserverKind::Histogram`], scales of at least 2⁻¹², bias in float.
    #[must_use]
    pub fn symmetric() -> Self {
        let activation = ObservedSpec {
            range: QuantRange::INT8,
            qscheme: QScheme::PerTensorAffine,
            observer: ObserverKind::Histogram,
            eps: EPS,
        };
        let weight = ObservedSpec {
            range: QuantRange::INT8_NARROW,
            qscheme: QScheme::PerTensorSymmetric,
            observer: ObserverKind::MinMax,
            eps: EPS,
        };
        Self {
            input_activation: Some(activation.into()),
            output_activation: Some(activation.into()),
            weight: Some(weight.into()),
        }
    }

    /// The same with one weight scale per output channel.
    #[must_use]
    pub fn per_channel(mut self) -> Self {
        if let Some(QuantizationSpec::Observed(weight)) = &mut self.weight {
            weight.qscheme = QScheme::PerChannelSymmetric { ch_axis: 0 };
        }
        self
    }

    /// The same with another observer for activations.
    #[must_use]
    pub fn activation_observer(mut self, observer: ObserverKind) -> Self {
        for spec in [&mut self.input_activation, &mut self.output_activation] {
            if let Some(QuantizationSpec::Observed(spec)) = spec {
                spec.observer = observer;
            }
        }
        self
    }

    /// The same with float outputs.
    #[must_use]
    pub fn float_output(mut self) -> Self {
        self.output_activation = None;
        self
    }
}

/// Annotates linear layers, with or without a ReLU behind them.
///
/// - linear + ReLU: a ReLU whose producer is a linear layer with no other user and no output of the graph. The inputs
///   are annotated on the linear node, the output on the ReLU, so that nothing is rounded between them. Skipped if the
///   layer's weight or bias already belongs to another pattern.
/// - linear: every linear node that is left.
#[derive(Debug, Clone, Default)]
pub struct WgpuQuantizer {
    global: Option<QuantizationConfig>,
}

impl WgpuQuantizer {
    /// Quantizes nothing until it is given a configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The configuration for every layer.
    #[must_use]
    pub fn set_global(mut self, config: QuantizationConfig) -> Self {
        self.global = Some(config);
        self
    }
}

impl Quantizer for WgpuQuantizer {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut marks = Marks { annotations: Annotations::new(graph), annotated: vec![false; graph.nodes().len()] };
        if let Some(config) = &self.global {
            marks.linear_relu(graph, config);
            marks.linear(graph, config);
        }
        Ok(marks.annotations)
    }
}

/// The table under construction, and which nodes a pattern has taken.
struct Marks {
    annotations: Annotations,
    annotated: Vec<bool>,
}

impl Marks {
    fn linear_relu(&mut self, graph: &Graph, config: &QuantizationConfig) {
        let users = graph.users();
        for (relu, node) in graph.iter() {
            if node.op != Op::Unary(UnaryOp::Relu) {
                continue;
            }
            let linear = node.inputs[0];
            let alone = users[linear.index()].len() == 1 && !graph.outputs().contains(&linear);
            if graph.node(linear).op != Op::Linear || !alone {
                continue;
            }
            let parameters = &graph.node(linear).inputs[1..];
            if [relu, linear].iter().chain(parameters).any(|id| self.annotated[id.index()]) {
                continue;
            }
            self.inputs(graph, linear, config, None);
            let output = QuantizationAnnotation { output_qspec: config.output_activation, ..Default::default() };
            self.annotations.set(relu, output);
            self.annotated[relu.index()] = true;
        }
    }

    fn linear(&mut self, graph: &Graph, config: &QuantizationConfig) {
        for (id, node) in graph.iter() {
            if node.op == Op::Linear && !self.annotated[id.index()] {
                self.inputs(graph, id, config, config.output_activation);
            }
        }
    }

    /// Annotates a linear node, and takes it with its weight and bias.
    fn inputs(
        &mut self,
        graph: &Graph,
        linear: NodeId,
        config: &QuantizationConfig,
        output_qspec: Option<QuantizationSpec>,
    ) {
        let inputs = &graph.node(linear).inputs;
        // The bias stays float here; the integer form quantizes it from the scales of input and weight.
        let specs = [config.input_activation, config.weight, None];
        let input_qspec_map = inputs.iter().copied().zip(specs).collect();
        self.annotations.set(linear, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
        for id in [linear].iter().chain(&inputs[1..]) {
            self.annotated[id.index()] = true;
        }
    }
}
