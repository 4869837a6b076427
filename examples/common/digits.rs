//! Loads handwritten digits and a trained float network for them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

pub(crate) const PIXELS: usize = 64;
pub(crate) const CLASSES: usize = 10;

/// Images `[n, 64]` with pixels from 0 to 1, and their labels.
pub(crate) struct Digits {
    pub(crate) train: Vec<f32>,
    #[allow(dead_code)] // Only the example that trains reads them.
    pub(crate) train_labels: Vec<u8>,
    pub(crate) test: Vec<f32>,
    pub(crate) labels: Vec<u8>,
}

impl Digits {
    pub(crate) fn load() -> Result<Self> {
        let bytes = read("digits.safetensors")?;
        let file = SafeTensors::deserialize(&bytes).context("digits.safetensors")?;
        let pixels = |name: &str| -> Result<Vec<f32>> {
            Ok(data(&file, name, Dtype::U8)?.data().iter().map(|&pixel| f32::from(pixel) / 16.0).collect())
        };
        let labels = |name: &str| -> Result<Vec<u8>> { Ok(data(&file, name, Dtype::U8)?.data().to_vec()) };
        Ok(Self {
            train: pixels("train.images")?,
            train_labels: labels("train.labels")?,
            test: pixels("test.images")?,
            labels: labels("test.labels")?,
        })
    }

    /// The test images in batches of `rows`; the last batch may be smaller.
    pub(crate) fn batches(&self, rows: usize) -> Result<Vec<Tensor>> {
        self.test.chunks(rows * PIXELS).map(images).collect()
    }

    /// The share of test images whose largest output belongs to the label. Outputs may be floats or quantized values.
    pub(crate) fn accuracy(&self, outputs: &[f32]) -> Result<f64> {
        ensure!(outputs.len() == self.labels.len() * CLASSES, "{} outputs", outputs.len());
        let right = outputs.chunks_exact(CLASSES).zip(&self.labels).filter(|(scores, label)| {
            let best = (0..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
            best == usize::from(**label)
        });
        Ok(right.count() as f64 / self.labels.len() as f64)
    }
}

/// Makes a batch `[n, 64]` of pixels.
pub(crate) fn images(pixels: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_f32(&[pixels.len() / PIXELS, PIXELS], pixels.to_vec())?)
}

/// The trained float network 64-256-128-10.
#[allow(dead_code)] // One example trains a network of its own.
pub(crate) fn float_graph() -> Result<Graph> {
    let bytes = read("mlp.safetensors")?;
    let file = SafeTensors::deserialize(&bytes).context("mlp.safetensors")?;
    let tensor = |name: &str| -> Result<Tensor> {
        let view = data(&file, name, Dtype::F32)?;
        let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Tensor::from_f32(view.shape(), floats.collect())?)
    };
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(PIXELS))?;
    let h = g.linear("fc1", x, tensor("0.weight")?, Some(tensor("0.bias")?))?;
    let h = g.relu("relu1", h)?;
    let h = g.linear("fc2", h, tensor("2.weight")?, Some(tensor("2.bias")?))?;
    let h = g.relu("relu2", h)?;
    let y = g.linear("fc3", h, tensor("4.weight")?, Some(tensor("4.bias")?))?;
    Ok(g.finish([y])?)
}

fn read(name: &str) -> Result<Vec<u8>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A machine that got the binary alone has no crate; there the data lies under the working directory.
    let root = if manifest.exists() { manifest } else { Path::new("") };
    let path = root.join("examples/data/digits").join(name);
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// Returns a tensor of the file, and fails if it has another type.
fn data<'f>(file: &SafeTensors<'f>, name: &str, expected: Dtype) -> Result<TensorView<'f>> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    ensure!(view.dtype() == expected, "{name} is {:?}, expected {expected:?}", view.dtype());
    Ok(view)
}

/// Runs all batches and returns their outputs as floats; quantized values keep their numbers.
pub(crate) fn collect(batches: &[Tensor], run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f32>> {
    let mut outputs = Vec::new();
    for batch in batches {
        match run(batch)? {
            Tensor::I8(values) => outputs.extend(values.iter().map(|&value| f32::from(value))),
            Tensor::F32(floats) => outputs.extend(floats.iter().copied()),
            other => anyhow::bail!("an output of {}", other.dtype()),
        }
    }
    Ok(outputs)
}

/// Prints and returns how many quantized values differ.
#[allow(clippy::print_stdout)]
pub(crate) fn mismatching(engine: &str, actual: &[f32], expected: &[f32]) -> Result<usize> {
    ensure!(actual.len() == expected.len(), "{} values from {engine}, expected {}", actual.len(), expected.len());
    let count = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
    println!("mismatching codes {engine} vs reference: {count} of {}", expected.len());
    Ok(count)
}
