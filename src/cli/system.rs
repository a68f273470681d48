//! Programs of the machine that the operator's commands call: systemctl, docker, apt. Their words reach the person; a
//! program that is not there is a sentence, not a panic.

use super::{Failure, exit};
use crate::runtime::docker::BACKUP_IMAGE;
use crate::tasks;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long Docker may take to tell what it knows.
const PATIENCE: Duration = Duration::from_secs(10);
/// The label of an image with settings in its last layer: the name of the same one without them.
pub(super) const WITHOUT_SETTINGS: &str = "ov2-ha-recorder.without-settings";

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
        said(self.program, &output)
    }

    /// The same for a program that may hang: it is ended after `patience`.
    ///
    /// # Errors
    /// When it is not there, fails, or does not end in time.
    pub(super) async fn output_within(self, patience: Duration) -> Result<String, Failure> {
        let program = self.program;
        said(program, &self.ended_within(patience).await?)
    }

    /// The same for Docker, which is asked from everywhere, also where a runtime runs.
    ///
    /// # Errors
    /// When it is not there, fails, or does not answer in time.
    pub(super) fn answer(self) -> Result<String, Failure> {
        let asked = std::thread::spawn(move || super::wait(self.output_within(PATIENCE)));
        let broken = |_| Err(Failure::new("cannot ask Docker"));
        asked.join().unwrap_or_else(broken)
    }

    /// Runs it to its end, whatever that is; it is ended after `patience`.
    ///
    /// # Errors
    /// When it is not there, or does not end in time.
    pub(super) async fn ended_within(self, patience: Duration) -> Result<Output, Failure> {
        let program = self.program;
        let mut command = tokio::process::Command::from(self.command);
        let ended = tasks::within(patience, command.kill_on_drop(true).output()).await;
        let hangs = || {
            let seconds = patience.as_secs();
            let message = format!("{program} does not answer within {seconds} s");
            Failure::with(exit::UNAVAILABLE, message)
        };
        ended
            .ok_or_else(hangs)?
            .map_err(|cause| missing(program, &cause))
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
    /// When it is not there or fails; with its own exit code where that is [`exit::UNAVAILABLE`].
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
        let failed = format!("{} failed: {status}", self.program);
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(exit::UNAVAILABLE) => {
                Err(Failure::with(exit::UNAVAILABLE, failed))
            }
            _ => Err(Failure::new(failed)),
        }
    }
}

fn said(program: &str, output: &Output) -> Result<String, Failure> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout).trim_end().to_owned()),
        false => {
            let said = text(&output.stderr);
            Err(Failure::new(format!("{program} failed: {}", said.trim())))
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
    image_label(image, "created.by").map(|maker| maker == "ov2-ha-recorder")
}

/// What `image` says of itself under `label`, empty where it says nothing; `None` when it is not there.
pub(super) fn image_label(image: &str, label: &str) -> Option<String> {
    inspect(image, &format!("{{{{index .Config.Labels \"{label}\"}}}}"))
}

/// The id of `image`; `None` when it is not there.
pub(super) fn image_id(image: &str) -> Option<String> {
    inspect(image, "{{.Id}}")
}

/// Removes images without a name in whose last layer are recorders' settings of before. Docker refuses to remove one that a
/// container is made of, and nothing else is harmed where it fails.
pub(super) fn forget_earlier_settings() {
    let ours = format!("label={WITHOUT_SETTINGS}");
    let list = [
        "images",
        "-q",
        "--filter",
        "dangling=true",
        "--filter",
        &ours,
    ];
    let ids = Call::of("docker", list).answer().unwrap_or_default();
    if !ids.is_empty() {
        Call::of("docker", ["rmi"].into_iter().chain(ids.split_whitespace())).succeeds();
    }
}

/// Takes its name from what backups of `image` were made of last, where that has settings of before.
pub(super) fn forget_backup(image: &str) {
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let backup = format!("{BACKUP_IMAGE}:{tag}");
    let has_settings = image_label(&backup, WITHOUT_SETTINGS).is_some_and(|it| !it.is_empty());
    if has_settings && image_id(&backup) != image_id(image) {
        Call::of("docker", ["rmi", &backup]).succeeds();
    }
}

fn inspect(image: &str, form: &str) -> Option<String> {
    let call = Call::of("docker", ["image", "inspect", "-f", form, image]);
    call.answer().ok()
}

/// Whether Docker's daemon answers this user.
///
/// # Errors
/// When it does not, or the command is not installed; in one sentence.
pub(super) fn docker_answers() -> Result<(), Failure> {
    if Call::of("docker", ["version"]).answer().is_ok() {
        return Ok(());
    }
    Err(Failure::with(
        exit::UNAVAILABLE,
        "Docker does not answer; start it (systemctl start docker) and run this as root or in the group docker",
    ))
}

/// Where `program` lies on the `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
