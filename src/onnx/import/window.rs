//! The attributes of the windows that convolutions and pools slide over images.

use super::importer::Importer;
use crate::onnx::host::{kept, show};
use crate::onnx::proto::NodeProto;
use crate::onnx::value::{Run, Value};
use crate::ops::Window;

/// The largest size, stride, dilation or padding of a window, as in a graph.
const MAX_SPAN: i64 = 1 << 24;

/// The rule that says how many elements of padding there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AutoPad {
    /// As many as the attribute `pads` says.
    NotSet,
    /// None.
    Valid,
    /// As many as the outputs of strided windows over the whole image need; an odd one lies behind the image.
    SameUpper,
    /// The same, but an odd one lies before the image.
    SameLower,
}

impl AutoPad {
    pub(super) fn new(node: &NodeProto) -> Result<Self, String> {
        Ok(match node.string("auto_pad", "NOTSET")? {
            "NOTSET" | "" => Self::NotSet,
            "VALID" => Self::Valid,
            "SAME_UPPER" => Self::SameUpper,
            "SAME_LOWER" => Self::SameLower,
            other => {
                return Err(format!("its auto_pad is {other}; supported are NOTSET, VALID, SAME_UPPER and SAME_LOWER"));
            }
        })
    }

    /// The parts of `total` elements of padding before and after an image.
    pub(super) fn split(self, total: usize) -> [usize; 2] {
        match self {
            Self::SameUpper => [total / 2, total - total / 2],
            _ => [total - total / 2, total / 2],
        }
    }
}

/// An attribute with a number for each of `count` axes, which is at least `least`; `least` for each without the attribute.
pub(super) fn numbers(node: &NodeProto, name: &str, count: usize, least: i64) -> Result<Vec<usize>, String> {
    let given = match node.ints(name)? {
        None | Some([]) => return Ok(vec![least as usize; count]),
        Some(given) => given,
    };
    if given.len() != count || given.iter().any(|n| !(least..=MAX_SPAN).contains(n)) {
        return Err(format!("attribute {name} is {given:?}, expected {count} numbers from {least} to {MAX_SPAN}"));
    }
    Ok(given.iter().map(|&n| n as usize).collect())
}

/// The attribute `pads`: the padding before an image along each axis, and that after it.
pub(super) fn pads(node: &NodeProto, axes: usize) -> Result<[Vec<usize>; 2], String> {
    let mut before = numbers(node, "pads", 2 * axes, 0)?;
    let after = before.split_off(axes);
    Ok([before, after])
}

/// The number of elements from the first tap of a window to the last.
pub(super) fn extent(size: usize, dilation: usize) -> usize {
    size.saturating_sub(1).saturating_mul(dilation).saturating_add(1)
}

/// The window of a convolution or a pool whose size is known, over an image with these axes.
pub(super) fn window(node: &NodeProto, size: &[usize], image: &[usize]) -> Result<Window, String> {
    let strides = numbers(node, "strides", image.len(), 1)?;
    let dilations = numbers(node, "dilations", image.len(), 1)?;
    let auto_pad = AutoPad::new(node)?;
    let [before, after] = match auto_pad {
        AutoPad::NotSet => pads(node, image.len())?,
        AutoPad::Valid => [vec![0; image.len()], vec![0; image.len()]],
        AutoPad::SameUpper | AutoPad::SameLower => {
            let pair = |axis: usize| {
                let last = image[axis].div_ceil(strides[axis]).saturating_sub(1) * strides[axis];
                let end = last.saturating_add(extent(size[axis], dilations[axis]));
                auto_pad.split(end.saturating_sub(image[axis]))
            };
            let pairs: Vec<[usize; 2]> = (0..image.len()).map(pair).collect();
            [0, 1].map(|end| pairs.iter().map(|pair| pair[end]).collect())
        }
    };
    let window = Window::new(size).with_stride(&strides).with_dilation(&dilations);
    Ok(window.with_uneven_padding(&before, &after))
}

impl Importer {
    /// The lengths of the axes that a window slides over, of an image `[rows, C, H, W]` or `[rows, C, W]`.
    pub(super) fn image(&self, x: Run) -> Result<Vec<usize>, String> {
        let lengths = self.logical(&Value::Run(x));
        if !(3..=4).contains(&lengths.len()) {
            return Err(format!(
                "its image {} has {} axes, expected 3 or 4: rows, channels, and 1 or 2 that a window slides over",
                show(&lengths),
                lengths.len()
            ));
        }
        if x.merged > 1 {
            return Err(format!("its image {} has the batch merged with another axis", show(&lengths)));
        }
        Ok(kept(&lengths)?.1.split_off(2))
    }
}
