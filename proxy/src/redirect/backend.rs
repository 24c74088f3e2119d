//! The programs that change the rules of the kernel.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::redirect::iptables::There;
use crate::redirect::{Family, Rules, iptables, nft};

/// What the kernel lists its IPv6 addresses in; not there where it has no IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// Seconds to wait for others that change rules.
const PATIENCE: &str = "5";

/// Which programs are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// nftables, or iptables where nft is not installed.
    #[default]
    Auto,
    Nft,
    Iptables,
}

/// Why the rules are not as they were asked for.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error(
        "{0} is not installed: install the package nftables (or iptables), or let the application use the ports of the sidecar itself, which needs no rules"
    )]
    Absent(&'static str),
    #[error(
        "{program} may not change the rules of this network namespace: run as root with the capability NET_ADMIN; where that is not to be had, let the application use the ports of the sidecar itself, which needs no rules. It said: {said}"
    )]
    Forbidden { program: &'static str, said: String },
    #[error(
        "{program} refused the rules, and nothing was changed; another --backend may be what this kernel has: {said}"
    )]
    Refused { program: &'static str, said: String },
    #[error("{program} refused the rules, and those of IPv4 were taken back: {said}")]
    Half { program: &'static str, said: String },
    #[error("{program}: {source}")]
    Program { program: &'static str, source: io::Error },
}

/// The programs of a family.
struct Programs {
    family: Family,
    save: &'static str,
    restore: &'static str,
}

const FOUR: Programs = Programs { family: Family::V4, save: "iptables-save", restore: "iptables-restore" };
const SIX: Programs = Programs { family: Family::V6, save: "ip6tables-save", restore: "ip6tables-restore" };

/// The programs of the families that this kernel has.
fn families() -> impl Iterator<Item = Programs> {
    [FOUR, SIX].into_iter().filter(|one| one.family == Family::V4 || Path::new(IPV6).exists())
}

/// Runs a program with this input.
fn run(program: &'static str, args: &[&str], input: &str) -> Result<Output, RedirectError> {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => RedirectError::Absent(program),
        _ => RedirectError::Program { program, source },
    })?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    // On a thread: a program that says much before it has read all would wait for us, and we for it.
    let writing = thread::spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().map_err(|source| RedirectError::Program { program, source })?;
    // A program that did not read its input says why by itself.
    let _ = writing.join();
    Ok(output)
}

/// Has a program carry a script out; gives what it says.
fn carry_out(program: &'static str, args: &[&str], script: &str) -> Result<String, RedirectError> {
    let output = run(program, args, script)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said =
        said.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>().join("; ");
    let forbidden = ["Operation not permitted", "Permission denied", "you must be root"];
    if forbidden.iter().any(|words| said.contains(words)) {
        return Err(RedirectError::Forbidden { program, said });
    }
    Err(RedirectError::Refused { program, said })
}

/// What is there of ours; nothing is made by looking.
fn there(programs: &Programs) -> Result<There, RedirectError> {
    carry_out(programs.save, &[], "").map(|saved| iptables::there(&saved))
}

fn restore(programs: &Programs, script: &str) -> Result<(), RedirectError> {
    carry_out(programs.restore, &["-w", PATIENCE, "--noflush"], script).map(drop)
}

fn undo_family(programs: &Programs) -> Result<(), RedirectError> {
    let there = there(programs)?;
    if there == There::default() { Ok(()) } else { restore(programs, &iptables::undo(there)) }
}

fn apply_iptables(rules: &Rules) -> Result<(), RedirectError> {
    for programs in families() {
        let script = there(&programs).map(|there| iptables::script(rules, programs.family, there));
        let outcome = script.and_then(|script| restore(&programs, &script));
        if let Err(error) = outcome {
            if programs.family == Family::V4 {
                return Err(error);
            }
            // Half a redirection is worse than none: half of the connections would pass the sidecar by.
            let _ = undo_family(&FOUR);
            return Err(match error {
                RedirectError::Refused { program, said } => RedirectError::Half { program, said },
                other => other,
            });
        }
    }
    Ok(())
}

/// Redirects as the rules say; whatever was redirected by an earlier call is not any more. Gives the program.
///
/// # Errors
/// Why it could not be; nothing is redirected by halves.
pub fn apply(rules: &Rules, backend: Backend) -> Result<&'static str, RedirectError> {
    if backend != Backend::Iptables {
        match carry_out("nft", &["-f", "-"], &nft::script(rules)) {
            Err(RedirectError::Absent(_)) if backend == Backend::Auto => {}
            outcome => return outcome.map(|_| "nft"),
        }
    }
    match apply_iptables(rules) {
        Err(RedirectError::Absent(_)) if backend == Backend::Auto => Err(RedirectError::Absent("nft")),
        outcome => outcome.map(|()| "iptables"),
    }
}

/// Redirects nothing any more, whatever program it was done with.
///
/// # Errors
/// Why it could not be.
pub fn undo(backend: Backend) -> Result<(), RedirectError> {
    let mut missing = 0;
    let mut take = |outcome: Result<(), RedirectError>| match outcome {
        Err(RedirectError::Absent(_)) if backend == Backend::Auto => {
            missing += 1;
            Ok(())
        }
        outcome => outcome,
    };
    if backend != Backend::Iptables {
        take(carry_out("nft", &["-f", "-"], &nft::undo()).map(drop))?;
    }
    if backend != Backend::Nft {
        take(families().try_for_each(|programs| undo_family(&programs)))?;
    }
    if missing > 1 { Err(RedirectError::Absent("nft")) } else { Ok(()) }
}

/// The scripts that [`apply`] carries out where nothing is there yet, or those of [`undo`].
pub fn scripts(rules: Option<&Rules>, backend: Backend) -> String {
    if backend != Backend::Iptables {
        return rules.map_or_else(nft::undo, nft::script);
    }
    let of = |family: Family, program: &str| {
        let script = match rules {
            Some(rules) => iptables::script(rules, family, There::default()),
            None => iptables::undo(There::ALL),
        };
        format!("# {program} --noflush\n{script}")
    };
    of(Family::V4, FOUR.restore) + &of(Family::V6, SIX.restore)
}
