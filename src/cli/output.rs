//! Writes text and files.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use enfold::files;

use super::failure::usage;

/// Whether a character could move the cursor, colour, hide, reorder or end a line. Names from a file must not print such characters.
fn is_control(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// Escapes the characters of a line that a terminal would obey, so that a name is shown as it is.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c).then(|| c.escape_default().to_string()))
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<String>) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return text.into();
    }
    text.chars().map(|c| escape(c).unwrap_or_else(|| c.to_string())).collect::<String>().into()
}

/// Prints lines. A closed pipe, as in `| head`, is no error.
pub(super) fn print(text: &str) -> Result<()> {
    let text = escaped(text, |c| (is_control(c) && !matches!(c, '\n' | '\t')).then(|| c.escape_default().to_string()));
    print_unescaped(&text)
}

fn print_unescaped(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Prints JSON, indented.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    // The library escapes only the characters that JSON has to escape.
    let text = escaped(&text, |c| (is_control(c) && c != '\n').then(|| format!("\\u{:04x}", u32::from(c))));
    print_unescaped(&format!("{text}\n"))
}

/// Prints one line on standard error. A closed pipe is no error.
pub(super) fn print_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line));
}

/// Writes a file, or leaves it as it was if writing fails.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

/// Refuses an output that is an input, or whose folder does not exist, before any work is done.
pub(super) fn check_output(output: &Path, inputs: &[&Path]) -> Result<()> {
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if output.file_name().is_none() || output.is_dir() {
        return Err(usage(format!("{} is a folder; name a file", output.display())));
    }
    if !folder.is_dir() {
        return Err(usage(format!("{}: the folder {} does not exist", output.display(), folder.display())));
    }
    match inputs.iter().find(|input| same_file(input, output)) {
        Some(input) => {
            Err(usage(format!("{} is an input; write to another file than {}", output.display(), input.display())))
        }
        None => Ok(()),
    }
}

/// Whether two paths lead to the same existing file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| std::fs::canonicalize(path).ok();
    canonical(a).is_some_and(|a| canonical(b) == Some(a))
}

/// Returns the extension of a path in lower case, or an empty text.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map_or_else(String::new, |e| e.to_string_lossy().to_lowercase())
}

/// Formats a number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB"];
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

/// Formats a count with its noun: `1 row`, `2 rows`, `2 batches`.
pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ if what.ends_with('h') => format!("{n} {what}es"),
        _ => format!("{n} {what}s"),
    }
}

/// Columns with a longer cell are not aligned.
const WIDEST: usize = 300;

/// Formats rows of cells as aligned columns. The first row is the header.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<Cow<'_, str>>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..columns).map(|at| rows.iter().map(|row| cell(row, at)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<Cow<'_, str>>| {
        let cell = |(cell, width): (&Cow<'_, str>, &usize)| {
            // `format!` would panic for a width above 65,535.
            let padding = if *width > WIDEST { 0 } else { width - cell.chars().count() };
            format!("{cell}{}", " ".repeat(padding))
        };
        let cells: Vec<String> = row.iter().zip(&widths).map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_tables() {
        assert_eq!((size(999), size(1_234_000)), ("999 bytes".to_owned(), "1.2 MB".to_owned()));
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "a     b\nlong  c\n");
        // A name with a line break stays in its row.
        assert_eq!(table(&[vec!["a\nb\u{1b}[2J".to_owned(), "c".to_owned()]]), "a\\nb\\u{1b}[2J  c\n");
        // A cell may be wider than `format!` can align.
        let wide = "x".repeat(70_000);
        assert_eq!(table(&[vec![wide.clone(), "b".to_owned()]]), format!("{wide}  b\n"));
    }
}
