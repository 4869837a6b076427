//! A check of a file before it is decoded: two bytes can stand for a message of hundreds of bytes in memory.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::error::OnnxError;
use super::proto;

/// The memory that the messages and lists of a file may take in addition to its own bytes.
fn limit(bytes: usize) -> usize {
    bytes.saturating_mul(8).saturating_add(64 << 20)
}

/// The kinds of messages that can be repeated.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    Dimension,
    /// A message without repeated fields, of this many bytes in memory.
    Leaf(usize),
    Text,
    /// A list of numbers: the bytes of a number in memory, and the fewest bytes of a number in the file.
    Numbers(usize, usize),
}

impl Kind {
    fn field(self, tag: u32) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Model, 8) => Self::Leaf(size_of::<proto::OperatorSetIdProto>()),
            (Self::Model, 25) => Self::Function,
            (Self::Function, 4..=6) => Self::Text,
            (Self::Function, 7) => Self::Node,
            (Self::Function, 9) => Self::Leaf(size_of::<proto::OperatorSetIdProto>()),
            (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::Value,
            (Self::Graph, 15) => Self::Leaf(size_of::<proto::SparseTensorProto>()),
            (Self::Node, 1 | 2) => Self::Text,
            (Self::Attribute, 9) => Self::Leaf(size_of::<prost::bytes::Bytes>()),
            (Self::Node, 5) => Self::Attribute,
            (Self::Attribute, 7) | (Self::Tensor, 4) => Self::Numbers(4, 4),
            (Self::Attribute, 8) | (Self::Tensor, 1 | 7 | 11) => Self::Numbers(8, 1),
            (Self::Tensor, 5) => Self::Numbers(4, 1),
            (Self::Tensor, 10) => Self::Numbers(8, 8),
            (Self::Tensor, 13) => Self::Leaf(size_of::<proto::StringStringEntryProto>()),
            (Self::Value, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) => Self::Dimension,
            _ => return None,
        })
    }

    /// The bytes of one message in memory.
    fn size(self) -> usize {
        match self {
            Self::Model | Self::Type | Self::TensorType | Self::Shape => 0,
            Self::Function => size_of::<proto::FunctionProto>(),
            Self::Graph => size_of::<proto::GraphProto>(),
            Self::Node => size_of::<proto::NodeProto>(),
            Self::Attribute => size_of::<proto::AttributeProto>(),
            Self::Tensor => size_of::<proto::TensorProto>(),
            Self::Value => size_of::<proto::ValueInfoProto>(),
            Self::Dimension => size_of::<proto::DimensionProto>(),
            Self::Leaf(size) => size,
            Self::Text => size_of::<String>(),
            Self::Numbers(size, _) => size,
        }
    }
}

/// Refuses a file whose parts would take far more memory than it has bytes. A damaged file passes, since decoding finds the damage.
pub(super) fn check(bytes: &[u8]) -> Result<(), OnnxError> {
    let mut needed = 0usize;
    // The depth needs no limit here, since decoding refuses deep files.
    let mut open = vec![(Kind::Model, bytes)];
    while let Some((kind, mut rest)) = open.pop() {
        while rest.has_remaining() {
            let Ok((tag, wire)) = decode_key(&mut rest) else { break };
            let field = kind.field(tag);
            needed = needed.saturating_add(field.map_or(0, Kind::size));
            let length = match wire {
                WireType::Varint => match decode_varint(&mut rest) {
                    Ok(_) => 0,
                    Err(_) => break,
                },
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::LengthDelimited => match decode_varint(&mut rest) {
                    Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
                    Err(_) => break,
                },
                // ONNX files have no groups.
                _ => break,
            };
            let Some((inside, behind)) = rest.split_at_checked(length) else { break };
            rest = behind;
            if !matches!(wire, WireType::LengthDelimited) {
                continue;
            }
            match field {
                Some(Kind::Numbers(size, least)) => {
                    needed = needed.saturating_add(inside.len() / least * size);
                }
                Some(Kind::Leaf(_) | Kind::Text) | None => {}
                Some(message) => open.push((message, inside)),
            }
            if needed > limit(bytes.len()) {
                return Err(OnnxError::Expansion { bytes: bytes.len(), needed, limit: limit(bytes.len()) });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a graph of so many empty nodes.
    fn empty_nodes(count: usize) -> Vec<u8> {
        let mut bytes = vec![(7 << 3) | 2];
        prost::encoding::encode_varint(2 * count as u64, &mut bytes);
        bytes.extend([(1 << 3) | 2, 0].repeat(count));
        bytes
    }

    #[test]
    fn tiny_messages_do_not_become_gigabytes() {
        assert!(matches!(check(&empty_nodes(1 << 20)), Err(OnnxError::Expansion { .. })));
        assert_eq!(check(&empty_nodes(1 << 10)), Ok(()));
    }
}
