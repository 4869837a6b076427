//! Lines that a passing test prints too.

use std::io::Write;

/// Writes a line past the test harness, which captures `println!` of tests that pass.
pub(crate) fn report(line: &str) {
    // A closed stderr is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
