//! Runs a command with a time limit, and measures its memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::space::Ran;

/// The result of a command, and its peak memory.
pub(super) struct Watched {
    pub(super) ran: Ran,
    pub(super) peak_mb: u64,
}

/// Runs a command. Kills it when its time is over.
pub(super) fn watched(mut command: Command, out: &Path, seconds: u64) -> Result<Watched, String> {
    // The output goes to files, since nothing reads a pipe while the command runs.
    let stream = |end: &str| out.with_extension(end);
    let to = |end| Stdio::from(std::fs::File::create(stream(end)).expect("a file for what it prints"));
    let mut child = command.stdout(to("stdout")).stderr(to("stderr")).spawn().map_err(|e| e.to_string())?;
    let status = format!("/proc/{}/status", child.id());
    let (started, mut peak_kb) = (Instant::now(), 0);
    let code = loop {
        // VmHWM is the peak so far. The last reading is at most one pause before the end.
        let high_water = std::fs::read_to_string(&status).ok().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        });
        peak_kb = high_water.unwrap_or(peak_kb).max(peak_kb);
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status.code();
        }
        if started.elapsed() > Duration::from_secs(seconds) {
            child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
            return Err(format!("it runs for more than {seconds} s"));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |end| match std::fs::read(stream(end)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Watched { ran: Ran { code, out: text("stdout")?, err: text("stderr")? }, peak_mb: peak_kb / 1024 })
}
