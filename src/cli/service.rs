//! `start`, `stop`, `restart`, `status`, `logs`: the controller as the machine runs it, by systemd or as the container of
//! the compose file. What is found decides; nothing is remembered.

use super::api::Api;
use super::report::{Colour, Form, Paint, say};
use super::system::{Call, find};
use super::{DataDir, Failure, SettingsFile, USUAL_DATA_DIR, exit};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// The unit's name.
pub(super) const UNIT: &str = "ov2-ha-recorder.service";
/// The container's name in the compose file; the earlier project's, so that its scripts find ours.
pub(super) const CONTAINER: &str = "ov-recorder-ha-controller";

/// What runs the controller here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Manager {
    /// The unit of the package.
    Systemd,
    /// The container of the compose file.
    Docker,
}

/// What to do with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Start it again.
    Restart,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

impl Manager {
    /// What runs the controller here.
    ///
    /// # Errors
    /// When neither the unit nor the container is there.
    pub(super) fn find() -> Result<Self, Failure> {
        let unit = || Call::of("systemctl", ["cat", UNIT]).succeeds();
        let container = || {
            let inspect = Call::of("docker", ["container", "inspect", CONTAINER]);
            inspect.answer().is_ok()
        };
        if sd_notify::booted().unwrap_or(false) && unit() {
            Ok(Self::Systemd)
        } else if find("docker").is_some() && container() {
            Ok(Self::Docker)
        } else {
            Err(Failure::with(
                exit::UNAVAILABLE,
                format!(
                    "the service is not set up here: neither the unit {UNIT} nor the container {CONTAINER} exists; install the package, or start packaging/compose.yml"
                ),
            ))
        }
    }

    /// Starts, stops or restarts it and answers when that is done.
    ///
    /// # Errors
    /// When the manager refuses; the message is its own.
    pub(super) fn tell(self, verb: Verb) -> Result<(), Failure> {
        let call = match self {
            Self::Systemd => Call::of("systemctl", [verb.word(), UNIT]),
            Self::Docker => Call::of("docker", [verb.word(), CONTAINER]),
        };
        call.output().map(drop)
    }

    /// Whether it runs.
    pub(super) fn running(self) -> bool {
        match self {
            Self::Systemd => Call::of("systemctl", ["is-active", "--quiet", UNIT]).succeeds(),
            Self::Docker => Call::of("docker", ["inspect", "-f", "{{.State.Running}}", CONTAINER])
                .answer()
                .is_ok_and(|said| said == "true"),
        }
    }

    fn state(self) -> Result<State, Failure> {
        let (call, since_key) = match self {
            Self::Systemd => (
                Call::of(
                    "systemctl",
                    [
                        "show",
                        UNIT,
                        "-p",
                        "ActiveState,MainPID,ActiveEnterTimestamp,NRestarts",
                    ],
                ),
                "ActiveEnterTimestamp",
            ),
            Self::Docker => (
                Call::of(
                    "docker",
                    [
                        "inspect",
                        "-f",
                        "ActiveState={{.State.Status}}\nMainPID={{.State.Pid}}\nSince={{.State.StartedAt}}\nNRestarts={{.RestartCount}}",
                        CONTAINER,
                    ],
                ),
                "Since",
            ),
        };
        let text = call.output()?;
        let read = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
        };
        Ok(State {
            manager: self,
            running: self.running(),
            state: read("ActiveState").unwrap_or_default(),
            pid: read("MainPID")
                .and_then(|pid| pid.parse().ok())
                .filter(|pid| *pid != 0),
            since: read(since_key).filter(|since| !since.is_empty()),
            restarts: read("NRestarts")
                .and_then(|count| count.parse().ok())
                .unwrap_or_default(),
            sessions: None,
        })
    }
}

/// Lets nobody take this machine's folder for that of a service whose state is in its container's volume.
///
/// # Errors
/// When it is; with the command that reaches the volume.
pub(super) fn keeps_state_here(data: &DataDir) -> Result<(), Failure> {
    let usual = data.data_dir == Path::new(USUAL_DATA_DIR);
    if usual && Manager::find().is_ok_and(|manager| manager == Manager::Docker) {
        return Err(Failure::with(
            exit::UNAVAILABLE,
            format!(
                "the service is the container {CONTAINER} and keeps its state in a volume; \"ov2-ha-recorder stop\", then: docker run --rm --user 0 --volumes-from {CONTAINER} -v \"$PWD:/here\" -w /here ov2-ha-recorder:{} …, with this command's words in place of …",
                env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct State {
    manager: Manager,
    running: bool,
    state: String,
    pid: Option<u32>,
    since: Option<String>,
    restarts: u32,
    sessions: Option<Value>,
}

/// Start, stop or restart the service.
#[derive(Debug, Args)]
pub(super) struct Tell {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

impl Tell {
    pub(super) fn run(self, verb: Verb) -> Result<(), Failure> {
        let manager = Manager::find()?;
        if verb != Verb::Stop {
            // What would keep it from starting is better said here than in a log.
            self.file.settings()?;
        }
        manager.tell(verb)?;
        self.form
            .print(&manager.state()?, |state| state.text(Paint::of_terminal()));
        Ok(())
    }
}

/// Show whether the service runs, since when, and how many recordings it watches.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut state = Manager::find()?.state()?;
        if state.running {
            let api = Api::of(&self.file.settings()?)?;
            state.sessions = api
                .get("/api/sessions/health")
                .await
                .ok()
                .map(|answer| answer.body);
        }
        self.form
            .print(&state, |state| state.text(Paint::of_terminal()));
        match state.running {
            true => Ok(()),
            // systemctl's own code for a unit that does not run.
            false => Err(Failure::with(
                3,
                "the service does not run; see \"ov2-ha-recorder logs\"",
            )),
        }
    }
}

impl State {
    fn text(&self, paint: Paint) -> String {
        let colour = if self.running {
            Colour::Green
        } else {
            Colour::Red
        };
        let mut text = format!(
            "ov2-ha-recorder {}: {}",
            env!("CARGO_PKG_VERSION"),
            paint.dye(colour, &self.state)
        );
        if let (true, Some(pid), Some(since)) = (self.running, self.pid, &self.since) {
            text.push_str(&format!(", process {pid}, since {since}"));
        }
        if self.restarts > 0 {
            text.push_str(&format!(", restarted by itself {} times", self.restarts));
        }
        if let Some(sessions) = &self.sessions {
            text.push_str(&format!(
                "\nrecordings: {} active, {} known",
                sessions["activeSessions"], sessions["totalSessions"]
            ));
        }
        text
    }
}

/// Show the service's log.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Follow the log.
    #[arg(short, long)]
    follow: bool,
    /// Number of log lines to show.
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: u32,
    /// Taken as by every command; a log is found without settings.
    #[command(flatten)]
    _file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

impl Logs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let lines = self.lines.to_string();
        let follow = self.follow.then_some("-f");
        match (Manager::find()?, self.form.json) {
            (Manager::Systemd, json) => {
                let output = if json { "json" } else { "short-iso" };
                let arguments = ["-u", UNIT, "--no-pager", "-o", output, "-n", &lines];
                Call::of("journalctl", arguments.into_iter().chain(follow)).show()
            }
            (Manager::Docker, json) => {
                let arguments = ["logs", "--tail", &lines].into_iter().chain(follow);
                let call = Call::of("docker", arguments.chain([CONTAINER]));
                match json {
                    true => call.each_line(|line| say(as_json(line))),
                    false => call.show(),
                }
            }
        }
    }
}

/// A line of the container's log as one JSON object; with HA_LOG_FORMAT=json it is one already.
fn as_json(line: &str) -> Value {
    match serde_json::from_str(line) {
        Ok(object @ Value::Object(_)) => object,
        _ => serde_json::json!({ "MESSAGE": line }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_containers_log_is_an_object() {
        let json = r#"{"message":"ready"}"#;
        assert_eq!(as_json(json).to_string(), json);
        assert_eq!(as_json("12").to_string(), r#"{"MESSAGE":"12"}"#);
    }
}
