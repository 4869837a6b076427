//! Errors, in one line each.

use std::process::ExitCode;

use super::output;

/// Arguments that make no sense: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(String);

/// An error of the caller's arguments.
pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure(message.into()).into()
}

/// An error and its causes, without those that its message tells already.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = flat(&cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A list becomes one line.
fn flat(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.fold(String::new(), |text, line| match text.chars().last() {
        None => line.to_owned(),
        Some(':') => format!("{text} {line}"),
        Some(_) => format!("{text}; {line}"),
    })
}

/// What the parser refuses, in one line; help and version as they are.
pub(super) fn of_arguments(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.exit_code() == 0 {
        // A closed pipe is no failure.
        return if output::print(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // The usage follows an empty line; what comes before, and tips, is what went wrong.
    let lines = text.lines().map(str::trim);
    let wanted: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let what = match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "error: a subcommand is missing".to_owned(),
        _ => flat(&wanted.join("\n")),
    };
    output::complain(&format!("{what}; see enfold --help"));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_lists_are_flat() {
        let error = anyhow::anyhow!("b: c").context("a").context("x: a");
        assert_eq!(one_line(&error), "x: a: b: c");
        assert_eq!(flat("2 nodes:\n  p (q)\n  r (s)"), "2 nodes: p (q); r (s)");
    }
}
