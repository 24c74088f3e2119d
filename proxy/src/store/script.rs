//! What is done to counters at the server, and how it is asked.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{Cmd, Value};

use crate::store::error::StoreError;

/// Takes from counters, all or none: [`TAKE`]'s text says what it is told and what it answers.
pub(super) static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// Gives back what was taken.
pub(super) static GIVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("give.lua")));

/// Replaces a value where it is the one that is expected.
pub(super) static REPLACE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("replace.lua")));

/// Reads a stream: its text says what it is told and what it answers.
pub(super) static STREAM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("stream.lua")));

/// A script, and the name that the server knows it by.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: &'static str,
    sha: String,
}

/// All of them; every connection loads them.
pub(super) fn all() -> [&'static Script; 4] {
    [&TAKE, &GIVE, &REPLACE, &STREAM]
}

impl Script {
    fn new(text: &'static str) -> Self {
        use std::fmt::Write;
        // What Redis names scripts by; nothing rests on its strength.
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let mut sha = String::with_capacity(40);
        for byte in digest.as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(sha, "{byte:02x}");
        }
        Self { text, sha }
    }

    /// The call, by name.
    pub(super) fn call(&self, keys: &[String], arguments: &[Argument<'_>]) -> Cmd {
        Self::command("EVALSHA", &self.sha, keys, arguments)
    }

    /// The same with the text, for a server that does not know the name any more.
    pub(super) fn call_whole(&self, keys: &[String], arguments: &[Argument<'_>]) -> Cmd {
        Self::command("EVAL", self.text, keys, arguments)
    }

    fn command(verb: &str, script: &str, keys: &[String], arguments: &[Argument<'_>]) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        for argument in arguments {
            match argument {
                Argument::Number(number) => command.arg(*number),
                Argument::Bytes(bytes) => command.arg(*bytes),
            };
        }
        command
    }
}

/// One argument of a script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The numbers of an answer.
///
/// # Errors
/// Where it holds something else.
pub(super) fn numbers(answer: Value) -> Result<Vec<i64>, StoreError> {
    let Value::Array(values) = answer else { return Err(StoreError::Malformed) };
    let number = |value| match value {
        Value::Int(number) => Ok(number),
        _ => Err(StoreError::Malformed),
    };
    values.into_iter().map(number).collect()
}
