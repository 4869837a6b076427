//! The subcommands and their arguments. Each subcommand has a file.

mod adapters;
mod arrays;
mod bench;
mod compare;
mod coverage;
mod device;
mod elements;
mod export;
mod failure;
mod feed;
mod inspect;
mod model;
mod npy;
mod npz;
mod output;
mod plots;
mod progress;
mod quantize;
mod report;
mod run;
mod sensitivity;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::failure::{UsageError, one_line};
use self::progress::Stderr;

/// Quantizes networks to int8, runs them on a GPU or the CPU, and measures the loss of accuracy and the time.
///
/// MODEL is an .onnx file or an archive that enfold has written. DATA is an .npy file (for models with one input), or an .npz or
/// .safetensors file whose arrays have the names of the inputs, or `in.NAME`.
///
/// Exit status: 0 for success, 1 for an error, 2 for wrong arguments.
#[derive(Debug, Parser)]
#[command(name = "enfold", version, max_term_width = 100)]
struct Cli {
    /// Prints neither progress bars nor notes.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists a model's graph, parameters and sizes, and which nodes would be quantized, which not, and why.
    Inspect(inspect::Inspect),
    /// Quantizes a float model to int8.
    ///
    /// Static quantization, the default, needs --calibrate with data like those that the model will see. Dynamic quantization,
    /// --dynamic, needs no data: it computes the scale of each activation at run time. The result is an archive in quantize/dequantize
    /// form, or an ONNX file if OUT ends in .onnx.
    Quantize(quantize::Quantize),
    /// Measures what int8, 4-bit weights and float cost in accuracy for each layer, and chooses for a target.
    Sensitivity(sensitivity::Sensitivity),
    /// Merges the calibration states of shards, and converts the result.
    Merge(quantize::Merge),
    /// Runs a model on data, and writes each output under its name.
    Run(run::Run),
    /// Compares a quantized model with its float model, node by node.
    Compare(compare::Compare),
    /// Writes a float or quantize/dequantize model as an ONNX file.
    Export(export::Export),
    /// Measures the time of a model, after comparing its outputs with the interpreter's.
    Bench(bench::Bench),
    /// Lists the GPU adapters of this machine.
    Adapters(adapters::Adapters),
    /// Prints the completion script of a shell, for use as in `source <(enfold completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments and runs the subcommand. Prints an error in one line.
pub(crate) fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off"))
        .format(|line, record| {
            let text = record.args().to_string();
            writeln!(line, "[{} {}] {}", record.level(), record.target(), output::printable(&text))
        })
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::report_arguments(&error),
    };
    let stderr = Stderr::new(cli.quiet);
    match cli.command.run(&stderr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stderr.error(&one_line(&error));
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

impl Command {
    fn run(self, stderr: &Stderr) -> anyhow::Result<()> {
        match self {
            Self::Inspect(command) => command.run(),
            Self::Quantize(command) => command.run(stderr),
            Self::Sensitivity(command) => command.run(stderr),
            Self::Merge(command) => command.run(stderr),
            Self::Run(command) => command.run(stderr),
            Self::Compare(command) => command.run(stderr),
            Self::Export(command) => command.run(),
            Self::Bench(command) => command.run(stderr),
            Self::Adapters(command) => command.run(stderr),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "enfold", &mut script);
                output::print(&String::from_utf8_lossy(&script))
            }
        }
    }
}
