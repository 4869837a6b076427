//! The command line `enfold`: quantizes model files to int8, runs, compares and exports them.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
