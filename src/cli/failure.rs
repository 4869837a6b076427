//! Formats errors in one line each.

use std::process::ExitCode;

use super::output;

/// An error in the arguments, with exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

/// Makes an error about the arguments.
pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// Joins an error and its causes, leaving out causes that the message contains already.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = on_one_line(&cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Joins the lines of a text.
fn on_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.fold(String::new(), |text, line| match text.chars().last() {
        None => line.to_owned(),
        Some(':') => format!("{text} {line}"),
        Some(_) => format!("{text}; {line}"),
    })
}

/// Prints what the argument parser reports: an error in one line, help and version as they are.
pub(super) fn report_arguments(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.exit_code() == 0 {
        // `print` does not count a closed pipe as an error.
        return if output::print(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // The message and its tips stand before the usage.
    let lines = text.lines().map(str::trim);
    let wanted: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let what = match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "error: a subcommand is missing".to_owned(),
        _ => on_one_line(&wanted.join("\n")),
    };
    output::print_stderr(&format!("{what}; see enfold --help"));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_lists_are_flat() {
        let error = anyhow::anyhow!("b: c").context("a").context("x: a");
        assert_eq!(one_line(&error), "x: a: b: c");
        assert_eq!(on_one_line("2 nodes:\n  p (q)\n  r (s)"), "2 nodes: p (q); r (s)");
    }
}
