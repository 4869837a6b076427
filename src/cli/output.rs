//! What leaves the program: text and files.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use enfold::files;
use super::failure::usage;


/// Prints; a reader that has gone, as in `| head`, is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Prints JSON, indented.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// One line on standard error, where a reader that has gone is none of our concern.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes a whole file or none.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

/// Refuses an output that is an input, or in a folder that does not exist, before any work is done.
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

/// Whether two paths lead to one file that exists.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| std::fs::canonicalize(path).ok();
    canonical(a).is_some_and(|a| canonical(b) == Some(a))
}

/// The extension of a path, in lower case.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// A number of bytes, for people.
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

/// `1 row`, `2 rows`, `2 batches`.
pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ if what.ends_with('h') => format!("{n} {what}es"),
        _ => format!("{n} {what}s"),
    }
}

/// Columns in which a cell is longer are not aligned.
const WIDEST: usize = 300;

/// Rows of cells as aligned columns; the first row is the header. The last column is not filled up.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..columns).map(|at| rows.iter().map(|row| cell(row, at)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cell = |(cell, width): (&String, &usize)| {
            // The formatter takes no width above 65,535.
            let missing = if *width > WIDEST { 0 } else { width - cell.chars().count() };
            format!("{cell}{}", " ".repeat(missing))
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
        // More than the formatter can align.
        let wide = "x".repeat(70_000);
        assert_eq!(table(&[vec![wide.clone(), "b".to_owned()]]), format!("{wide}  b\n"));
    }
}
