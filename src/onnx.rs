//! ONNX files: float and quantized networks in, float and quantized networks out.
mod proto;
