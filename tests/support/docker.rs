//! Docker through its command line, as far as tests need it. Everything here blocks for a short while only.

use super::secrets;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest that Docker may take for a command, in seconds; nothing that is asked of it here takes a tenth of it.
const PATIENCE: u64 = 120;

/// Docker took longer than that for a command: it has been seen to hang for good, and no later one waits for it.
static HANGS: AtomicBool = AtomicBool::new(false);

/// Runs `docker` with `args`; what it printed, or what it complained of.
pub fn docker<S: AsRef<str>>(args: &[S]) -> Result<String, String> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let verb = args.first().copied().unwrap_or_default();
    let output = run(&args).map_err(|cause| format!("docker {verb}: {cause}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("docker {verb}: {}", text(&output.stderr)))
    }
}

fn run(args: &[&str]) -> Result<Output, String> {
    let hangs = || format!("the daemon did not answer within {PATIENCE} s");
    if HANGS.load(Ordering::Relaxed) {
        return Err(format!("not tried, since earlier {}", hangs()));
    }
    let begin = Instant::now();
    let output = Command::new("timeout")
        .args(["-k", "5", &PATIENCE.to_string(), "docker"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| format!("cannot be run: {cause}"))?;
    // What runs in a container can end with the same codes as `timeout`.
    if !output.status.success() && begin.elapsed() >= Duration::from_secs(PATIENCE) {
        HANGS.store(true, Ordering::Relaxed);
        return Err(hangs());
    }
    Ok(output)
}

/// The recording image that tests run, once it is known to be there; else why it cannot be used.
pub fn recording_image() -> Result<String, String> {
    docker(&["version", "--format", "{{.Server.Version}}"])?;
    let set = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let name = set("IMAGE_NAME", "openvidu/openvidu-recording");
    let image = format!("{name}:{}", set("IMAGE_TAG", "2.32.2"));
    docker(&["image", "inspect", "--format", "{{.Id}}", &image])?;
    let owner = "{{index .Config.Labels \"created.by\"}}";
    let owner = docker(&["image", "inspect", "--format", owner, &image])?;
    if owner != "ov2-ha-recorder" {
        return Err(format!(
            "{image} is not ours; build it with packaging/docker/build-recorder"
        ));
    }
    Ok(image)
}

/// A second name for the recording image, for one test alone: a controller acts on the containers of its own image name
/// only, so that tests do not meet.
#[derive(Debug)]
pub struct OwnImage {
    /// Its name without tag.
    pub name: String,
}

impl OwnImage {
    /// The tag that every own image has.
    pub const TAG: &str = "test";

    /// Tags `image` with a name that nobody else has.
    pub fn of(image: &str) -> Self {
        // In a name space of its own, so that no other test's OpenVidu server is taken for this one's.
        let space = ov2_ha_recorder::random::hex::<6>();
        let name = format!("ov2-ha-test/{space}/recording");
        docker(&["tag", image, &format!("{name}:{}", Self::TAG)]).unwrap();
        Self { name }
    }

    /// Name and tag.
    pub fn full(&self) -> String {
        format!("{}:{}", self.name, Self::TAG)
    }
}

impl Drop for OwnImage {
    fn drop(&mut self) {
        for container in containers(&format!("ancestor={}", self.full())) {
            // The ancestor filter goes by the image's id: others' containers share it.
            if container
                .inspect("{{.Config.Image}}")
                .is_ok_and(|image| image == self.full())
            {
                container.remove();
            }
        }
        let _ = docker(&["rmi", &self.full()]);
    }
}

/// A small image under a name of one test's own, for ours to be built on; what becomes of it goes with it.
#[derive(Debug)]
pub struct SmallImage {
    /// Its name without tag.
    pub name: String,
}

impl SmallImage {
    /// A Debian; why there is none.
    pub fn new() -> Result<Self, String> {
        let debian = "ov2-ha-recorder-debian:bookworm";
        let missing =
            |_| format!("the image {debian} is not there; packaging/docker/build-systemd makes it");
        docker(&["image", "inspect", "--format", "{{.Id}}", debian]).map_err(missing)?;
        let small = Self {
            name: format!("ov2-ha-test/{}", ov2_ha_recorder::random::hex::<6>()),
        };
        docker(&["tag", debian, &small.full()])?;
        Ok(small)
    }

    /// Name and tag.
    pub fn full(&self) -> String {
        format!("{}:{}", self.name, OwnImage::TAG)
    }

    /// Ours on it without the recorders' settings.
    pub fn plain(&self) -> String {
        format!(
            "ov2-ha-recorder/recording:{}",
            self.full().replace(['/', ':'], "-")
        )
    }

    /// The id of what is there under a name.
    pub fn id(name: &str) -> Option<String> {
        docker(&["image", "inspect", "--format", "{{.Id}}", name]).ok()
    }
}

impl Drop for SmallImage {
    fn drop(&mut self) {
        let base = self
            .plain()
            .replace("ov2-ha-recorder/recording", "ov2-ha-recorder-base");
        for name in [self.full(), self.plain(), base] {
            let _ = docker(&["rmi", &name]);
        }
    }
}

/// Every container that `filter` matches, ended ones too.
pub fn containers(filter: &str) -> Vec<Container> {
    docker(&["ps", "-aq", "--no-trunc", "--filter", filter])
        .unwrap_or_default()
        .lines()
        .map(|id| Container(id.to_owned()))
        .collect()
}

/// A container by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container(pub String);

impl Container {
    /// Runs a line of the shell in it, as OpenVidu does; `how` says whether it is waited for (`-i`) or not (`-d`).
    pub fn shell(&self, how: &str, line: &str) -> Result<String, String> {
        docker(&["exec", how, self.0.as_str(), "bash", "-c", line])
    }

    /// What `docker inspect` says by a format.
    pub fn inspect(&self, format: &str) -> Result<String, String> {
        docker(&["inspect", "--format", format, &self.0])
    }

    /// The host's number of its first process.
    pub fn first_process(&self) -> Option<u32> {
        let pid = self.inspect("{{.State.Pid}}").ok()?.parse().ok()?;
        (pid > 0).then_some(pid)
    }

    /// Sends `signal` to its first process from outside, behind Docker's back.
    pub fn signal_first_process(&self, signal: &str) {
        let pid = self.first_process().expect("the container does not run");
        signal_process(pid, signal);
    }

    /// Sends `signal` to those of its processes whose command is `name`; how many it reached.
    pub fn signal_processes(&self, name: &str, signal: &str) -> usize {
        let table = docker(&["top", &self.0, "-eo", "pid,comm"]).unwrap();
        table
            .lines()
            .skip(1)
            .filter_map(|line| line.trim().split_once(char::is_whitespace))
            .filter(|(_, command)| command.trim() == name)
            .filter_map(|(pid, _)| pid.parse().ok())
            // One that another one's end has taken along needs no signal.
            .filter(|pid| try_signal(*pid, signal))
            .count()
    }

    /// When it was started last, in Docker's words.
    pub fn started_at(&self) -> String {
        self.inspect("{{.State.StartedAt}}").unwrap_or_default()
    }

    /// How often `kind` happened to it, as far as Docker remembers: up to the last whole second.
    pub fn events(&self, kind: &str) -> usize {
        let (mine, kind) = (format!("container={}", self.0), format!("event={kind}"));
        // From the beginning: Docker cuts the end to whole seconds, and refuses a beginning after it.
        let past = ["events", "--since", "1", "--until", "0s"];
        let filters = ["--filter", &mine, "--filter", &kind];
        let events = docker(&[&past[..], &filters].concat());
        events.unwrap().lines().count()
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.inspect("{{.State.Running}}")
            .is_ok_and(|running| running == "true")
    }

    /// What its processes wrote.
    pub fn logs(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match run(&["logs", "--timestamps", &self.0]) {
            Ok(output) => text(&output.stdout) + &text(&output.stderr),
            Err(why) => why,
        }
    }

    /// Removes it by force; harmless when it is gone.
    pub fn remove(&self) {
        secrets::heard("a container", &self.logs());
        let _ = docker(&["rm", "-f", "-v", &self.0]);
    }
}

/// Sends `signal` to a process of this machine.
pub fn signal_process(pid: u32, signal: &str) {
    assert!(try_signal(pid, signal), "cannot send {signal} to {pid}");
}

fn try_signal(pid: u32, signal: &str) -> bool {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
