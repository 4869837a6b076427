//! `enfold export` writes ONNX files.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use enfold::onnx::{self, ExportError, ExportOptions, Preset};

use super::model::{Dims, Model, Stage};
use super::output::{self, check_output, count, size};

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// The model: a float or quantize/dequantize archive, or .onnx.
    model: PathBuf,
    /// The ONNX file to write.
    #[arg(long, value_name = "OUT")]
    onnx: PathBuf,
    /// The runtime that will read the file: onnxruntime or tensorrt.
    #[arg(long, default_value = "onnxruntime", value_parser = preset)]
    preset: Preset,
    #[command(flatten)]
    dims: Dims,
}

fn preset(name: &str) -> Result<Preset, String> {
    name.parse().map_err(|_| "there are onnxruntime and tensorrt".to_owned())
}

impl Export {
    pub(super) fn run(&self) -> Result<()> {
        check_output(&self.onnx, &[&self.model])?;
        let model = Model::load(&self.model, &self.dims)?;
        model.check_output(&self.onnx)?;
        match model.stage {
            Stage::Prepared | Stage::Statistics => return Err(model.unconverted()),
            Stage::Integer => bail!(
                "{} is {}, which ONNX cannot hold; export the quantize/dequantize archive that enfold quantize writes",
                self.model.display(),
                model.stage
            ),
            Stage::Float | Stage::Qdq => {}
        }
        let exported = onnx::export(&model.graph, &ExportOptions { preset: self.preset, ..ExportOptions::default() });
        let bytes = exported.map_err(|error| match error {
            ExportError::Asymmetric { nodes, .. } => anyhow!(
                "{}: for {} activations must have zero point 0, which {} have not, {} among them; quantize with --symmetric",
                model.name(),
                self.preset,
                count(nodes.len(), "node"),
                nodes.first().map_or("none", |(node, _)| node.as_str())
            ),
            error => anyhow::Error::new(error).context(model.name()),
        })?;
        output::write(&self.onnx, &bytes)?;
        output::print(&format!("{}: {}\n", self.onnx.display(), size(bytes.len() as u64)))
    }
}
