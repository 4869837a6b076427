//! `enfold` on the command line: from a model file to an int8 one, and what it costs.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
