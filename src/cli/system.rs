//! Programs of the machine that the operator's commands call: systemctl, docker, apt. Their words reach the person; a
//! program that is not there is a sentence, not a panic.

use super::{Failure, exit};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A call of one program.
#[derive(Debug)]
pub(super) struct Call {
    program: &'static str,
    command: Command,
}

impl Call {
    pub(super) fn of<I: AsRef<std::ffi::OsStr>>(
        program: &'static str,
        arguments: impl IntoIterator<Item = I>,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Self { program, command }
    }

    /// With one more environment variable.
    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it and answers what it printed.
    ///
    /// # Errors
    /// When it is not there or fails; the message holds what it said.
    pub(super) fn output(mut self) -> Result<String, Failure> {
        let output = self
            .command
            .output()
            .map_err(|cause| missing(self.program, &cause))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::new(format!("{} failed: {said}", self.program)))
    }

    /// Whether it is there and succeeds; what it prints is dropped.
    pub(super) fn succeeds(mut self) -> bool {
        let quiet = self.command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }

    /// Runs it and hands on each line that it writes, whichever stream it writes to.
    ///
    /// # Errors
    /// When it is not there or fails.
    pub(super) fn each_line(mut self, mut take: impl FnMut(&str)) -> Result<(), Failure> {
        let broken = |cause: std::io::Error| missing(self.program, &cause);
        let (read, write) = std::io::pipe().map_err(broken)?;
        self.command.stdout(write.try_clone().map_err(broken)?);
        let mut child = self.command.stderr(write).spawn().map_err(broken)?;
        // Its ends of the pipe must be the last ones, so that reading ends with it.
        drop(self.command);
        for line in BufReader::new(read).lines() {
            take(&line.map_err(broken)?);
        }
        match child.wait().map_err(broken)? {
            status if status.success() => Ok(()),
            status => Err(Failure::new(format!("{} failed: {status}", self.program))),
        }
    }

    /// Runs it with all its words on standard error: the answer on standard output is ours.
    ///
    /// # Errors
    /// When it is not there or fails.
    pub(super) fn show_aside(mut self) -> Result<(), Failure> {
        self.command.stdout(std::io::stderr());
        self.show()
    }

    /// Runs it on the person's own terminal.
    ///
    /// # Errors
    /// When it is not there or fails.
    pub(super) fn show(mut self) -> Result<(), Failure> {
        let status = self
            .command
            .status()
            .map_err(|cause| missing(self.program, &cause))?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::new(format!("{} failed: {status}", self.program))),
        }
    }
}

fn missing(program: &str, cause: &std::io::Error) -> Failure {
    Failure::with(
        exit::UNAVAILABLE,
        format!("cannot run {program}: {cause}; is it installed?"),
    )
}

/// Whether `image` is a recording image of ours; `None` when it is not there.
pub(super) fn image_is_ours(image: &str) -> Option<bool> {
    let maker = "{{index .Config.Labels \"created.by\"}}";
    let said = Call::of("docker", ["image", "inspect", "-f", maker, image]).output();
    said.ok().map(|maker| maker == "ov2-ha-recorder")
}

/// Where `program` lies on the `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
