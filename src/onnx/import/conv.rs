//! Convolutions.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use super::window::{AutoPad, extent, numbers, pads, window};
use crate::onnx::host::{Length, show};
use crate::onnx::proto::NodeProto;
use crate::onnx::value::{Kind, Run};
use crate::ops::{Conv, ConvTranspose, Op, Window};

operators! {
    "Conv" => Operator::nodes(Importer::conv),
    "ConvTranspose" => Operator::nodes(Importer::conv_transpose),
}

/// What a convolution reads besides its bias.
struct Layer {
    x: Run,
    weight: Run,
    /// The lengths of the axes that the window slides over.
    image: Vec<usize>,
    /// The size of the window along these axes.
    size: Vec<usize>,
    groups: usize,
}

impl Importer {
    fn conv(&mut self, call: &Call<'_>) -> Values {
        let layer = self.layer(call)?;
        let window = window(call.node, &layer.size, &layer.image)?;
        let conv = Conv::new(window).with_groups(layer.groups);
        self.convolution(call, &layer, conv)
    }

    fn conv_transpose(&mut self, call: &Call<'_>) -> Values {
        let layer = self.layer(call)?;
        let (window, output_padding) = transposed_window(call.node, &layer.size, &layer.image)?;
        let conv = ConvTranspose::new(window).with_groups(layer.groups).with_output_padding(&output_padding);
        self.convolution(call, &layer, conv)
    }

    /// The image, the weight and the groups of a convolution.
    fn layer(&mut self, call: &Call<'_>) -> Result<Layer, String> {
        let x = self.float(call, call.input(0)?)?;
        let image = self.image(x)?;
        let value = call.input(1)?;
        let lengths = self.logical(value);
        if lengths.len() != image.len() + 2 {
            return Err(format!(
                "its weight {} has {} axes, expected {}, as many as its image",
                show(&lengths),
                lengths.len(),
                image.len() + 2
            ));
        }
        let known = |length: &Length| match *length {
            Length::Known(n) => Ok(n as usize),
            Length::Rows(_) => Err(format!("its weight {} varies with the batch", show(&lengths))),
        };
        let size = lengths[2..].iter().map(known).collect::<Result<Vec<_>, _>>()?;
        if let Some(given) = call.node.ints("kernel_shape")?
            && !given.is_empty()
            && !given.iter().copied().eq(size.iter().map(|&n| n as i64))
        {
            return Err(format!("its kernel_shape is {given:?}, that of its weight {size:?}"));
        }
        let groups = call.node.int("group", 1)?;
        let groups = usize::try_from(groups).map_err(|_| format!("its number of groups is {groups}"))?;
        let weight = self.float(call, value)?;
        Ok(Layer { x, weight, image, size, groups })
    }

    /// The node of a convolution, which is named after the module of its parameters.
    fn convolution(&mut self, call: &Call<'_>, layer: &Layer, op: impl Into<Op>) -> Values {
        let mut inputs = vec![layer.x.id, layer.weight.id];
        if let Some(bias) = call.optional(2) {
            inputs.push(self.float(call, bias)?.id);
        }
        let id = self.draft.add(&call.name, op, &inputs)?;
        let module = self.module(call.input(1)?).or_else(|| self.module(call.optional(2)?));
        self.name_after(id, module);
        one(Run { id, merged: 1, kind: Kind::Float })
    }
}

/// The window and the output padding of a transposed convolution. A result of a given shape is cut on both sides, or gets elements
/// after its last.
fn transposed_window(node: &NodeProto, size: &[usize], image: &[usize]) -> Result<(Window, Vec<usize>), String> {
    let axes = image.len();
    let [strides, dilations] = ["strides", "dilations"].map(|name| numbers(node, name, axes, 1));
    let (strides, dilations) = (strides?, dilations?);
    let mut output_padding = numbers(node, "output_padding", axes, 0)?;
    let auto_pad = AutoPad::new(node)?;
    let output_shape = match node.ints("output_shape")? {
        None | Some([]) => None,
        Some(_) => Some(numbers(node, "output_shape", axes, 1)?),
    };
    let is_same = matches!(auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
    let [mut before, mut after] = match (&output_shape, auto_pad) {
        (None, AutoPad::NotSet) => pads(node, axes)?,
        _ => [vec![0; axes], vec![0; axes]],
    };
    for axis in 0..axes {
        let stretched = image[axis].saturating_sub(1).saturating_mul(strides[axis]);
        let whole = stretched.saturating_add(extent(size[axis], dilations[axis])).saturating_add(output_padding[axis]);
        let length = match &output_shape {
            Some(lengths) => lengths[axis],
            None if is_same => image[axis].saturating_mul(strides[axis]),
            None => continue,
        };
        [before[axis], after[axis]] = auto_pad.split(whole.saturating_sub(length));
        if output_shape.is_some() {
            output_padding[axis] += length.saturating_sub(whole);
        }
    }
    let window = Window::new(size).with_stride(&strides).with_dilation(&dilations);
    Ok((window.with_uneven_padding(&before, &after), output_padding))
}
