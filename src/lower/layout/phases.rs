//! Transposed convolutions of int8 without the gaps between the elements of their input.
//!
//! With a stride of `s` along an axis, output `s · m + φ` of a transposed convolution sees every `s`-th tap of the kernel only: the others
//! fall between the elements. All outputs of one phase `φ` are a convolution of the image with the taps of that phase. One
//! convolution with the channels of all phases computes them, and its channels are then moved to their pixels. A window of 2 by 2 with
//! a stride of 2 becomes a linear layer with four times as many channels.

use super::pass::Pass;
use crate::graph::{GraphError, Node, NodeId};
use crate::ops::{Constant, ImageLayout, IntegerConv, Op, Reshape, Slice, Transpose, Window, WindowAxis};
use crate::values::slices::{integers, tensor};

/// One axis of a window with gaps between the elements of the input, as one without.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PhasedAxis {
    window: WindowAxis,
    /// For each phase and each tap of the new window, the tap of the old one.
    taps: Vec<Vec<Option<usize>>>,
    /// The number of outputs of each phase, and that of all.
    outputs: [usize; 2],
}

impl PhasedAxis {
    fn new(axis: WindowAxis, length: usize) -> Self {
        let outputs = axis.outputs(length);
        let phases = axis.input_dilation;
        if phases == 1 {
            let taps = vec![(0..axis.size).map(Some).collect()];
            return Self { window: axis, taps, outputs: [outputs; 2] };
        }
        let step = phases as i64;
        // The element that a tap of a phase sees, relative to that of the first tap of an output.
        let element = |phase: usize, tap: usize| {
            let position = (phase + tap * axis.dilation) as i64 - axis.before;
            (position.rem_euclid(step) == 0).then(|| position.div_euclid(step))
        };
        let seen = || (0..phases).flat_map(move |phase| (0..axis.size).filter_map(move |tap| element(phase, tap)));
        // Each tap falls on an element in one of the phases.
        let first = seen().min().unwrap_or(0);
        let size = (seen().max().unwrap_or(first) - first + 1) as usize;
        let mut taps = vec![vec![None; size]; phases];
        for (phase, tap) in (0..phases).flat_map(|phase| (0..axis.size).map(move |tap| (phase, tap))) {
            if let Some(at) = element(phase, tap) {
                taps[phase][(at - first) as usize] = Some(tap);
            }
        }
        let each = outputs.div_ceil(phases);
        let after = (each + size) as i64 - 1 - length as i64 + first;
        let window = WindowAxis { size, before: -first, after, ..WindowAxis::IDENTITY };
        Self { window, taps, outputs: [each, outputs] }
    }
}

/// What follows the sums of a convolution without gaps.
pub(super) struct Phases {
    axes: Vec<PhasedAxis>,
    /// Channels of one phase.
    channels: usize,
}

impl Phases {
    /// The number of phases of all axes.
    fn count(&self) -> usize {
        self.axes.iter().fold(1usize, |count, axis| count.saturating_mul(axis.taps.len()))
    }
}

impl Pass<'_> {
    /// Adds a convolution of one group without the gaps between the elements of its input, if that takes fewer products. Its result
    /// has the channels of all phases.
    pub(super) fn phased(&mut self, id: NodeId, node: &Node, conv: &IntegerConv) -> Result<Option<NodeId>, GraphError> {
        let [x, weight, bias] = [0, 1, 2].map(|at| self.graph.node(node.inputs[at]));
        if conv.window.axes.iter().any(|axis| axis.input_dilation > axis.size.saturating_mul(4)) {
            return Ok(None);
        }
        let lengths = &x.shape.fixed_dims()[usize::from(!x.shape.is_batched())..];
        let axes = conv.window.axes.iter().zip(&lengths[1..]);
        let axes: Vec<PhasedAxis> = axes.map(|(&axis, &length)| PhasedAxis::new(axis, length)).collect();
        let taps: usize = axes.iter().map(|axis| axis.window.size).product();
        let known = (weight.op.constant(), bias.op.constant().and_then(|bias| bias.as_i32()), &weight.op);
        let (Some(values), Some(bias), Op::Constant(Constant { bits, .. })) = known else { return Ok(None) };
        let Some(values) = values.as_i8() else { return Ok(None) };
        let has_epilogue = match self.users[id.index()][..] {
            [reader] => self.has_constant_factors(reader),
            _ => false,
        };
        let dims = weight.shape.fixed_dims();
        let (n, c, old_taps) = (dims[0], dims[1], conv.window.taps());
        let phases = Phases { axes, channels: n };
        // A stride far beyond the window would make a weight of zeros mostly.
        let is_smaller = taps < old_taps && phases.count().saturating_mul(taps) <= old_taps.saturating_mul(4);
        if conv.groups != 1 || !has_epilogue || self.graph.outputs().contains(&id) || !is_smaller {
            return Ok(None);
        }
        let shape: Vec<usize> =
            [phases.count() * n, c].into_iter().chain(phases.axes.iter().map(|a| a.window.size)).collect();
        // The old tap of each tap of each phase, axes in row-major order.
        let old_tap = |phase: usize, tap: usize| {
            let (mut phase, mut tap, mut place, mut old) = (phase, tap, 1, 0);
            for (axis, window) in phases.axes.iter().zip(&conv.window.axes).rev() {
                let of_phase = &axis.taps[phase % axis.taps.len()];
                old += of_phase[tap % of_phase.len()]? * place;
                (phase, tap, place) = (phase / axis.taps.len(), tap / of_phase.len(), place * window.size);
            }
            Some(old)
        };
        let mut data = Vec::with_capacity(phases.count() * n * c * taps);
        let mut biases = Vec::with_capacity(phases.count() * n);
        for phase in 0..phases.count() {
            let of_phase: Vec<Option<usize>> = (0..taps).map(|tap| old_tap(phase, tap)).collect();
            for (kernels, &bias) in values.chunks_exact(c * old_taps).zip(bias) {
                let mut missing: i64 = kernels.iter().map(|&w| i64::from(w)).sum();
                for kernel in kernels.chunks_exact(old_taps) {
                    let kept = of_phase.iter().map(|old| old.map_or(0, |old| kernel[old]));
                    missing -= kept.clone().map(i64::from).sum::<i64>();
                    data.extend(kept);
                }
                // A tap in a gap counts as the zero point (equation 4), and any part of the sum fits `i32`.
                let in_gaps = (i64::from(conv.zero_point) * missing) << conv.fraction_bits;
                biases.push((i64::from(bias) + in_gaps) as i32);
            }
        }
        let weight = crate::values::slices::codes(&shape, data);
        let weight = Constant { tensor: weight.into(), bits: *bits };
        let weight = self.part(node, "phases.weight", weight, Vec::new())?;
        let bias = integers(&[biases.len()], biases);
        let bias = self.part(node, "phases.bias", Constant::new(bias), Vec::new())?;
        let window = Window { axes: phases.axes.iter().map(|axis| axis.window).collect() };
        let conv = IntegerConv { window, layout: ImageLayout::ChannelsLast, ..conv.clone() };
        let x = self.last(node.inputs[0])?;
        let acc = self.conv_of(node, &conv, x, weight, bias)?;
        self.phases[id.index()] = Some(phases);
        Ok(Some(acc))
    }

    /// Whether a node requantizes or scales sums, with factors that are known.
    fn has_constant_factors(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let of_channels = match &node.op {
            Op::Requantize(op) => op.ch_axis == Some(1),
            Op::ScaleAccumulator(op) => op.ch_axis == Some(1),
            _ => false,
        };
        of_channels && self.graph.node(node.inputs[1]).op.constant().is_some_and(|factors| factors.as_f32().is_some())
    }

    /// Adds what requantizes or scales the sums of all phases, and moves the results to their pixels.
    pub(super) fn of_phases(&mut self, node: &Node, phases: &Phases) -> Result<NodeId, GraphError> {
        let sums = self.last(node.inputs[0])?;
        let factors = self.graph.node(node.inputs[1]).op.constant().and_then(|factors| factors.as_f32());
        let repeated = factors.unwrap_or_default().repeat(phases.count());
        let factors = tensor(vec![repeated.len()], repeated);
        let factors = self.part(node, "phases.factors", Constant::new(factors), Vec::new())?;
        let mut op = node.op.clone();
        let last = Some(self.rewriter.node(sums).shape.rank() - 1);
        match &mut op {
            Op::Requantize(op) => op.ch_axis = last,
            Op::ScaleAccumulator(op) => op.ch_axis = last,
            _ => unreachable!("{} was checked", node.name),
        }
        let mut y = self.part(node, "phases", op, vec![sums, factors])?;
        let shape = self.rewriter.node(y).shape.clone();
        let lead: Vec<usize> = if shape.is_batched() { Vec::new() } else { vec![shape.fixed_dims()[0]] };
        let with_lead = |dims: &[usize]| [&lead[..], dims].concat();
        let each: Vec<usize> = phases.axes.iter().map(|axis| axis.outputs[0]).collect();
        let counts: Vec<usize> = phases.axes.iter().map(|axis| axis.taps.len()).collect();
        // The phases along the width lie next to the channels. Those along the height are moved before the width.
        if let ([height, width], [down, across]) = (&each[..], &counts[..])
            && *down > 1
        {
            let dims = with_lead(&[*height, *width, *down, across * phases.channels]);
            y = self.part(node, "phases.split", Reshape { dims }, vec![y])?;
            y = self.part(node, "phases.moved", Transpose { perm: vec![0, 1, 3, 2, 4] }, vec![y])?;
        }
        let joined: Vec<usize> = each.iter().zip(&counts).map(|(each, count)| each * count).collect();
        let dims = with_lead(&[&joined[..], &[phases.channels]].concat());
        let cut = phases.axes.iter().zip(&joined).any(|(axis, &joined)| axis.outputs[1] != joined);
        let name = if cut { format!("{}.phases.joined", node.name) } else { node.name.clone() };
        y = self.rewriter.add(&name, Reshape { dims }, vec![y], &node.origin)?;
        let uneven: Vec<(usize, usize)> = phases
            .axes
            .iter()
            .zip(&joined)
            .enumerate()
            .filter(|(_, (axis, joined))| axis.outputs[1] != **joined)
            .map(|(at, (axis, _))| (at + 1, axis.outputs[1]))
            .collect();
        for (at, &(axis, end)) in uneven.iter().enumerate() {
            let name = if at + 1 == uneven.len() { node.name.clone() } else { format!("{}.phases.cut", node.name) };
            y = self.rewriter.add(&name, Slice { axis, start: 0, end }, vec![y], &node.origin)?;
        }
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, GraphBuilder};
    use crate::interp::Interpreter;
    use crate::lower::layout::channels_last;
    use crate::ops::{ConvTranspose, Requantize, ScaleAccumulator};
    use crate::values::{DType, QParams, Shape, Tensor};

    /// Int8 values without a pattern.
    fn int8(shape: &[usize]) -> Tensor {
        let length: usize = shape.iter().product();
        let data = (0..length).map(|i| ((i * i * 31 + i * 89) % 251) as i64 - 125).map(|v| v as i8).collect();
        Tensor::from_i8(shape, data).expect("lengths fit")
    }

    /// A transposed convolution of images `[rows, 3, …]` or `[2, 3, …]` to two channels.
    fn graph(conv: &ConvTranspose, image: &[usize], is_batched: bool, to_int8: bool) -> Option<Graph> {
        let dims = [&[3], image].concat();
        let shape = if is_batched { Shape::batched(&dims) } else { Shape::fixed(&[&[2], &dims[..]].concat()) };
        let mut g = GraphBuilder::new();
        let x = g.typed_input("x", shape, DType::I8).expect("an input");
        let window = conv.as_conv();
        let size: Vec<usize> = window.axes.iter().map(|axis| axis.size).collect();
        let w = g.constant("w", int8(&[&[2, 3], &size[..]].concat())).expect("a weight");
        let b = g.constant("b", Tensor::from_i32(&[2], vec![70, -900]).expect("fits")).expect("a bias");
        let (zero_point, fraction_bits, layout) = (-7, 2, ImageLayout::ChannelsFirst);
        let op = IntegerConv { window, groups: 1, zero_point, fraction_bits, layout };
        // Padding may cut off all of a small image.
        let acc = g.node("acc", op, &[x, w, b]).ok()?;
        let factors = g.constant("factors", Tensor::from_f32(&[2], vec![2e-4, 3e-4]).expect("fits")).expect("factors");
        let qparams = QParams::new(0.1, 5).expect("valid");
        let op: Op = match to_int8 {
            true => Requantize { qparams, lo: -128, hi: 127, ch_axis: Some(1) }.into(),
            false => ScaleAccumulator { relu: false, ch_axis: Some(1) }.into(),
        };
        let y = g.node("y", op, &[acc, factors]).expect("an epilogue");
        Some(g.finish([y]).expect("a graph"))
    }

    #[test]
    fn phases_give_the_bits_of_gaps() {
        let (mut without_gaps, mut others) = (0, 0);
        for at in 0..3000usize {
            let pick = |n: usize, of: usize| (at / of) % n;
            let axes = 1 + at % 2;
            let both = |values: [usize; 2]| values[..axes].to_vec();
            let size = both([1 + pick(5, 2), 1 + pick(4, 7)]);
            let window = Window::new(&size)
                .with_stride(&both([1 + pick(4, 3), 1 + pick(3, 11)]))
                .with_dilation(&both([1 + pick(2, 5), 1 + pick(2, 13)]))
                .with_uneven_padding(&both([pick(3, 17), pick(2, 19)]), &both([pick(2, 23), pick(3, 29)]));
            let extra: Vec<usize> = window.axes.iter().map(|axis| pick(axis.stride, 31)).collect();
            let conv = ConvTranspose::new(window).with_output_padding(&extra);
            let image = both([1 + pick(4, 37), 1 + pick(5, 41)]);
            let Some(graph) = graph(&conv, &image, at % 3 != 0, at % 5 != 0) else { continue };
            let last = channels_last(&graph).expect("rewritten");
            let has_gaps = |op: &Op| matches!(op, Op::IntegerConv(conv) if conv.window.has_gaps());
            let count = |graph: &Graph| graph.nodes().iter().filter(|node| has_gaps(&node.op)).count();
            match (count(&graph), count(&last)) {
                (1, 0) => without_gaps += 1,
                _ => others += 1,
            }
            let x = int8(&[&[2, 3], &image[..]].concat());
            let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
            assert_eq!(run(&last), run(&graph), "{conv:?} of {image:?}\n{last}");
        }
        assert!(without_gaps > 1000 && others > 200, "{without_gaps} and {others}");
    }

    /// The usual windows: as many products as the table says, instead of all taps for each output.
    #[test]
    fn products_of_usual_windows() {
        for (size, padding, stride, extra, taps) in
            [(2, 0, 2, 0, 1), (3, 1, 2, 1, 4), (4, 1, 2, 0, 9), (16, 4, 8, 0, 9)]
        {
            let window = Window::new(&[size; 2]).with_stride(&[stride; 2]).with_padding(&[padding; 2]);
            let conv = ConvTranspose::new(window).with_output_padding(&[extra; 2]);
            let last = channels_last(&graph(&conv, &[5, 6], true, true).expect("a graph")).expect("rewritten");
            let weight = last.nodes().iter().find(|node| node.name.starts_with("acc.phases.weight")).expect("a weight");
            let dims = weight.shape.fixed_dims();
            assert_eq!((dims[0], dims[2..].iter().product::<usize>()), (2 * stride * stride, taps), "{size}");
        }
    }
}
