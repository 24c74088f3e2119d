//! `man` and `completions`: what packages install beside a command. Compiled into all three.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// How values are written; stands below the options that take them.
pub const UNITS: &str = "TIME is written as 500ms, 10s or 1h30m (h, m, s, ms, us), SIZE as 64KiB or 1MiB (B, KiB, MiB, GiB, kB, MB, GB).";

#[derive(Debug, Args)]
pub struct Manual {
    /// Folder for the pages, one of section 1 for each command; it is made where it is not there.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that is to complete the command.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Manual {
    /// Writes the pages of a command and of those below it.
    pub fn run(&self, command: Command) -> ExitCode {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let source = format!("{} {}", command.get_name(), command.get_version().unwrap_or_default());
        let written = fs::create_dir_all(&self.folder).and_then(|()| write(&command, &source, &self.folder));
        let Err(error) = written else { return ExitCode::SUCCESS };
        let _ = writeln!(io::stderr(), "{}: {}: {error}", command.get_name(), self.folder.display());
        ExitCode::FAILURE
    }
}

fn write(command: &Command, source: &str, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, source, folder)?;
    }
    Man::new(command.clone()).source(source).manual("Foregate").generate_to(folder)?;
    Ok(())
}

impl Completions {
    /// Prints the script.
    pub fn run(&self, mut command: Command) -> ExitCode {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        let mut out = io::stdout().lock();
        // Where the reader is gone, so is the script.
        let _ = out.write_all(&script).and_then(|()| out.flush());
        ExitCode::SUCCESS
    }
}
