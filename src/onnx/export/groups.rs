//! Linear layers of group-wise weights, as ONNX Runtime's `MatMulNBits`.

use super::Preset;
use super::exporter::Exporter;
use super::writer::{CONTRIB, int};
use crate::graph::{Graph, Node, NodeId};
use crate::onnx::attributes::int_attribute;
use crate::ops::Op;
use crate::values::{GroupQParams, QParams, Tensor};

impl Exporter<'_> {
    /// A layer of group-wise weights: ONNX Runtime's operator for them. Weights of 2 and 3 bits are stored with 4.
    pub(super) fn group_layer(&mut self, id: NodeId, x: &str, values: &Tensor, groups: &GroupQParams) {
        let node = self.graph.node(id);
        let weight = self.name(node.inputs[1]).to_owned();
        let (Some(codes), &[n, k]) = (values.as_i8(), values.shape()) else { return };
        let (size, blocks) = (groups.size(), groups.groups_per_row());
        let bits = stored_bits(self.graph.bits(self.graph.node(node.inputs[1]).inputs[0]));
        let half = 1i32 << (bits - 1);
        let zero_points: Vec<i32> = groups.groups().iter().map(|group| group.zero_point() + half).collect();
        // A block of the last features is filled with its zero point.
        let code = |row: usize, at: usize| match codes[row * k..][..k].get(at) {
            Some(&code) => i32::from(code) + half,
            None => zero_points[row * blocks + at / size],
        };
        let all: Vec<u8> = (0..n)
            .flat_map(|row| (0..blocks * size).map(move |at| (row, at)))
            .map(|(row, at)| code(row, at) as u8)
            .collect();
        let packed = self.writer.bytes(&format!("{weight}.packed"), &[n, blocks, size * bits / 8], packed(&all, bits));
        let scales: Vec<f32> = groups.groups().iter().map(QParams::scale).collect();
        let mut inputs = vec![x.to_owned(), packed, self.writer.floats(&format!("{weight}.scale"), &scales)];
        if !groups.is_symmetric() {
            let rows = zero_points.chunks(blocks);
            let bytes = rows.flat_map(|row| packed_row(row, bits)).collect();
            let dims = [n * (blocks * bits).div_ceil(8)];
            inputs.push(self.writer.bytes(&format!("{weight}.zero_point"), &dims, bytes));
        }
        // Of its levels of accuracy, 1 multiplies floats: others round the input once more.
        let attributes = [("K", k), ("N", n), ("bits", bits), ("block_size", size), ("accuracy_level", 1)];
        let attributes = attributes.into_iter().map(|(name, value)| int_attribute(name, int(value))).collect();
        let bias = node.inputs.get(2).map(|&bias| self.value(bias));
        let mut parts = self.parts(id);
        match bias {
            None => parts.last_with("MatMulNBits", &inputs, attributes),
            Some(bias) => {
                let product = parts.op_with("MatMulNBits", "product", &inputs, attributes);
                parts.last("Add", &[product, bias]);
            }
        }
        self.writer.set_domain("MatMulNBits", CONTRIB);
    }
}

/// The bits that ONNX Runtime stores for a weight of so many.
fn stored_bits(bits: u32) -> usize {
    if bits <= 4 { 4 } else { 8 }
}

/// Numbers of 4 or 8 bits, from the lowest bits of a byte on.
fn packed(values: &[u8], bits: usize) -> Vec<u8> {
    match bits {
        4 => values.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect(),
        _ => values.to_vec(),
    }
}

/// The zero points of a row, which begin with a byte of their own.
fn packed_row(zero_points: &[i32], bits: usize) -> Vec<u8> {
    packed(&zero_points.iter().map(|&z| z as u8).collect::<Vec<_>>(), bits)
}

/// The reason why a group-wise weight has no form in ONNX.
pub(super) fn refusal(
    graph: &Graph,
    id: NodeId,
    groups: &GroupQParams,
    readers: &[&Node],
    preset: Preset,
) -> Option<String> {
    let node = graph.node(id);
    let size = groups.size();
    let half = 1i32 << (stored_bits(graph.bits(node.inputs[0])) - 1);
    if preset == Preset::TensorRt {
        return Some("TensorRT has no layers with a scale for each group of features".to_owned());
    }
    if !matches!(graph.node(node.inputs[0]).op, Op::Constant(_) | Op::Quantize(_)) {
        return Some("its weight is not a constant".to_owned());
    }
    if !size.is_power_of_two() || !(16..=256).contains(&size) {
        return Some(format!("its groups have {size} features; ONNX Runtime's MatMulNBits has 16, 32, 64, 128 or 256"));
    }
    if let Some(group) = groups.groups().iter().find(|group| !(-half..half).contains(&group.zero_point())) {
        return Some(format!(
            "zero point {} is outside {}..={} of its stored bits",
            group.zero_point(),
            -half,
            half - 1
        ));
    }
    let odd = readers.iter().find(|reader| !matches!(reader.op, Op::Linear(_)) || reader.inputs[1] != id)?;
    Some(format!("{} reads its weight, whose groups only linear layers have", odd.name))
}
