//! A controller of one's own: the real binary as a process, with a port, a data folder and an account that nobody else has.

use super::secrets;
use super::wait::until;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The user that controllers of tests know.
pub const USER: &str = "recorder";

/// What is tried and measured: the program that was just built at `built`, or the one that `OV2_PROGRAM` names.
pub fn program(built: &str) -> PathBuf {
    let other = std::env::var_os("OV2_PROGRAM");
    other.map_or_else(|| built.into(), PathBuf::from)
}

/// A running `serve`.
#[derive(Debug)]
pub struct Controller {
    /// Its port on the loopback interface.
    pub port: u16,
    /// Where its settings, state and log lie.
    pub folder: PathBuf,
    /// The password of [`USER`].
    pub password: String,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    client: reqwest::Client,
}

/// Whatever a test does with a controller, secrets stay out of what it and the recorders below it write.
impl Drop for Controller {
    fn drop(&mut self) {
        secrets::heard("the controller", &self.log());
        let recorders = fs::read_dir(self.folder.join("data/processes"));
        for recorder in recorders.into_iter().flatten().flatten() {
            let log = fs::read_to_string(recorder.path().join("log"));
            secrets::heard("a recorder", &log.unwrap_or_default());
        }
    }
}

impl Controller {
    /// Starts `binary serve` with its files below `folder`, recordings in `recordings`, and further settings; returns when
    /// it says that its runtime is there. The recorders' `.env` is put into the recordings folder.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        recordings: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut controller = Self::set_up(binary, folder, recordings, settings);
        controller.resume().await;
        controller
    }

    /// The same where Docker is looked for at the socket `docker`, which need not be there: returns when it answers at all.
    pub async fn start_beside(
        docker: &Path,
        binary: &Path,
        folder: &Path,
        recordings: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut controller = Self::set_up(binary, folder, recordings, settings);
        let host = format!("unix://{}", docker.display());
        controller.environment.push(("DOCKER_HOST".into(), host));
        controller.spawn();
        controller.answers("/openvidu/webhook").await;
        controller
    }

    fn set_up(binary: &Path, folder: &Path, recordings: &Path, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let password = ov2_ha_recorder::random::hex::<12>();
        let mut table = BTreeMap::from([
            ("HA_CONTROLLER_HOST", "127.0.0.1".to_owned()),
            ("HA_CONTROLLER_PORT", port.to_string()),
            ("HA_LISTEN_ADDRESS", "127.0.0.1".into()),
            ("HA_CONTROLLER_USERNAME", USER.into()),
            ("HA_CONTROLLER_PASSWORD", password.clone()),
            ("OPENVIDU_RECORDING_PATH", recordings.display().to_string()),
        ]);
        table.extend(
            settings
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        secrets::keep(table.iter().map(|(name, value)| (*name, value.as_str())));
        let text: String = table
            .iter()
            .map(|(name, value)| format!("{name}='{value}'\n"))
            .collect();
        fs::create_dir_all(folder).unwrap();
        fs::create_dir_all(recordings).unwrap();
        fs::write(folder.join("controller.env"), &text).unwrap();
        fs::write(recordings.join(".env"), &text).unwrap();
        let second = Duration::from_secs(1);
        Self {
            port,
            folder: folder.to_owned(),
            password,
            binary: binary.to_owned(),
            environment: Vec::new(),
            child: None,
            client: ov2_ha_recorder::outbound::client(second, 10 * second).unwrap(),
        }
    }

    /// The account's password becomes another one: the process starts again with it, and nobody else is told.
    pub async fn change_password(&mut self) {
        let new = ov2_ha_recorder::random::hex::<12>();
        secrets::keep([("HA_CONTROLLER_PASSWORD", new.as_str())]);
        let path = self.folder.join("controller.env");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&self.password, &new)).unwrap();
        self.password = new;
        self.stop().await;
        self.resume().await;
    }

    /// Starts the process again over the same data; how long until it was at work. Others' recorders and a missing image,
    /// which health tells of too, are no reason to wait.
    pub async fn resume(&mut self) -> Duration {
        self.spawn();
        self.answers("/actuator/health/docker").await
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = Command::new(&self.binary);
        // The tests' own settings must not win over the file's.
        for setting in ov2_ha_recorder::config::TABLE {
            command.env_remove(setting.name);
        }
        let child = command
            .arg("serve")
            .envs(self.environment.iter().cloned())
            .args(["--env-file", path_text(&self.folder.join("controller.env"))])
            .args(["--data-dir", path_text(&self.folder.join("data"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|cause| panic!("cannot start {}: {cause}", self.binary.display()));
        self.child = Some(child);
    }

    async fn answers(&self, path: &str) -> Duration {
        let what = format!("a controller that answers {path}");
        let (took, ()) = until(&what, Duration::from_secs(20), || async {
            let answer = self.client.get(self.url(path)).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        took
    }

    /// Its process's number.
    pub fn process(&self) -> u32 {
        let child = self.child.as_ref().expect("the controller does not run");
        child.id().expect("the controller has ended")
    }

    /// `SIGTERM`; how long it took to end.
    pub async fn stop(&mut self) -> Duration {
        self.signal("TERM").await
    }

    /// `SIGKILL`.
    pub async fn kill(&mut self) {
        self.signal("KILL").await;
    }

    async fn signal(&mut self, signal: &str) -> Duration {
        let begin = Instant::now();
        let mut child = self.child.take().expect("the controller does not run");
        if let Some(pid) = child.id() {
            super::docker::signal_process(pid, signal);
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
        ended.expect("the controller does not end").unwrap();
        begin.elapsed()
    }

    /// The address of `path` there.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// A request with the account; status and JSON.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let request = self
            .client
            .request(method, self.url(path))
            .basic_auth(USER, Some(&self.password));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// What `GET path` answers.
    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await.1
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("controller.log")
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn path_text(path: &Path) -> &str {
    path.to_str()
        .expect("the temporary folder's path is no text")
}
