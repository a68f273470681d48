//! Recorders as plain processes, for machines without containers. Each has a folder with its environment, its log and a
//! file `events` to which a small shell that stands over it appends every start and every death: that file is what the
//! watcher reads, so nothing is missed while no controller runs. A process belongs to a recorder when its environment says
//! so; that is how the last of them is found when a recorder must be ended.

use super::{
    BackupSpec, Blueprint, Container, ContainerStatus, Environment, Happening, HappeningKind,
    HostOptions, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Stop,
};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::model::ask::Reply;
use crate::model::ids::{ContainerId, RecordingId};
use crate::random;
use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use log::warn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The variable by which a recorder, and whatever it starts, knows its container's id.
const ID: &str = "OV2_RECORDER_CONTAINER_ID";

/// Where a recorder answers, in its folder.
const SOCKET: &str = "ask.sock";

/// How often the files are looked at: they give no events.
const LOOK: Duration = Duration::from_millis(25);
/// How often new recorders are looked for while there are none.
const GLANCE: Duration = Duration::from_millis(250);

/// The longest that killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// Stands over one recorder: notes each start and death, clears what a dead recorder left running, and starts it again
/// after a failure while the file `restart` is there. Its own death is noted by whoever sees it.
const SHELL: &str = r#"
while :; do
  rm -f stop
  "$@" & pid=$!
  echo "start $(date +%s%3N) $pid" >> events
  wait $pid; code=$?
  for left in $(grep -lsF "OV2_RECORDER_CONTAINER_ID=$OV2_RECORDER_CONTAINER_ID" /proc/[0-9]*/environ | cut -d/ -f3); do
    [ "$left" = $$ ] || kill -9 "$left" 2>/dev/null
  done
  echo "die $(date +%s%3N) $code" >> events
  [ "$code" -ne 0 ] && [ -e restart ] || exit 0
  sleep 0.1
done
"#;

/// Recorders as processes of this machine.
#[derive(Clone, Debug)]
pub struct ProcessRuntime {
    root: PathBuf,
    program: PathBuf,
}

/// What is kept of a recorder beside its environment.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    name: String,
    created_at: Timestamp,
    labels: BTreeMap<String, String>,
    recordings: PathBuf,
}

impl ProcessRuntime {
    /// Recorders that run `program record`, each with a folder below `root`.
    ///
    /// # Errors
    /// When `root` cannot be made.
    pub fn open(root: &Path, program: &Path) -> Result<Self, RuntimeError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root);
        made.map_err(|cause| failed(&format!("make the folder {}", root.display()), cause))?;
        Ok(Self {
            root: root.to_owned(),
            program: program.to_owned(),
        })
    }

    /// Makes and starts a recorder that writes into `recordings`, as OpenVidu would make a container.
    ///
    /// # Errors
    /// When its folder cannot be written or its process not started.
    pub fn launch(
        &self,
        name: &str,
        environment: Environment,
        recordings: &Path,
        labels: BTreeMap<String, String>,
    ) -> Result<ContainerId, RuntimeError> {
        let act = format!("make the recorder {name}");
        let id = ContainerId::parse(random::hex::<16>()).map_err(|cause| failed(&act, cause))?;
        let card = Card {
            name: name.to_owned(),
            created_at: SystemClock.now(),
            labels,
            recordings: recordings.to_owned(),
        };
        // Under a name that nobody reads until it is whole.
        let hidden = self.root.join(format!(".{id}"));
        let write = || {
            fs::DirBuilder::new().mode(0o700).create(&hidden)?;
            write_private(
                &hidden.join("environment"),
                &serde_json::to_vec(&environment.0)?,
            )?;
            write_private(&hidden.join("card"), &serde_json::to_vec(&card)?)?;
            fs::rename(&hidden, self.folder(&id))
        };
        write().map_err(|cause: std::io::Error| failed(&act, cause))?;
        self.run(&id)?;
        Ok(id)
    }

    fn folder(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn run(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let act = format!("start the recorder {id}");
        let folder = self.folder(id);
        let environment = self.environment(id)?;
        let card = self.card(id)?;
        let begin = || -> std::io::Result<()> {
            let log = File::options()
                .create(true)
                .append(true)
                .open(folder.join("log"))?;
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", SHELL, "ov2-ha-recorder"])
                .arg(&self.program)
                .arg("record")
                .arg("--recordings")
                .arg(&card.recordings)
                .arg("--stop-file")
                .arg(folder.join("stop"))
                .arg("--socket")
                .arg(folder.join(SOCKET))
                .current_dir(&folder)
                .env_clear()
                .envs(&environment.0)
                .env(ID, id.as_str())
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0);
            for name in ["PATH", "HOME", "LANG"] {
                if let Some(value) = std::env::var_os(name)
                    && !environment.0.contains_key(name)
                {
                    command.env(name, value);
                }
            }
            // Not waited for here: the runtime reaps it, and it outlives this program.
            let shell = command.spawn()?;
            let pid = shell.id().unwrap_or_default();
            fs::write(folder.join("shell"), pid.to_string())
        };
        begin().map_err(|cause| failed(&act, cause))
    }

    fn card(&self, id: &ContainerId) -> Result<Card, RuntimeError> {
        self.read(id, "card")
    }

    fn environment(&self, id: &ContainerId) -> Result<Environment, RuntimeError> {
        self.read(id, "environment").map(Environment)
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        id: &ContainerId,
        file: &str,
    ) -> Result<T, RuntimeError> {
        let bytes = match fs::read(self.folder(id).join(file)) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Err(RuntimeError::NotFound(id.clone()));
            }
            Err(cause) => return Err(failed(&format!("read the recorder {id}"), cause)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|cause| failed(&format!("read the recorder {id}"), cause))
    }

    fn container(&self, id: &ContainerId) -> Option<Container> {
        let card = self.card(id).ok()?;
        let environment = self.environment(id).ok()?;
        let recording = environment.0.get("VIDEO_ID");
        let notes = self.notes(id);
        let last = |wanted: fn(&Note) -> Option<Timestamp>| notes.iter().rev().find_map(wanted);
        Some(Container {
            id: id.clone(),
            name: card.name,
            image: "process".into(),
            labels: card.labels,
            recording: recording.and_then(|it| RecordingId::parse(it).ok()),
            page: false,
            created_at: card.created_at,
            started_at: last(Note::started_at),
            ended_at: last(Note::ended_at),
            status: self.status(id),
        })
    }

    fn status(&self, id: &ContainerId) -> ContainerStatus {
        let last = self.notes(id).pop();
        match last {
            None if self.stands(id) => ContainerStatus::Running,
            None => ContainerStatus::Created,
            Some(Note::Died { code, .. }) if code != 0 && self.stands(id) => {
                ContainerStatus::Restarting
            }
            Some(Note::Died { code, .. }) => ContainerStatus::Exited(code),
            Some(Note::Started { .. }) if !self.stands(id) => ContainerStatus::Exited(137),
            Some(Note::Started { pid, .. }) if frozen(pid) => ContainerStatus::Paused,
            Some(Note::Started { .. }) => ContainerStatus::Running,
        }
    }

    /// Whether the shell stands over the recorder.
    fn stands(&self, id: &ContainerId) -> bool {
        let text = fs::read_to_string(self.folder(id).join("shell"));
        let pid = text.ok().and_then(|text| text.trim().parse().ok());
        pid.is_some_and(|pid| belongs(pid, id))
    }

    fn notes(&self, id: &ContainerId) -> Vec<Note> {
        let text = fs::read_to_string(self.folder(id).join("events")).unwrap_or_default();
        // A line without its end is still being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(Note::parse).collect()
    }

    fn ids(&self) -> Vec<ContainerId> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| ContainerId::parse(name).ok())
            .collect()
    }

    /// Ends every process of the recorder; none of them can write any more when this answers.
    async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let all_gone = async {
            let mut none_seen = 0;
            // A process that is just taking up its program shows no environment: none must be seen twice.
            while none_seen < 2 {
                let left = processes_of(id);
                none_seen = if left.is_empty() { none_seen + 1 } else { 0 };
                for pid in left {
                    // One that has just ended needs no signal.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(KILLED, all_gone).await.is_err() {
            return Err(failed(
                &format!("kill the recorder {id}"),
                format!("it still runs {} s later", KILLED.as_secs()),
            ));
        }
        self.note_lost_death(id);
        Ok(())
    }

    /// A shell that was killed could not note its recorder's death.
    fn note_lost_death(&self, id: &ContainerId) {
        let running = matches!(self.notes(id).last(), Some(Note::Started { .. }));
        if !running || self.stands(id) {
            return;
        }
        for pid in processes_of(id) {
            // See `kill`.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let line = format!("die {} 137\n", SystemClock.now().millis());
        let path = self.folder(id).join("events");
        let appended = File::options()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(cause) = appended {
            warn!(container:% = id; "a recorder's death cannot be noted: {cause}");
        }
    }

    /// Answers when the recorder has ended and is not started again.
    async fn ended(&self, id: &ContainerId) {
        while self.stands(id) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        Ok(self
            .ids()
            .iter()
            .filter_map(|id| self.container(id))
            .collect())
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        Ok(self.container(id))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.card(id)?;
        if self.stands(id) {
            return Ok(());
        }
        self.kill(id).await?;
        self.run(id)
    }

    async fn blueprint(&self, id: &ContainerId) -> Result<Blueprint, RuntimeError> {
        let card = self.card(id)?;
        Ok(Blueprint {
            environment: self.environment(id)?,
            host: HostOptions(card.recordings.display().to_string().into()),
        })
    }

    async fn start_backup(&self, spec: BackupSpec) -> Result<Container, RuntimeError> {
        let act = format!("start a backup recorder for session {}", spec.recording);
        for id in self.ids() {
            if self.card(&id).is_ok_and(|card| card.name == spec.name) {
                self.kill(&id).await?;
                self.remove(&id).await?;
            }
        }
        let recordings = spec.blueprint.host.0.as_str().map(PathBuf::from);
        let recordings =
            recordings.ok_or_else(|| failed(&act, "its recordings folder is not known"))?;
        let environment = spec.blueprint.environment;
        let id = self.launch(&spec.name, environment, &recordings, spec.labels)?;
        fs::write(self.folder(&id).join("restart"), b"").map_err(|cause| failed(&act, cause))?;
        self.container(&id).ok_or(RuntimeError::NotFound(id))
    }

    async fn stop(&self, id: &ContainerId, how: Stop) -> Result<(), RuntimeError> {
        self.card(id)?;
        let Stop::Drain(patience) = how else {
            return self.kill(id).await;
        };
        if !self.stands(id) {
            return Ok(());
        }
        let asked = fs::write(self.folder(id).join("stop"), b"q\n");
        asked.map_err(|cause| failed(&format!("tell the recorder {id} to finish"), cause))?;
        match tokio::time::timeout(patience, self.ended(id)).await {
            Ok(()) => Ok(()),
            Err(_) => self.kill(id).await,
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if self.stands(id) {
            return Err(failed(&format!("remove the recorder {id}"), "it runs"));
        }
        match fs::remove_dir_all(self.folder(id)) {
            Ok(()) => Ok(()),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(failed(&format!("remove the recorder {id}"), cause)),
        }
    }

    async fn restart_on_failure(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.card(id)?;
        fs::write(self.folder(id).join("restart"), b"").map_err(|cause| {
            failed(
                &format!("set the restart policy of the recorder {id}"),
                cause,
            )
        })
    }

    async fn ask(&self, id: &ContainerId, patience: Duration) -> Result<Reply, RuntimeError> {
        let mut command = Command::new(&self.program);
        command
            .args(["ask", "--json", "--socket"])
            .arg(self.folder(id).join(SOCKET))
            .args(["--timeout", &patience.as_secs().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = command.output().await;
        let done = done.map_err(|cause| failed(&format!("ask the recorder {id}"), cause))?;
        let code = done.status.code().map(i64::from);
        Ok(Reply::of_command(code, &done.stdout))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let mut following = Following {
            runtime: self.clone(),
            read: HashMap::new(),
            frozen: HashMap::new(),
            waiting: VecDeque::new(),
        };
        following.look();
        following.waiting = VecDeque::from([RuntimeEvent::Connected]);
        futures_util::stream::unfold(following, |mut following| async move {
            let event = following.next().await;
            Some((event, following))
        })
        .boxed()
    }

    async fn probe(&self) -> Result<RuntimeInfo, RuntimeError> {
        if !self.program.is_file() {
            return Err(failed(
                "run recorders as processes",
                format!("{} is no file", self.program.display()),
            ));
        }
        Ok(RuntimeInfo {
            kind: "process",
            version: env!("CARGO_PKG_VERSION").into(),
            image: None,
        })
    }
}

/// A line of a recorder's `events`.
#[derive(Clone, Copy, Debug)]
enum Note {
    Started { at: i64, pid: i32 },
    Died { at: i64, code: i64 },
}

impl Note {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (what, at, number) = (words.next()?, words.next()?, words.next()?);
        let at = at.parse().ok()?;
        match what {
            "start" => Some(Self::Started {
                at,
                pid: number.parse().ok()?,
            }),
            "die" => Some(Self::Died {
                at,
                code: number.parse().ok()?,
            }),
            _ => None,
        }
    }

    fn started_at(&self) -> Option<Timestamp> {
        match self {
            Self::Started { at, .. } => Some(Timestamp::from_millis(*at)),
            Self::Died { .. } => None,
        }
    }

    fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Died { at, .. } => Some(Timestamp::from_millis(*at)),
            Self::Started { .. } => None,
        }
    }
}

/// What was reported of each recorder so far.
struct Following {
    runtime: ProcessRuntime,
    read: HashMap<ContainerId, usize>,
    frozen: HashMap<ContainerId, bool>,
    waiting: VecDeque<RuntimeEvent>,
}

impl Following {
    async fn next(&mut self) -> RuntimeEvent {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            let pause = if self.read.is_empty() { GLANCE } else { LOOK };
            tokio::time::sleep(pause).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let ids = self.runtime.ids();
        for id in &ids {
            self.runtime.note_lost_death(id);
            self.read_notes(id);
        }
        let gone = self.read.keys().filter(|id| !ids.contains(id)).cloned();
        for id in gone.collect::<Vec<_>>() {
            self.read.remove(&id);
            self.frozen.remove(&id);
            self.report(&id, SystemClock.now().millis(), HappeningKind::Removed);
        }
    }

    fn read_notes(&mut self, id: &ContainerId) {
        let notes = self.runtime.notes(id);
        let read = self.read.insert(id.clone(), notes.len()).unwrap_or(0);
        for note in notes.iter().skip(read) {
            match *note {
                Note::Started { at, .. } => self.report(id, at, HappeningKind::Started),
                Note::Died { at, code } => self.report(id, at, HappeningKind::Died(code)),
            }
        }
        let now = matches!(notes.last(), Some(Note::Started { pid, .. }) if frozen(*pid));
        let before = self.frozen.insert(id.clone(), now).unwrap_or(false);
        if now != before {
            let kind = if now {
                HappeningKind::Paused
            } else {
                HappeningKind::Unpaused
            };
            self.report(id, SystemClock.now().millis(), kind);
        }
    }

    fn report(&mut self, id: &ContainerId, at: i64, kind: HappeningKind) {
        self.waiting.push_back(RuntimeEvent::Happened(Happening {
            container: id.clone(),
            at: Timestamp::from_millis(at),
            kind,
        }));
    }
}

/// Every process whose environment names the recorder, but for those that only wait to be reaped.
fn processes_of(id: &ContainerId) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| belongs(*pid, id))
        .collect()
}

fn belongs(pid: i32, id: &ContainerId) -> bool {
    let wanted = format!("{ID}={id}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == wanted.as_bytes())
}

/// Whether the process was stopped by a signal.
fn frozen(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next();
    after_name.is_some_and(|rest| rest.starts_with(['T', 't']))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed(act: &str, cause: impl ToString) -> RuntimeError {
    RuntimeError::Failed {
        act: act.to_owned(),
        cause: cause.to_string(),
    }
}
