//! Runs the binary in a folder of one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that is empty when the test begins, and stays afterwards, so that it can be inspected.
pub(crate) struct Space(PathBuf);

/// The exit status and the output of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Space {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Lists the names of all files, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entry = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&self.0).unwrap().map(entry).collect();
        names.sort();
        names
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enfold"));
        // Drivers print a warning if this variable is missing.
        command.current_dir(&self.0).env("XDG_RUNTIME_DIR", &self.0).args(arguments.split_whitespace());
        command
    }

    /// Runs `enfold` with arguments separated by spaces.
    pub(crate) fn enfold(&self, arguments: &str) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs `enfold`, which must succeed and print nothing on standard error. Returns its output.
    pub(crate) fn ok(&self, arguments: &str) -> String {
        let ran = self.enfold(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "enfold {arguments}\n{}", ran.out);
        ran.out
    }

    /// Runs `enfold`, which must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Runs `enfold`, which must fail with a line on standard error that contains all of `parts`, and must write nothing else.
    pub(crate) fn fails(&self, code: i32, arguments: &str, parts: &[&str]) {
        let before = self.files();
        let ran = self.enfold(arguments);
        let what = format!("enfold {arguments}: {ran:?}");
        assert_eq!(ran.code, Some(code), "{what}");
        assert_eq!((ran.err.lines().count(), ran.out.as_str()), (1, ""), "one line: {what}");
        assert!(ran.err.starts_with("error: "), "{what}");
        parts.iter().for_each(|part| assert!(ran.err.contains(part), "{part:?} is not in {what}"));
        assert_eq!(self.files(), before, "{what}");
    }
}

/// Whether a GPU adapter answers. Panics if none does and that is not allowed; `tests/run.sh` counts the printed line.
pub(crate) fn has_adapter(space: &Space) -> bool {
    let any = !space.json("adapters --json").as_array().unwrap().is_empty();
    if !any {
        assert!(std::env::var("ENFOLD_ALLOW_NO_GPU").is_ok_and(|allowed| allowed == "1"), "no adapter answers");
        println!("skipped, no adapter");
    }
    any
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
