//! What a recorder runs in, as OpenVidu handles it: a container, or on machines without containers a process that the
//! process runtime treats as one.

use super::docker::{Container, docker, signal_process};
use super::secrets;
use super::wait::until;
use ov2_ha_recorder::model::ids::ContainerId;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use ov2_ha_recorder::runtime::{ContainerStatus, Environment, Runtime, Stop};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where recorders run.
#[derive(Clone, Debug)]
pub enum Ground {
    /// In containers of this image.
    Docker {
        /// With its tag.
        image: String,
    },
    /// As processes, each with a folder below this one.
    Processes {
        /// What starts them.
        runtime: ProcessRuntime,
        /// Where their folders are.
        root: PathBuf,
    },
}

/// One recorder's place.
#[derive(Clone, Debug)]
pub enum Vessel {
    /// A container.
    Docker(Container),
    /// A process.
    Process {
        /// What started it.
        runtime: ProcessRuntime,
        /// Its number there.
        id: ContainerId,
        /// Its folder.
        folder: PathBuf,
    },
}

impl Ground {
    /// Makes and starts a recorder with name, environment, bind, network and shared memory, nothing else.
    pub fn run(
        &self,
        name: &str,
        environment: Vec<(&'static str, String)>,
        recordings: &Path,
    ) -> Result<Vessel, String> {
        match self {
            Self::Docker { image } => run_container(image, name, environment, recordings),
            Self::Processes { runtime, root } => {
                let variables = environment
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                let environment = Environment(variables.collect());
                let launched = runtime.launch(name, environment, recordings, BTreeMap::new());
                let id = launched.map_err(|cause| cause.to_string())?;
                Ok(Vessel::Process {
                    runtime: runtime.clone(),
                    folder: root.join(id.as_str()),
                    id,
                })
            }
        }
    }
}

impl Ground {
    /// Removes by force whatever was made of the recording image, as OpenVidu does when it starts.
    pub fn clear(&self) {
        let Self::Docker { image } = self else {
            panic!("these recorders run in no containers");
        };
        let listed = docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Image}}"]);
        for line in listed.unwrap().lines() {
            if let Some((id, of)) = line.split_once(' ')
                && of == image
            {
                Container(id.to_owned()).remove();
            }
        }
    }
}

fn run_container(
    image: &str,
    name: &str,
    environment: Vec<(&'static str, String)>,
    recordings: &Path,
) -> Result<Vessel, String> {
    let bind = format!("{}:/recordings", recordings.display());
    let fixed = [
        "create",
        "--network",
        "host",
        "--shm-size",
        "536870912",
        "--name",
        name,
        "-v",
        &bind,
    ];
    let mut arguments = fixed.map(str::to_owned).to_vec();
    for (name, value) in environment {
        arguments.extend(["-e".into(), format!("{name}={value}")]);
    }
    arguments.push(image.to_owned());
    let container = Container(docker(&arguments)?);
    docker(&["start", &container.0])?;
    Ok(Vessel::Docker(container))
}

impl Vessel {
    /// The container, for tests that need one.
    pub fn container(&self) -> &Container {
        match self {
            Self::Docker(container) => container,
            Self::Process { .. } => panic!("this recorder runs in no container"),
        }
    }

    /// Kills its first process from outside.
    pub fn kill_first_process(&self) {
        match self {
            Self::Docker(container) => container.signal_first_process("KILL"),
            Self::Process { folder, .. } => {
                let events = fs::read_to_string(folder.join("events")).unwrap_or_default();
                let last = events.lines().rfind(|line| line.starts_with("start "));
                let pid = last.and_then(|line| line.rsplit(' ').next()?.parse().ok());
                signal_process(pid.expect("the recorder was never started"), "KILL");
            }
        }
    }

    /// `echo 'q' > stop` in it, as OpenVidu does.
    pub fn tell_to_stop(&self) -> Result<(), String> {
        match self {
            Self::Docker(container) => {
                docker(&["exec", &container.0, "bash", "-c", "echo 'q' > stop"]).map(drop)
            }
            Self::Process { folder, .. } => {
                fs::write(folder.join("stop"), "q\n").map_err(|cause| cause.to_string())
            }
        }
    }

    /// Waits for its end, at most `patience`; its exit code.
    pub async fn end(&self, patience: Duration) -> Result<i64, String> {
        let waited = match self {
            Self::Docker(container) => tokio::time::timeout(patience, wait_for(container)).await,
            Self::Process { runtime, id, .. } => {
                let ended = until("the recorder's end", patience, || async {
                    match runtime.inspect(id).await.ok()??.status {
                        ContainerStatus::Exited(code) => Some(Ok(code)),
                        _ => None,
                    }
                });
                Ok(ended.await.1)
            }
        };
        waited.unwrap_or_else(|_| {
            let logs = self.logs();
            self.force_away();
            Err(format!(
                "the container did not end within {patience:?}\n{logs}"
            ))
        })
    }

    /// Removes it once it has ended.
    pub async fn remove(&self) -> Result<(), String> {
        secrets::heard("a recorder", &self.logs());
        match self {
            Self::Docker(container) => docker(&["rm", &container.0]).map(drop),
            Self::Process { runtime, id, .. } => {
                runtime.remove(id).await.map_err(|cause| cause.to_string())
            }
        }
    }

    /// What it wrote.
    pub fn logs(&self) -> String {
        match self {
            Self::Docker(container) => container.logs(),
            Self::Process { folder, .. } => {
                fs::read_to_string(folder.join("log")).unwrap_or_default()
            }
        }
    }

    /// Ends and removes it, whatever it does; harmless when it is gone.
    pub fn force_away(&self) {
        match self {
            Self::Docker(container) => container.remove(),
            Self::Process { runtime, id, .. } => {
                let (runtime, id) = (runtime.clone(), id.clone());
                // Its own thread: this is also called where no task may wait.
                let away = std::thread::spawn(move || {
                    let waiting = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build();
                    waiting.unwrap().block_on(async {
                        let _ = runtime.stop(&id, Stop::Fence).await;
                        let _ = runtime.remove(&id).await;
                    });
                });
                let _ = away.join();
            }
        }
    }
}

async fn wait_for(container: &Container) -> Result<i64, String> {
    let mut wait = tokio::process::Command::new("docker");
    wait.args(["wait", &container.0]).kill_on_drop(true);
    let output = wait
        .output()
        .await
        .map_err(|cause| format!("cannot run docker wait: {cause}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().map_err(|_| format!("docker wait: {text}"))
}
