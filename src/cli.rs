//! Subcommands and their arguments; one file each does the work.

mod adapters;
mod arrays;
mod bench;
mod compare;
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
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::failure::{Failure, one_line};
use self::progress::Stderr;

/// Quantizes networks to int8, runs them on any GPU or the CPU, and says what it costs.
///
/// MODEL is an .onnx file or an archive that enfold has written. DATA is .npy (models with one input), .npz or .safetensors, with
/// arrays by input name, or by `in.NAME`.
///
/// Exit status: 0 if all went well, 1 if not, 2 if the arguments are wrong.
#[derive(Debug, Parser)]
#[command(name = "enfold", version, max_term_width = 100)]
struct Cli {
    /// No progress bars and no notes.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists a model's graph, parameters and sizes, what would be quantized, and what not and why.
    Inspect(inspect::Inspect),
    /// Quantizes a float model to int8.
    ///
    /// Static quantization, the default, needs --calibrate: data like that which the model will see. --dynamic needs none: the scale
    /// of each activation is found at run time. The result is an archive in quantize/dequantize form, or ONNX if OUT ends in .onnx.
    Quantize(quantize::Quantize),
    /// Joins what shards have calibrated, and converts the result.
    Merge(quantize::Merge),
    /// Runs a model, and writes each output under its name.
    Run(run::Run),
    /// Compares a quantized model with its float model, node by node.
    Compare(compare::Compare),
    /// Writes a float or quantize/dequantize model as ONNX.
    Export(export::Export),
    /// Measures a model, after checking its outputs against the reference.
    Bench(bench::Bench),
    /// Lists the GPU adapters that answer.
    Adapters(adapters::Adapters),
    /// Prints the completions of a shell, for example for `source <(enfold completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments, runs the subcommand, and says in one line what went wrong.
pub(crate) fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off"))
        .format(|line, record| {
            let text = record.args().to_string();
            writeln!(line, "[{} {}] {}", record.level(), record.target(), output::shown(&text))
        })
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::of_arguments(&error),
    };
    let stderr = Stderr::new(cli.quiet);
    match cli.command.run(&stderr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stderr.error(&one_line(&error));
            ExitCode::from(if error.is::<Failure>() { 2 } else { 1 })
        }
    }
}

impl Command {
    fn run(self, stderr: &Stderr) -> anyhow::Result<()> {
        match self {
            Self::Inspect(command) => command.run(),
            Self::Quantize(command) => command.run(stderr),
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
