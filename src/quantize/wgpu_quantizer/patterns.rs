//! The patterns that are quantized, and the nodes that each of them annotates.

use super::facts::{masks, scores};
use crate::graph::{Graph, NodeId};
use crate::ops::{Add, AveragePool, AverageWindows, Clamp, Constant, Input, Mul, Op, OpKind, Unary, UnaryOp};
use crate::quantize::annotation::{Annotations, EdgeOrNode, QuantizationAnnotation};
use crate::quantize::config::QuantizationConfig;
use crate::quantize::spec::{ObservedSpec, QuantizationSpec};
use crate::values::{DType, Granularity, QScheme, QuantRange};

/// A one-element constant that is larger is a mask or a sentinel: at its scale, the other input would be 0.
const LARGEST_SCALAR: f32 = 3.402_823_5e15;

/// The choices of a quantizer between patterns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// Whether products of two activations are quantized.
    pub(super) matmul: bool,
    /// Whether only those patterns of images are quantized that XNNPACK's quantizer has, as it has them.
    pub(super) as_xnnpack: bool,
}

/// The annotations under construction, and the nodes that a pattern or a configuration has taken.
pub(super) struct Marks<'g> {
    graph: &'g Graph,
    users: Vec<Vec<NodeId>>,
    outputs: Vec<bool>,
    annotations: &'g mut Annotations,
    taken: Vec<bool>,
    rules: Rules,
    /// For each node, whether it is computed from integers and constants only.
    masks: Vec<bool>,
    /// For each node, whether all that reads it makes the scores of a softmax.
    scores: Vec<bool>,
}

/// Whether a configuration covers a node.
type Covers<'f> = &'f dyn Fn(NodeId) -> bool;

impl<'g> Marks<'g> {
    pub(super) fn new(graph: &'g Graph, annotations: &'g mut Annotations, rules: Rules) -> Self {
        let taken = graph.iter().map(|(id, _)| annotations.get(id).is_some()).collect();
        let (users, outputs) = (graph.users(), graph.output_flags());
        let (masks, scores) = (masks(graph), scores(graph, &users, &outputs));
        Self { graph, users, outputs, annotations, taken, rules, masks, scores }
    }

    /// Keeps a node in float, in all patterns and in the integer form, unless a pattern has taken it.
    pub(super) fn leave_float(&mut self, id: NodeId, reason: &str) {
        if !self.taken[id.index()] {
            self.taken[id.index()] = true;
            self.annotations.keep_float(id, reason);
        }
    }

    /// All patterns with one configuration.
    pub(super) fn patterns(&mut self, config: &QuantizationConfig, covers: Covers<'_>, relu_covers: Covers<'_>) {
        self.with_activation(OpKind::Linear, config, covers, relu_covers);
        self.alone(OpKind::Linear, config, covers);
        if self.rules.matmul {
            self.alone(OpKind::MatMul, config, covers);
        }
        if config.is_dynamic() {
            self.dynamic_reasons(covers);
            return;
        }
        self.with_activation(OpKind::Conv, config, covers, relu_covers);
        self.alone(OpKind::Conv, config, covers);
        self.with_activation(OpKind::ConvTranspose, config, covers, relu_covers);
        if !self.rules.as_xnnpack {
            self.alone(OpKind::ConvTranspose, config, covers);
        }
        self.averages(config, covers);
        self.with_activation(OpKind::Add, config, covers, relu_covers);
        self.alone(OpKind::Add, config, covers);
        self.with_activation(OpKind::Mul, config, covers, relu_covers);
        self.alone(OpKind::Mul, config, covers);
        self.concat(config, covers);
    }

    /// Whether a node is a ReLU, or for a convolution another clamp, that a layer takes into the range of its result.
    fn is_activation(&self, id: NodeId, kind: OpKind) -> bool {
        let clamps = matches!(kind, OpKind::Conv | OpKind::ConvTranspose) && !self.rules.as_xnnpack;
        match self.graph.node(id).op {
            Op::Unary(Unary { op: UnaryOp::Relu }) => true,
            // Real 0 is within every quantized range.
            Op::Clamp(Clamp { min, max }) => clamps && min <= 0.0 && max >= 0.0,
            _ => false,
        }
    }

    /// Annotates nodes of a kind whose only reader is a ReLU or, for some, another clamp: the inputs on the node, the output on the clamp.
    fn with_activation(
        &mut self,
        kind: OpKind,
        config: &QuantizationConfig,
        covers: Covers<'_>,
        relu_covers: Covers<'_>,
    ) {
        for (relu, node) in self.graph.iter() {
            if !self.is_activation(relu, kind) || !relu_covers(relu) {
                continue;
            }
            let inner = node.inputs[0];
            let alone = self.users[inner.index()].len() == 1 && !self.outputs[inner.index()];
            if !alone || !covers(inner) || self.graph.node(inner).op.kind() != kind {
                continue;
            }
            let parameters = self.parameters(inner);
            if [relu, inner].iter().chain(parameters).any(|id| self.taken[id.index()]) || !self.suits(inner) {
                continue;
            }
            self.inputs(inner, config, None);
            let output_qspec = config.output_activation.clone();
            self.annotations.set(relu, QuantizationAnnotation { output_qspec, ..Default::default() });
            self.taken[relu.index()] = true;
        }
    }

    /// Annotates nodes of a kind without a ReLU.
    fn alone(&mut self, kind: OpKind, config: &QuantizationConfig, covers: Covers<'_>) {
        for (id, node) in self.graph.iter() {
            // XNNPACK's quantizer leaves the second convolution of a shared weight in float.
            let is_shared = self.rules.as_xnnpack
                && matches!(kind, OpKind::Conv | OpKind::ConvTranspose)
                && self.parameters(id).iter().any(|parameter| self.taken[parameter.index()]);
            if node.op.kind() == kind && !self.taken[id.index()] && !is_shared && covers(id) && self.suits(id) {
                self.inputs(id, config, config.output_activation.clone());
            }
        }
    }

    /// Averages and resizes of an image. The image shares the observer of the node that computes it, if that has a quantized output. A
    /// resized image shares it too; an average has its own range, which is mostly much smaller, or shares the image's observer as
    /// XNNPACK's quantizer has it.
    fn averages(&mut self, config: &QuantizationConfig, covers: Covers<'_>) {
        for (id, node) in self.graph.iter() {
            let (known, own_range) = match &node.op {
                Op::AveragePool(AveragePool { windows: AverageWindows::Adaptive { .. }, .. }) => {
                    (true, !self.rules.as_xnnpack)
                }
                Op::AveragePool(_) => (!self.rules.as_xnnpack, true),
                Op::ResizeLinear(_) => (!self.rules.as_xnnpack, false),
                _ => (false, false),
            };
            if !known || self.taken[id.index()] || !covers(id) {
                continue;
            }
            let input = node.inputs[0];
            let is_quantized = self.annotations.get(input).is_some_and(|of| of.output_qspec.is_some());
            let input_qspec = match is_quantized {
                true => Some(QuantizationSpec::Shared(EdgeOrNode::Node(input))),
                false => config.input_activation.clone(),
            };
            let shared = QuantizationSpec::Shared(EdgeOrNode::Edge { producer: input, consumer: id });
            let own = config.output_activation.as_ref();
            let output_qspec = own.map(|own| if own_range { own.clone() } else { shared });
            let input_qspec_map = vec![(input, input_qspec)];
            self.annotations.set(id, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
            self.taken[id.index()] = true;
        }
    }

    /// Weight and bias of a layer.
    fn parameters(&self, id: NodeId) -> &'g [NodeId] {
        let node = self.graph.node(id);
        if has_weight(&node.op) { &node.inputs[1..] } else { &[] }
    }

    /// Whether a node may be quantized: no input is a mask or a scalar out of all proportion, and the result is not the scores of a
    /// softmax. Else notes the reason.
    fn suits(&mut self, id: NodeId) -> bool {
        let graph = self.graph;
        let huge = |input: &&NodeId| match &graph.node(**input).op {
            Op::Constant(Constant { tensor, .. }) => matches!(tensor.as_f32(), Some([v]) if v.abs() > LARGEST_SCALAR),
            _ => false,
        };
        let node = graph.node(id);
        if has_weight(&node.op) {
            return true;
        }
        let elementwise = matches!(node.op, Op::Add(Add) | Op::Mul(Mul));
        let name = |input: &NodeId| &graph.node(*input).name;
        let reason = if let Some(input) = node.inputs.iter().find(huge) {
            format!("its input {} is larger than {LARGEST_SCALAR:e}", name(input))
        } else if let Some(mask) = node.inputs.iter().find(|id| elementwise && self.masks[id.index()]) {
            format!("its input {} is computed from integers: a mask", name(mask))
        } else if elementwise && self.scores[id.index()] {
            "it makes the scores of a softmax".to_owned()
        } else {
            return true;
        };
        self.annotations.leave_float(id, reason);
        false
    }

    /// Annotates a node, and takes it with its parameters.
    fn inputs(&mut self, id: NodeId, config: &QuantizationConfig, output_qspec: Option<QuantizationSpec>) {
        let inputs = &self.graph.node(id).inputs;
        let act = &config.input_activation;
        // The bias stays float here; the integer form quantizes it from the scales of input and weight.
        let specs = match &self.graph.node(id).op {
            Op::Linear(_) => [act.clone(), config.weight.clone(), None],
            Op::Conv(_) => [act.clone(), config.weight.clone().map(without_groups), None],
            Op::ConvTranspose(conv) => {
                let weight = config.weight.clone().map(without_groups);
                let own = |spec| if self.rules.as_xnnpack { spec } else { for_outputs(spec, conv.groups) };
                [act.clone(), weight.map(own), None]
            }
            Op::MatMul(_) => [act.clone(), act.clone().map(for_the_tensor), None],
            _ => [act.clone(), act.clone(), None],
        };
        let input_qspec_map = inputs.iter().copied().zip(specs).collect();
        self.annotations.set(id, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
        for id in [id].iter().chain(self.parameters(id)) {
            self.taken[id.index()] = true;
        }
    }

    /// Each input and the output have their own ranges, and a lookup table gives an input the scale of the output; inputs that are moved
    /// from one value share its range, and so does the output. As XNNPACK's quantizer has it, all share the observer of one input: the
    /// first that comes from a quantized output, else the first.
    fn concat(&mut self, config: &QuantizationConfig, covers: Covers<'_>) {
        // For each node so far, the quantized output that it is, or that it is moved or clipped of.
        let mut sources: Vec<Option<NodeId>> = Vec::with_capacity(self.graph.nodes().len());
        for (id, node) in self.graph.iter() {
            let floats = matches!(node.op, Op::Concat(_)) && node.dtype == DType::F32;
            if floats && !self.taken[id.index()] && covers(id) {
                let first = node.inputs[0];
                let is_one = |&input: &NodeId| input == first || sources[input.index()].is_some();
                let same = |&input: &NodeId| sources[input.index()] == sources[first.index()];
                let annotation = match self.rules.as_xnnpack || node.inputs.iter().all(|id| is_one(id) && same(id)) {
                    true => self.concat_of_one_range(config, id, &sources),
                    false => self.concat_of_own_ranges(config, id, &sources),
                };
                self.annotations.set(id, annotation);
                self.taken[id.index()] = true;
            }
            sources.push(match self.annotations.get(id) {
                Some(annotation) => annotation.output_qspec.is_some().then_some(id),
                None if shares(&node.op) => sources[node.inputs[0].index()],
                None => None,
            });
        }
    }

    fn concat_of_own_ranges(
        &self,
        config: &QuantizationConfig,
        id: NodeId,
        sources: &[Option<NodeId>],
    ) -> QuantizationAnnotation {
        let act = &config.input_activation;
        let own = |&input: &NodeId| match (act, sources[input.index()]) {
            (Some(_), Some(_)) => (input, Some(QuantizationSpec::Shared(EdgeOrNode::Node(input)))),
            _ => (input, act.clone()),
        };
        let input_qspec_map = self.graph.node(id).inputs.iter().map(own).collect();
        let output_qspec = config.output_activation.clone();
        QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() }
    }

    fn concat_of_one_range(
        &self,
        config: &QuantizationConfig,
        id: NodeId,
        sources: &[Option<NodeId>],
    ) -> QuantizationAnnotation {
        let node = self.graph.node(id);
        let from_quantized = |input: &&NodeId| sources[input.index()].is_some();
        let owner = *node.inputs.iter().find(from_quantized).unwrap_or(&node.inputs[0]);
        let shared = QuantizationSpec::Shared(EdgeOrNode::Edge { producer: owner, consumer: id });
        let mut input_qspec_map = vec![(owner, config.input_activation.clone())];
        for &input in node.inputs.iter().filter(|input| **input != owner) {
            input_qspec_map.push((input, config.input_activation.as_ref().map(|_| shared.clone())));
        }
        let output_qspec = config.output_activation.as_ref().map(|_| shared);
        QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() }
    }

    /// Lets operators that move or clip a quantized value share its observer.
    pub(super) fn propagate(&mut self) {
        for (id, node) in self.graph.iter() {
            // XNNPACK's quantizer has a pattern for `hardtanh`.
            let clamps = self.rules.as_xnnpack && matches!(node.op, Op::Clamp(_));
            let floats = (shares(&node.op) || clamps) && node.dtype == DType::F32;
            if !floats || self.taken[id.index()] || self.annotations.get(id).is_some() {
                continue;
            }
            let input = node.inputs[0];
            if self.annotations.get(input).is_some_and(|annotation| annotation.output_qspec.is_some()) {
                let shared = QuantizationSpec::Shared(EdgeOrNode::Node(input));
                let input_qspec_map = vec![(input, Some(shared.clone()))];
                let output_qspec = Some(shared);
                self.annotations
                    .set(id, QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
            }
        }
    }

    fn dynamic_reasons(&mut self, covers: Covers<'_>) {
        for (id, node) in self.graph.iter() {
            let dynamic = matches!(node.op, Op::Linear(_) | Op::MatMul(_));
            if is_pattern(&node.op) && !dynamic && node.dtype == DType::F32 && covers(id) && !self.taken[id.index()] {
                let reason = "its configuration is dynamic, which quantizes linear layers and matmul only";
                self.annotations.leave_float(id, reason);
            }
        }
    }

    /// Notes for each remaining node why it is left in float.
    pub(super) fn reasons(&mut self, global: bool, passes: Covers<'_>) {
        for (id, node) in self.graph.iter() {
            if self.annotations.get(id).is_some() || self.annotations.float_reason(id).is_some() {
                continue;
            }
            let reason = match node.op {
                Op::Input(Input) | Op::Constant(_) => continue,
                // Integers are not left in float.
                _ if node.dtype != DType::F32 => continue,
                // A pattern that the filter excludes stays float between quantized values too.
                ref op if is_pattern(op) && !passes(id) => {
                    self.annotations.keep_float(id, "the filter function leaves it out");
                    continue;
                }
                _ if !passes(id) => "the filter function leaves it out".to_owned(),
                Op::MatMul(_) if !self.rules.matmul => {
                    "products of two activations are quantized only if asked for".to_owned()
                }
                ref op if is_pattern(op) && !global => "no configuration covers it".to_owned(),
                ref op if is_pattern(op) => "the configuration that covers it does not quantize it".to_owned(),
                ref op if shares(op) => "the output of what it reads is not quantized".to_owned(),
                ref op => format!("there is no pattern for {}", op.name()),
            };
            self.annotations.leave_float(id, reason);
        }
    }
}

/// Whether an operator is a layer with a weight and perhaps a bias.
pub(super) fn has_weight(op: &Op) -> bool {
    matches!(op, Op::Linear(_) | Op::Conv(_) | Op::ConvTranspose(_))
}

/// Whether an operator begins a pattern that a configuration may quantize.
fn is_pattern(op: &Op) -> bool {
    has_weight(op)
        || matches!(op, Op::MatMul(_) | Op::Add(Add) | Op::Mul(Mul) | Op::Concat(_))
        || matches!(op, Op::AveragePool(_) | Op::ResizeLinear(_))
}

/// The spec of the weight of a transposed convolution `[C, N / groups, …]`: a scale for each output channel, or one for the tensor if
/// channels of several groups lie on the axis of the outputs.
fn for_outputs(spec: QuantizationSpec, groups: usize) -> QuantizationSpec {
    match spec {
        QuantizationSpec::Observed(spec) if spec.qscheme.ch_axis().is_some() => {
            let granularity = if groups == 1 { Granularity::Channel { axis: 1 } } else { Granularity::Tensor };
            ObservedSpec { qscheme: QScheme { granularity, ..spec.qscheme }, ..spec }.into()
        }
        other => other,
    }
}

/// The spec of the weight of a layer whose features are not divided into groups: a scale for each output channel, of the same bits.
fn without_groups(spec: QuantizationSpec) -> QuantizationSpec {
    match spec {
        QuantizationSpec::Observed(spec) if spec.qscheme.group_size().is_some() => {
            let most = spec.range.quant_max();
            let range = QuantRange::new(-most, most).unwrap_or(spec.range);
            let qscheme = QScheme::per_channel_symmetric(0).with_bits(spec.qscheme.bits);
            ObservedSpec { qscheme, range, ..spec }.into()
        }
        other => other,
    }
}

/// The spec of the right factor of a product: per tensor, since its rows lie along the sum and cannot each have a scale (equation 9d).
fn for_the_tensor(spec: QuantizationSpec) -> QuantizationSpec {
    match spec {
        QuantizationSpec::Observed(spec) if spec.qscheme.is_per_token() => {
            ObservedSpec { qscheme: QScheme::per_tensor_affine().with_bits(spec.qscheme.bits), ..spec }.into()
        }
        other => other,
    }
}

/// Whether the output of an operator has the qparams of its input.
pub(super) fn shares(op: &Op) -> bool {
    match op {
        Op::Unary(Unary { op }) => *op == UnaryOp::Relu,
        // Its inputs need not have the same qparams.
        Op::Concat(_) => false,
        op => op.moves_values(),
    }
}
