//! Loads model files: ONNX, or an archive of any stage.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use enfold::Graph;
use enfold::archive::{self, ArchiveError};
use enfold::files;
use enfold::numerics::FloatProducts;
use enfold::onnx::{self, ImportOptions};
use enfold::ops::{Constant, DequantizeDynamic, Op};
use enfold::quantize::accuracy::{ChannelStatistics, Hessians, SmoothOptions};
use enfold::quantize::{PreparedGraph, ToIntegerOptions, to_integer_with_options};
use prost::bytes::Bytes;

use super::coverage;
use super::failure::usage;
use super::output::{extension, same_file};

/// Values for the symbolic dimensions of ONNX models.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Dims {
    /// The value of a symbolic dimension of an ONNX model, or several with commas between them. A leading dimension without a
    /// value varies at run time.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = list)]
    dims: Vec<List>,
}

/// How products that stay float in a quantized model compute.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Products {
    /// Computes products that stay float in a quantized model with all bits of f32, as a float model does: more accurate, but devices
    /// agree within rounding only. An archive in integers keeps the products that it was made with.
    #[arg(long)]
    full_products: bool,
}

impl Products {
    pub(super) fn kind(self) -> FloatProducts {
        if self.full_products { FloatProducts::Full } else { FloatProducts::Reproducible }
    }
}

/// The dimensions of one argument.
type List = Vec<(String, usize)>;

impl Dims {
    /// Gives no dimension a value.
    pub(super) fn none() -> Self {
        Self { dims: Vec::new() }
    }

    /// Returns all names with their values. Refuses a name that is given twice.
    pub(super) fn by_name(&self) -> Result<List> {
        let mut values = HashMap::new();
        for (name, value) in self.dims.iter().flatten() {
            if let Some(other) = values.insert(name, value) {
                return Err(usage(format!("--dim {name} is given twice, as {other} and as {value}; give it once")));
            }
        }
        Ok(self.dims.concat())
    }
}

/// Parses `NAME=N,NAME=N`. Names may contain `=` and `,`: a value follows the last `=`, and only a comma after a value begins the next
/// name.
fn list(text: &str) -> Result<List, String> {
    let (mut list, mut name) = (Vec::new(), String::new());
    for part in text.split(',') {
        name += part;
        match name.rsplit_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse::<usize>().ok()?))) {
            Some(pair) => {
                list.push(pair);
                name.clear();
            }
            None => name.push(','),
        }
    }
    if let Some(rest) = name.strip_suffix(',') {
        let (_, value) = rest.rsplit_once('=').ok_or("expected NAME=N, as in batch=8")?;
        return Err(format!("{value:?} is no number above 0"));
    }
    match list.iter().find(|(name, value)| name.is_empty() || *value == 0) {
        Some((name, _)) if name.is_empty() => Err("the name is empty".to_owned()),
        Some((_, value)) => Err(format!("\"{value}\" is no number above 0")),
        None => Ok(list),
    }
}

/// The stage of the quantization flow that a model is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Float,
    Statistics,
    Prepared,
    Qdq,
    Integer,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "a float model",
            Self::Statistics => "channel statistics of a float model, still to be merged",
            Self::Prepared => "a prepared model, still to be converted",
            Self::Qdq => "a quantized model (quantize/dequantize form)",
            Self::Integer => "a quantized model (integer form)",
        })
    }
}

/// A model, with its file's path, size and format.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) format: &'static str,
    pub(super) stage: Stage,
    pub(super) graph: Graph,
    /// The number of nodes of each operator of an ONNX file.
    pub(super) operators: BTreeMap<String, usize>,
    /// The prepared graph with its observers, if this is the model's stage.
    pub(super) prepared: Option<PreparedGraph>,
    /// The second moments of the prepared graph, if the file holds them.
    pub(super) hessians: Option<Hessians>,
    /// The statistics of a float model that is to be smoothed, if this is the model's stage.
    pub(super) statistics: Option<(ChannelStatistics, SmoothOptions)>,
}

impl Model {
    /// Loads an ONNX file or an archive. The content tells which it is.
    pub(super) fn load(path: &Path, dims: &Dims) -> Result<Self> {
        let path = &opened(path);
        let name = path.display();
        if path.is_dir() {
            bail!("{name} is a folder; MODEL is an .onnx file or an archive that enfold has written");
        }
        // The file is read once, since a pipe cannot be read twice.
        let bytes = files::read(path).with_context(|| format!("{name}: the model cannot be read"))?;
        let (path, size_bytes) = (path.to_owned(), bytes.len() as u64);
        if !is_archive(&bytes) && extension(&path) != "safetensors" {
            let is_file = path.is_file();
            // A file without an extension is recognized by its content.
            if is_file && !["", "onnx"].contains(&extension(&path).as_str()) {
                bail!("{name} is no archive of enfold, nor called .onnx; MODEL is one of the two");
            }
            let options = ImportOptions::with_dims(dims.by_name()?);
            let bytes = Bytes::from(bytes);
            let operators = onnx::operators(bytes.clone()).map_err(|e| anyhow!(e)).with_context(|| name.to_string())?;
            // The library's advice names the argument --dim.
            let advice = |e: onnx::OnnxError| match &e {
                onnx::OnnxError::Unsupported(nodes) => {
                    anyhow!("{}\n{}", coverage::share(&operators, nodes), e.with_argument("--dim"))
                }
                _ => anyhow!(e.with_argument("--dim")),
            };
            // A pipe, or an open file without a path, has no folder in which external data could lie.
            let graph = match is_file && !is_descriptor(&path) {
                true => onnx::import_from(bytes, &path, &options),
                false => onnx::import(bytes, None, &options),
            };
            let graph = graph.map_err(advice).with_context(|| path.display().to_string())?;
            let stage = stage(&graph);
            let (prepared, hessians, statistics) = (None, None, None);
            let format = "ONNX";
            return Ok(Self { stage, path, size_bytes, format, graph, operators, prepared, hessians, statistics });
        }
        if let Some((dim, value)) = dims.by_name()?.first() {
            return Err(usage(format!(
                "--dim {dim}={value}: {name} is an archive, whose dimensions were set when its \
                ONNX model was imported; import it again, or leave --dim out"
            )));
        }
        let place = || path.display().to_string();
        let (mut prepared, mut hessians, mut statistics) = (None, None, None);
        let graph = match archive::from_bytes(&bytes) {
            Ok(graph) => graph,
            Err(ArchiveError::Kind { .. }) => match archive::calibration_from_bytes(&bytes) {
                Err(ArchiveError::Kind { .. }) => {
                    let found = archive::statistics_from_bytes(&bytes).with_context(place)?;
                    statistics.insert(found).0.graph().clone()
                }
                found => {
                    let (found, moments) = found.with_context(place)?;
                    hessians = moments;
                    prepared.insert(found).graph().clone()
                }
            },
            Err(error @ ArchiveError::Header { .. }) => {
                return Err(anyhow!(error).context(format!("{name} is a safetensors file, but no archive of enfold")));
            }
            Err(error) => return Err(anyhow!(error).context(path.display().to_string())),
        };
        let stage = match (&prepared, &statistics) {
            (Some(_), _) => Stage::Prepared,
            (None, Some(_)) => Stage::Statistics,
            (None, None) => stage(&graph),
        };
        let (format, operators) = ("archive", BTreeMap::new());
        Ok(Self { stage, path, size_bytes, format, graph, operators, prepared, hessians, statistics })
    }

    /// Returns the graph that engines execute: the integer form of a quantized model, and a float model as it is.
    pub(super) fn executable(&self, float_products: FloatProducts) -> Result<Graph> {
        match self.stage {
            Stage::Float | Stage::Integer => Ok(self.graph.clone()),
            Stage::Qdq => to_integer_with_options(&self.graph, &ToIntegerOptions { float_products })
                .with_context(|| self.path.display().to_string()),
            Stage::Prepared | Stage::Statistics => Err(self.unconverted()),
        }
    }

    /// Makes the error that the state of a shard has to be merged first.
    pub(super) fn unconverted(&self) -> anyhow::Error {
        let path = self.path.display();
        anyhow!("{path} is {}: enfold merge {path} --output OUT", self.stage)
    }

    /// Refuses an output that would overwrite a file with the model's weights.
    pub(super) fn check_output(&self, output: &Path) -> Result<()> {
        // An output that does not exist yet overwrites nothing.
        if self.format != "ONNX" || !self.path.is_file() || !output.exists() {
            return Ok(());
        }
        let files = onnx::data_files(&self.path).with_context(|| self.path.display().to_string())?;
        match files.iter().any(|file| same_file(file, output)) {
            true => Err(usage(format!(
                "{} holds weights of {}; write to another file",
                output.display(),
                self.path.display()
            ))),
            false => Ok(()),
        }
    }

    /// Returns the file's name without its folder.
    pub(super) fn name(&self) -> String {
        file_name(&self.path)
    }

    /// Returns the bytes of all constants as the graph holds them.
    pub(super) fn constant_bytes(&self) -> u64 {
        constant_bytes(&self.graph)
    }
}

/// Returns a file's name without its folder, or the whole path if it has no name.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Returns the bytes of all constants of a graph.
pub(super) fn constant_bytes(graph: &Graph) -> u64 {
    let bytes = |op: &Op| match op {
        Op::Constant(Constant { tensor, .. }) => tensor.len() as u64 * element_bytes(tensor.dtype()),
        _ => 0,
    };
    graph.nodes().iter().map(|node| bytes(&node.op)).sum()
}

fn element_bytes(dtype: enfold::values::DType) -> u64 {
    match dtype {
        enfold::values::DType::I8 => 1,
        enfold::values::DType::F32 | enfold::values::DType::I32 => 4,
        enfold::values::DType::I64 => 8,
    }
}

fn is_descriptor(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// Returns the real path of a file that a shell has opened, as in `< m.onnx`, since its external data lie beside it. Returns other paths
/// unchanged.
fn opened(path: &Path) -> PathBuf {
    let real = is_descriptor(path).then(|| path.canonicalize().ok()).flatten();
    real.filter(|real| real.is_file()).unwrap_or_else(|| path.to_owned())
}

/// Whether a file looks like safetensors, which begins with the length of its JSON header in 8 bytes, followed by the header.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{') && bytes[5..8] == [0; 3]
}

fn stage(graph: &Graph) -> Stage {
    let mut stage = Stage::Float;
    for node in graph.nodes() {
        match &node.op {
            Op::Quantize(_)
            | Op::Dequantize(_)
            | Op::QuantizeDynamic(_)
            | Op::DequantizeDynamic(DequantizeDynamic)
            | Op::ChooseQParams(_) => stage = Stage::Qdq,
            op if op.is_integer() => return Stage::Integer,
            _ => {}
        }
    }
    stage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions() {
        let pairs = |all: &[(&str, usize)]| all.iter().map(|&(name, n)| (name.to_owned(), n)).collect::<List>();
        for (text, expected) in [
            ("batch=8", &[("batch", 8)][..]),
            ("batch=8,seq=16", &[("batch", 8), ("seq", 16)]),
            ("a=b=3", &[("a=b", 3)]),
            ("max(a,b)=3,c=4", &[("max(a,b)", 3), ("c", 4)]),
            (",=3", &[(",", 3)]),
        ] {
            assert_eq!(list(text), Ok(pairs(expected)), "{text}");
        }
        for wrong in ["", "batch", "batch=", "batch=0", "=8", "batch=-1", "batch=8,", "batch=8,,c", "batch=8,=2"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
        let twice = Dims { dims: vec![pairs(&[("a", 1), ("b", 2)]), pairs(&[("a", 3)])] };
        let error = twice.by_name().expect_err("twice").to_string();
        assert_eq!(error, "--dim a is given twice, as 1 and as 3; give it once");
    }
}
