//! Small models, and data for them.

use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor, archive};
use safetensors::tensor::{Dtype, TensorView};

use crate::space::Space;

pub(crate) fn normals(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| (0..4).map(|_| random.f32() - 0.5).sum::<f32>() * scale).collect()
}

fn tensor(seed: u64, shape: &[usize], scale: f32) -> Tensor {
    Tensor::from_f32(shape, normals(seed, shape.iter().product(), scale)).unwrap()
}

/// Builds three layers that static quantization makes integer from end to end. HTML must escape the name of the last.
pub(crate) fn mlp() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(12)).unwrap();
    let h = g.linear("block.fc1", x, tensor(1, &[24, 12], 0.4), Some(tensor(2, &[24], 0.2))).unwrap();
    let h = g.relu("block.relu1", h).unwrap();
    let h = g.linear("block.fc2", h, tensor(3, &[16, 24], 0.3), None).unwrap();
    let h = g.gelu("gelu", h).unwrap();
    let y = g.linear("<head>&co", h, tensor(4, &[5, 16], 0.3), Some(tensor(5, &[5], 0.2))).unwrap();
    g.finish([y]).unwrap()
}

/// Builds an encoder with a fixed batch, two inputs (ids and a bias), two outputs, and products of two activations.
pub(crate) fn encoder() -> Graph {
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::fixed(&[4, 6]), DType::I32).unwrap();
    let bias = g.input("bias", Shape::fixed(&[4, 6, 8])).unwrap();
    let h = g.embedding("embedding", ids, tensor(6, &[20, 8], 1.0)).unwrap();
    let h = g.add("sum", h, bias).unwrap();
    let q = g.linear("attention.q", h, tensor(7, &[8, 8], 0.6), None).unwrap();
    let k = g.linear("attention.k", h, tensor(8, &[8, 8], 0.6), None).unwrap();
    let k = g.transpose("attention.kt", k, &[0, 2, 1]).unwrap();
    let scores = g.matmul("attention.scores", q, k).unwrap();
    let p = g.softmax("attention.softmax", scores, 2).unwrap();
    let y = g.matmul("attention.mixed", p, h).unwrap();
    g.finish([y, p]).unwrap()
}

impl Space {
    pub(crate) fn save(&self, name: &str, graph: &Graph) {
        archive::save(graph, self.path(name)).unwrap();
    }

    /// Writes and returns `rows` rows for [`mlp`].
    pub(crate) fn mlp_data(&self, name: &str, rows: usize) -> Tensor {
        let x = tensor(9, &[rows, 12], 1.5);
        self.data(name, &[("x", &x)]);
        x
    }

    /// Writes `rows` rows for [`encoder`].
    pub(crate) fn encoder_data(&self, name: &str, rows: usize) {
        let mut random = fastrand::Rng::with_seed(5);
        let ids = Tensor::from_i64(&[rows, 6], (0..rows * 6).map(|_| random.i64(0..20)).collect()).unwrap();
        self.data(name, &[("in.ids", &ids), ("in.bias", &tensor(10, &[rows, 6, 8], 1.0)), ("out.y", &ids)]);
    }

    /// Writes a safetensors file.
    pub(crate) fn data(&self, name: &str, arrays: &[(&str, &Tensor)]) {
        let bytes: Vec<(Dtype, Vec<u8>)> = arrays.iter().map(|(_, tensor)| bytes(tensor)).collect();
        let views = arrays.iter().zip(&bytes).map(|((name, tensor), (dtype, bytes))| {
            (*name, TensorView::new(*dtype, tensor.shape().to_vec(), bytes).unwrap())
        });
        std::fs::write(self.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Copies a file from `tests/onnx`.
    pub(crate) fn copy(&self, name: &str) {
        let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx").join(name);
        std::fs::copy(&from, self.path(name)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// Reads the arrays of a safetensors file, which must all be f32.
    pub(crate) fn arrays(&self, name: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        self.arrays_of(name, "")
    }

    /// Reads the arrays whose names begin with `prefix`, sorted by name. They must be f32.
    pub(crate) fn arrays_of(&self, name: &str, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let array = |(name, view): (String, TensorView<'_>)| {
            assert_eq!(view.dtype(), Dtype::F32, "{name}");
            let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (name, view.shape().to_vec(), values)
        };
        let wanted = file.tensors().into_iter().filter(|(name, _)| name.starts_with(prefix));
        let mut arrays: Vec<_> = wanted.map(array).collect();
        arrays.sort_by(|a: &(String, _, _), b| a.0.cmp(&b.0));
        arrays
    }
}

fn bytes(tensor: &Tensor) -> (Dtype, Vec<u8>) {
    match tensor {
        Tensor::F32(a) => (Dtype::F32, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Tensor::I8(a) => (Dtype::I8, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Tensor::I32(a) => (Dtype::I32, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Tensor::I64(a) => (Dtype::I64, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}
