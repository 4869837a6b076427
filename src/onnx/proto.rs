//! The messages of the ONNX format that this crate reads and writes, generated from `proto/onnx.proto`.
//!
//! prost-build's output is checked in, so that a build needs no compiler of `.proto` files;
//! `cargo run --manifest-path tests/onnx/make_proto/Cargo.toml` writes it anew. Fields that `onnx.proto` does not declare are skipped
//! when a file is read. Fields of type `bytes`, weights among them, are slices of the file's buffer.

#[allow(unreachable_pub, missing_docs, dead_code, clippy::all)]
mod onnx;

pub(super) use onnx::tensor_shape_proto::Dimension as DimensionProto;
pub(super) use onnx::type_proto::Tensor as TensorTypeProto;
pub(super) use onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};

/// Values of [`AttributeProto::type`].
pub(super) mod attribute_type {
    use super::onnx::attribute_proto::AttributeType as Type;

    pub(in crate::onnx) const FLOAT: i32 = Type::Float as i32;
    pub(in crate::onnx) const INT: i32 = Type::Int as i32;
    pub(in crate::onnx) const STRING: i32 = Type::String as i32;
    pub(in crate::onnx) const TENSOR: i32 = Type::Tensor as i32;
    pub(in crate::onnx) const GRAPH: i32 = Type::Graph as i32;
    pub(in crate::onnx) const FLOATS: i32 = Type::Floats as i32;
    pub(in crate::onnx) const INTS: i32 = Type::Ints as i32;
    pub(in crate::onnx) const STRINGS: i32 = Type::Strings as i32;
}

/// Values of [`TensorProto::data_type`] and [`TensorTypeProto::elem_type`].
pub(super) mod data_type {
    use super::onnx::tensor_proto::DataType as Type;

    pub(in crate::onnx) const FLOAT: i32 = Type::Float as i32;
    pub(in crate::onnx) const UINT8: i32 = Type::Uint8 as i32;
    pub(in crate::onnx) const INT8: i32 = Type::Int8 as i32;
    pub(in crate::onnx) const UINT16: i32 = Type::Uint16 as i32;
    pub(in crate::onnx) const INT16: i32 = Type::Int16 as i32;
    pub(in crate::onnx) const INT32: i32 = Type::Int32 as i32;
    pub(in crate::onnx) const INT64: i32 = Type::Int64 as i32;
    pub(in crate::onnx) const STRING: i32 = Type::String as i32;
    pub(in crate::onnx) const BOOL: i32 = Type::Bool as i32;
    pub(in crate::onnx) const FLOAT16: i32 = Type::Float16 as i32;
    pub(in crate::onnx) const DOUBLE: i32 = Type::Double as i32;
    pub(in crate::onnx) const UINT32: i32 = Type::Uint32 as i32;
    pub(in crate::onnx) const UINT64: i32 = Type::Uint64 as i32;
    pub(in crate::onnx) const BFLOAT16: i32 = Type::Bfloat16 as i32;
    pub(in crate::onnx) const UINT4: i32 = Type::Uint4 as i32;
    pub(in crate::onnx) const INT4: i32 = Type::Int4 as i32;
}
