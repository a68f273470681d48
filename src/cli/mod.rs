//! The edge over the command line: one file a subcommand. A failure is one sentence on standard error and an exit code
//! that says of what kind it was.

mod api;
mod archive;
mod ask;
mod backup;
mod changes;
mod chunk_store;
mod clean;
mod config;
mod die_with_parent;
mod doctor;
mod env_text;
mod failovers;
mod health;
mod image_settings;
mod install;
mod join;
mod logging;
mod monitor;
mod openvidu;
mod output;
mod package;
mod record;
mod recorders_settings;
mod recover;
mod reload;
mod report;
mod reset;
mod restore;
mod serve;
mod service;
mod supervise;
mod system;
mod test_api;
mod test_recording;
mod test_s3;
mod timeline;
mod uninstall;
mod update;
mod validate;

use crate::config::{Faults, Settings, Variables};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Highly available recorder for OpenVidu 2.
///
/// `serve` is the controller: it receives OpenVidu's webhooks, watches the recorders, starts a lost one again and joins
/// what they leave. `record` is what runs in the recording container. The other commands are for the person who operates
/// them.
#[derive(Debug, Parser)]
#[command(name = "ov2-ha-recorder", version, max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

/// What programs that call these commands go by.
const EXIT_CODES: &str = "\
Examples:
  ov2-ha-recorder install /opt/openvidu     set everything up beside OpenVidu; --dry-run only shows it
  ov2-ha-recorder validate                  check this machine, with advice for whatever is wrong
  ov2-ha-recorder test-failover             kill a recorder on purpose and count the seconds lost
  ov2-ha-recorder timeline ses_A            what is missing in a video, and why
  ov2-ha-recorder recover                   make the videos of recordings that have none

Exit codes:
   0  done; nothing is wrong
   1  it did not work, or a check failed
   2  the command line is not understood
   3  status: the service does not run; record: another run has this recording
  69  something that is needed is missing or does not answer
  73  a file cannot be written
  75  ask: the recorder is there and does not answer
  78  the settings are wrong; the message lists all faults

Files:
  /etc/ov2-ha-recorder/ov2-ha-recorder.env  settings; \"ov2-ha-recorder config\" lists their names
  /var/lib/ov2-ha-recorder                  state: database, and the built-in S3 server's objects
  /etc/ov2-ha-recorder/recorders.env        what recorders are told; \"install\" puts it into the image
  <recordings folder>/.env                  the same by hand; recorders read it before their image's

See also: README.md in /usr/share/doc/ov2-ha-recorder, \"man ov2-ha-recorder-COMMAND\"";

#[derive(Debug, Subcommand)]
enum Action {
    Record(record::Record),
    Ask(ask::Ask),
    Serve(serve::Serve),
    /// Start the service.
    Start(service::Tell),
    /// Stop the service; recorders go on without it.
    Stop(service::Tell),
    /// Restart the service; recorders go on meanwhile.
    Restart(service::Tell),
    Status(service::Status),
    Logs(service::Logs),
    Health(health::Health),
    Failovers(failovers::Failovers),
    Validate(validate::Validate),
    Doctor(doctor::Doctor),
    Install(install::Install),
    Reconfigure(install::Reconfigure),
    Uninstall(uninstall::Uninstall),
    Monitor(monitor::Monitor),
    Config(config::Config),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Clean(clean::Clean),
    Reset(reset::Reset),
    Update(update::Update),
    TestApi(test_api::TestApi),
    TestS3(test_s3::TestS3),
    Recover(recover::Recover),
    TestRecording(test_recording::TestRecording),
    /// Record a test page, kill the recorder in the middle, and count the seconds lost.
    TestFailover(test_recording::TestRecording),
    Join(join::Join),
    Timeline(timeline::Show),
    /// For the build of the package only.
    #[command(hide = true)]
    Package(package::Package),
    /// For the recorder's own children only.
    #[command(hide = true)]
    DieWithParent(die_with_parent::DieWithParent),
}

/// Where settings come from; every subcommand takes it.
#[derive(Clone, Debug, Args)]
pub struct SettingsFile {
    /// File with NAME=value lines; the real environment wins over it.
    /// Without it /etc/ov2-ha-recorder/ov2-ha-recorder.env or ./.env is read, whichever is there first.
    #[arg(long, value_name = "FILE", global = true)]
    pub env_file: Option<PathBuf>,
}

/// Where the package and the image keep state.
const USUAL_DATA_DIR: &str = "/var/lib/ov2-ha-recorder";

/// Where state lies; every subcommand that touches state takes it.
#[derive(Clone, Debug, Args)]
pub struct DataDir {
    /// Folder of the embedded database and the built-in object store.
    #[arg(long, value_name = "DIR", default_value = USUAL_DATA_DIR)]
    pub data_dir: PathBuf,
}

impl SettingsFile {
    /// The variables of the process over those of the env file.
    pub fn variables(&self) -> Variables {
        let variables = Variables::of_process();
        match self.path() {
            Some(path) => variables.over_file(&path),
            None => variables,
        }
    }

    /// The env file that is read, where there is one.
    pub fn path(&self) -> Option<PathBuf> {
        let usual = ["/etc/ov2-ha-recorder/ov2-ha-recorder.env", ".env"];
        let found = || usual.iter().map(PathBuf::from).find(|path| path.is_file());
        self.env_file.clone().or_else(found)
    }

    /// The settings.
    ///
    /// # Errors
    /// All faults at once.
    pub fn settings(&self) -> Result<Settings, Faults> {
        self.variables().settings()
    }

    /// The settings as the service with its state in `data` has them.
    ///
    /// # Errors
    /// All faults at once.
    pub fn settings_with(&self, data: &DataDir) -> Result<Settings, Faults> {
        let variables = self.variables();
        Ok(data.settle(&variables, variables.settings()?))
    }
}

impl DataDir {
    /// What `variables` say, as the service with this state takes it: where they leave open whether the built-in S3 server is
    /// wanted, chunks that are in it decide, for whoever looks for them.
    fn settle(&self, variables: &Variables, mut settings: Settings) -> Settings {
        if variables.get("HA_S3_SERVER").is_none() {
            settings.go_on_with_store_in(&self.data_dir);
        }
        settings
    }
}

/// How a command failed: what to say, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// A sentence for a person: act, object, cause, next step.
    pub message: String,
    /// See [`exit`].
    pub code: u8,
}

/// Exit codes, after `sysexits.h` where it has one.
pub mod exit {
    /// It did not work.
    pub const FAILED: u8 = 1;
    /// Something that is needed is not there or cannot be reached (`EX_UNAVAILABLE`).
    pub const UNAVAILABLE: u8 = 69;
    /// A file cannot be written (`EX_CANTCREAT`).
    pub const CANNOT_WRITE: u8 = 73;
    /// Who was asked is there and gave no answer in time (`EX_TEMPFAIL`).
    pub const NO_ANSWER: u8 = crate::model::ask::NO_ANSWER;
    /// The settings are wrong (`EX_CONFIG`).
    pub const CONFIG: u8 = 78;
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl Failure {
    /// A failure with [`exit::FAILED`].
    pub fn new(message: impl ToString) -> Self {
        Self::with(exit::FAILED, message)
    }

    /// A failure with an exit code of its own.
    pub fn with(code: u8, message: impl ToString) -> Self {
        Self {
            message: message.to_string(),
            code,
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::with(exit::CONFIG, faults)
    }
}

/// Reads the command line and runs what it says.
pub fn main() -> ExitCode {
    let command = Command::parse();
    match run(command).and_then(|()| report::all_said()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ov2-ha-recorder: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command.action {
        Action::Record(command) => command.run(),
        Action::Ask(command) => wait(command.run()),
        Action::Serve(command) => command.run(),
        Action::Start(command) => command.run(service::Verb::Start),
        Action::Stop(command) => command.run(service::Verb::Stop),
        Action::Restart(command) => command.run(service::Verb::Restart),
        Action::Status(command) => wait(command.run()),
        Action::Logs(command) => command.run(),
        Action::Health(command) => wait(command.run()),
        Action::Failovers(command) => wait(command.run()),
        Action::Validate(command) => wait(command.run()),
        Action::Doctor(command) => wait(command.run()),
        Action::Install(command) => command.run(),
        Action::Reconfigure(command) => command.run(),
        Action::Uninstall(command) => command.run(),
        Action::Monitor(command) => wait(command.run()),
        Action::Config(command) => command.run(),
        Action::Backup(command) => wait(command.run()),
        Action::Restore(command) => wait(command.run()),
        Action::Clean(command) => wait(command.run()),
        Action::Reset(command) => wait(command.run()),
        Action::Update(command) => command.run(),
        Action::TestApi(command) => wait(command.run()),
        Action::TestS3(command) => wait(command.run()),
        Action::Recover(command) => wait(command.run()),
        Action::TestRecording(command) => wait(command.run(test_recording::Fault::None)),
        Action::TestFailover(command) => wait(command.run(test_recording::Fault::Kill)),
        Action::Join(command) => wait(command.run()),
        Action::Timeline(command) => command.run(),
        Action::Package(command) => command.run(),
        Action::DieWithParent(command) => command.run(),
    }
}

/// Runs a short command's work to its end.
fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Failure::new(format!("cannot start the runtime: {cause}")))?;
    let outcome = runtime.block_on(work);
    // A thread that hangs on a dead disk must not hold the command.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_takes_an_env_file_and_all_that_answer_a_person_answer_programs_too() {
        let whole = Command::command();
        let takes = |command: &clap::Command, name: &str| {
            let mut all = command.get_arguments();
            all.any(|argument| argument.get_long() == Some(name))
        };
        for command in whole.get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = command.get_name();
            assert!(takes(command, "env-file"), "{name}");
            let lives_on = ["serve", "record"].contains(&name);
            assert!(lives_on || takes(command, "json"), "{name}");
        }
    }
}
