//! Prints the table, and writes the JSON.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use enfold::gpu::context::Context;
use serde_json::{Value, json};

use crate::arguments::layer_series;
use crate::ceiling::Ceilings;

/// One line of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) series: String,
    pub(crate) shape: [usize; 3],
    pub(crate) seconds: f64,
    pub(crate) gops: f64,
    /// The number of rounds; `seconds` is their median.
    pub(crate) rounds: usize,
    pub(crate) least_seconds: Option<f64>,
    /// Bytes of weights and activations that one run reads and writes.
    pub(crate) bytes: Option<usize>,
    /// The number of output elements that were compared with the interpreter's.
    pub(crate) compared: Option<usize>,
    pub(crate) kernel: Option<String>,
    pub(crate) of_ceilings: Option<OfCeilings>,
    /// The series that it is compared with, and how many times their seconds it takes.
    pub(crate) ratios: Vec<(String, f64)>,
}

/// Throughput as a fraction of the ceilings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfCeilings {
    pub(crate) dot: f64,
    pub(crate) memory: OfMemory,
}

/// Bytes a second as a fraction of a ceiling.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OfMemory {
    /// Of a copy, which reads as much as it writes.
    Copy(f64),
    /// Of reading, for a layer that writes less than a hundredth of its bytes: one of few rows.
    Read(f64),
}

impl Measured {
    pub(crate) fn gigabytes(&self) -> Option<f64> {
        self.bytes.map(|bytes| 1e-9 * bytes as f64 / self.seconds)
    }

    pub(crate) fn compared_with(mut self, ceilings: &Ceilings) -> Self {
        let dot = self.gops * 1e-3 / ceilings.dot_tops;
        let [rows, _, n] = self.shape;
        let mostly_reads = self.bytes.is_some_and(|bytes| rows * n * 100 <= bytes);
        let memory = |gigabytes: f64| match mostly_reads {
            true => OfMemory::Read(gigabytes / ceilings.read_gigabytes),
            false => OfMemory::Copy(gigabytes / ceilings.copy_gigabytes),
        };
        self.of_ceilings = self.gigabytes().map(|gigabytes| OfCeilings { dot, memory: memory(gigabytes) });
        self
    }

    pub(crate) fn print(&self) {
        let Self { series, seconds, gops, .. } = self;
        print!("  {series:<24} {:>12.1} us", seconds * 1e6);
        // Some series do not count their operations.
        if *gops > 0.0 {
            print!(" {:>9.4} TOPS", gops * 1e-3);
        }
        if let Some(gigabytes) = self.gigabytes() {
            print!(" {gigabytes:>8.2} GB/s");
        }
        if let Some(OfCeilings { dot, memory }) = self.of_ceilings {
            let (of, what) = match memory {
                OfMemory::Copy(of) => (of, "copy"),
                OfMemory::Read(of) => (of, "read"),
            };
            print!(" {:>5.1} % of dot, {:>5.1} % of {what}", dot * 100.0, of * 100.0);
        }
        if let Some(kernel) = &self.kernel {
            print!("  {kernel}");
        }
        println!();
    }
}

/// The series that are compared with another one, and the words to print before the ratio.
const RATIOS: [(&str, &str, &str); 7] = [
    ("cpu engine", "rten-gemm bare", ""),
    ("gpu resident", "gpu naive", "picked against naive: "),
    ("gpu checked", "gpu naive", "checked against naive: "),
    ("gpu checked", "gpu resident", "checked against trusted: "),
    ("gpu tuned", "gpu resident", "tuned against picked: "),
    ("gpu matrix units", "gpu resident", "matrix units against packed dot products: "),
    ("gpu resident", "gpu f32", "int8 against f32: "),
];

pub(crate) fn print_ratios(results: &[Measured]) {
    for (series, base, what) in RATIOS {
        let of = |name| results.iter().find(|m| m.series == name).map(|m| m.seconds);
        if let (Some(series_seconds), Some(base_seconds)) = (of(series), of(base)) {
            let (times, fast) = (series_seconds / base_seconds, base_seconds / series_seconds);
            println!("  {what}{series} takes {times:.3} times {base}, {fast:.2} times as fast");
        }
    }
}

/// Writes the results to `file`, or to a file called after the adapter. Returns its path.
pub(crate) fn write_json(
    file: Option<&Path>,
    context: Option<&Context>,
    ceilings: Option<&Ceilings>,
    rounds: usize,
    results: &[Measured],
) -> Result<PathBuf> {
    let info = context.map(|context| &context.info);
    let path = match file {
        Some(file) => file.to_owned(),
        None => {
            let name = info.map_or("no adapter", |info| info.name.as_str());
            Path::new("benches/results").join(format!("{}.json", file_stem(name)))
        }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let of_layers = layer_series();
    let naive = |shape| results.iter().find(|m| m.shape == shape && m.series == "gpu naive").map(|m| m.seconds);
    let naive_of = |m: &Measured| naive(m.shape).filter(|_| of_layers.contains(&m.series.as_str()));
    let results: Vec<Value> = results.iter().map(|m| json_of(m, naive_of(m))).collect();
    let json = json!({
        "adapter": info.map(|i| i.name.clone()),
        "backend": info.map(|i| format!("{:?}", i.backend)),
        "device_type": info.map(|i| format!("{:?}", i.device_type)),
        "driver": info.map(|i| format!("{} {}", i.driver, i.driver_info)),
        "software": context.is_some_and(Context::is_software),
        "cpu_threads": rayon::current_num_threads(),
        "rounds": rounds,
        "ceilings": ceilings.map(|c| json!({
            "dot_tops": c.dot_tops, "copy_gigabytes_per_second": c.copy_gigabytes, "copy_bytes": c.copy_bytes,
            "read_gigabytes_per_second": c.read_gigabytes, "read_bytes": c.read_bytes,
        })),
        "results": results,
    });
    std::fs::write(&path, serde_json::to_string_pretty(&json)? + "\n").with_context(|| path.display().to_string())?;
    Ok(path)
}

fn json_of(m: &Measured, naive: Option<f64>) -> Value {
    let [rows, k, n] = m.shape;
    let mut value = json!({
        "series": m.series, "rows": rows, "k": k, "n": n, "seconds": m.seconds, "gops": m.gops, "rounds": m.rounds,
    });
    let ratio = naive.map(|naive| m.seconds / naive);
    let of_memory =
        |wanted: fn(OfMemory) -> Option<f64>| m.of_ceilings.and_then(|of| wanted(of.memory)).map(Value::from);
    let of_copy = |memory| if let OfMemory::Copy(of) = memory { Some(of) } else { None };
    let of_read = |memory| if let OfMemory::Read(of) = memory { Some(of) } else { None };
    let optional = [
        ("least_seconds", m.least_seconds.map(Value::from)),
        ("gigabytes_per_second", m.gigabytes().map(Value::from)),
        ("of_dot_ceiling", m.of_ceilings.map(|of| of.dot.into())),
        ("of_copy_ceiling", of_memory(of_copy)),
        ("of_read_ceiling", of_memory(of_read)),
        ("ratio_to_naive", ratio.map(Value::from)),
        ("elements_compared", m.compared.map(Value::from)),
        ("kernel", m.kernel.clone().map(Value::from)),
    ];
    for (key, member) in optional {
        if let Some(member) = member {
            value[key] = member;
        }
    }
    for (to, ratio) in &m.ratios {
        value["ratio_to"][to] = (*ratio).into();
    }
    value
}

/// Reduces a name to lowercase letters, digits and single dashes.
fn file_stem(name: &str) -> String {
    let plain = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), " ");
    plain.split_whitespace().collect::<Vec<_>>().join("-")
}
