//! Commands that run and end: of the binary, and of the system.

use std::process::{Command, Output, Stdio};

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end, without colours.
pub fn foregate(args: &[&str]) -> Ended {
    let output =
        Command::new(env!("CARGO_BIN_EXE_foregate")).args(args).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a program of the system to its end, apart from the test's own runtime.
pub async fn program(program: &'static str, args: Vec<String>) -> Output {
    let run = move || Command::new(program).args(args).stdin(Stdio::null()).output();
    tokio::task::spawn_blocking(run)
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{program} is not here; .ci/test installs it: {error}"))
}

impl Ended {
    /// Asserts the exit code, and parts of what was said on each stream.
    #[track_caller]
    pub fn is(self, code: i32, out: &[&str], err: &[&str]) -> Self {
        let Self { code: got, out: stdout, err: stderr } = &self;
        let all =
            out.iter().all(|part| stdout.contains(part)) && err.iter().all(|part| stderr.contains(part));
        assert!(*got == code && all, "code {got}\n--- out\n{stdout}\n--- err\n{stderr}");
        self
    }
}
