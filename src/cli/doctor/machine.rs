//! What this machine says of itself: kernel, Docker and its images, logs, and what runs in the recording containers.

use super::containers::{self, Running};
use super::parts::Parts;
use crate::cli::Failure;
use crate::cli::report::{Check, Report};
use crate::cli::service::{CONTAINER, UNIT};
use crate::cli::system::Call;
use crate::cli::validate::PATIENCE;
use crate::config::Settings;
use crate::model::ask::Reply;
use crate::model::ids::RecordingId;
use serde_json::{Value, json};
use std::process::Output;
use std::time::Duration;

/// How long a recording container may take for its own checks.
const INSIDE: Duration = Duration::from_secs(40);
/// Last lines of the service's log.
const LINES: &str = "3000";
/// Last lines of a recorder's.
const LINES_OF_RECORDER: &str = "500";
/// Containers that are looked into.
const MOST_CONTAINERS: usize = 8;
/// How a program ends that does not know the command.
const NO_SUCH_COMMAND: i32 = 2;

/// What runs in the recording containers of this machine.
#[derive(Debug, Default)]
pub(super) struct Recorders {
    /// What they answer, each with its container's name.
    pub(super) replies: Vec<(String, Reply)>,
    /// What they record.
    pub(super) recordings: Vec<RecordingId>,
}

/// Versions, memory, load: what is there on every Linux.
pub(super) fn kernel(parts: &mut Parts) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let versions = json!({
        "program": env!("CARGO_PKG_VERSION"),
        "kernel": read("/proc/version").trim(),
        "system": read("/etc/os-release").lines().collect::<Vec<_>>(),
    });
    parts.add_json("versions.json", &versions);
    for name in [
        "meminfo",
        "loadavg",
        "uptime",
        "pressure/cpu",
        "pressure/memory",
        "pressure/io",
    ] {
        let text = read(&format!("/proc/{name}"));
        parts.put(&format!("machine/{}.txt", name.replace('/', "-")), &text);
    }
}

/// Disks, the service's log, and what the kernel says of want of memory.
pub(super) async fn system(parts: &mut Parts) {
    let quiet = ["--no-pager", "-o", "short-iso"];
    parts.add("machine/disks.txt", words("df", &["-h"]).await);
    if sd_notify::booted().unwrap_or(false) {
        let log = [&["-u", UNIT, "-n", LINES], &quiet[..]].concat();
        parts.add_log("log/service.txt", words("journalctl", &log).await);
        let want = "out of memory|oom-kill|I/O error";
        let kernel = [&["-k", "-n", "200", "-g", want], &quiet[..]].concat();
        parts.add_log("log/kernel.txt", words("journalctl", &kernel).await);
        parts.add(
            "machine/unit.txt",
            words("systemctl", &["status", "--no-pager", "-n0", UNIT]).await,
        );
    }
}

/// Docker, its containers, and the images that count.
pub(super) async fn docker(settings: &Settings, parts: &mut Parts) {
    let whole = ["info", "--format", "{{json .}}"];
    parts.add("docker/info.json", words("docker", &whole).await);
    parts.add("docker/version.txt", words("docker", &["version"]).await);
    let row = "table {{.ID}}\t{{.Image}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Names}}";
    parts.add(
        "docker/containers.txt",
        words("docker", &["ps", "-a", "--format", row]).await,
    );
    let images = words(
        "docker",
        &[
            "images",
            "--digests",
            "--format",
            "{{.Repository}}:{{.Tag}}\t{{.ID}}\t{{.Digest}}\t{{.CreatedSince}}",
        ],
    )
    .await;
    let is_of_use = |line: &&str| {
        let names = ["openvidu", "ov2-ha-recorder", settings.image_name.as_str()];
        names.iter().any(|name| line.contains(name))
    };
    let images = images.map(|it| it.lines().filter(is_of_use).collect::<Vec<_>>().join("\n"));
    parts.add("docker/images.txt", images);
    let labels = [
        "image",
        "inspect",
        "-f",
        "{{json .Config.Labels}}",
        &settings.image(),
    ];
    parts.add("docker/labels.json", words("docker", &labels).await);
    let log = ["logs", "--tail", LINES, CONTAINER];
    if let Ok(log) = words("docker", &log).await {
        parts.add_log("log/container.txt", Ok::<_, Failure>(log));
    }
}

/// The containers of this host, with what nobody may see of them hidden from now on. Without them no log is packed: what they
/// were told may be in it.
pub(super) async fn containers(settings: &Settings, parts: &mut Parts) -> Vec<Running> {
    let running = match containers::running(settings).await {
        Ok(running) => running,
        Err(failure) => {
            parts.cannot_hide([format!("cannot see what containers are told: {failure}")]);
            parts.lack("containers", failure);
            return Vec::new();
        }
    };
    for one in &running {
        parts.hide(one.secrets.iter().cloned());
        parts.cannot_hide(one.unread.iter().cloned());
    }
    running
}

/// What the recorders of this host's recordings answer. Their own checks go into the report.
pub(super) async fn recorders(
    running: &[Running],
    parts: &mut Parts,
    report: &mut Report,
) -> Recorders {
    let recordings = running.iter().filter_map(|one| one.recording.clone());
    let mut found = Recorders {
        recordings: recordings.collect(),
        ..Recorders::default()
    };
    let recorders = running.iter().filter(|it| it.is_recorder);
    for name in recorders.map(|it| &it.name).take(MOST_CONTAINERS) {
        let place = format!("containers/{name}");
        let log = words("docker", &["logs", "--tail", LINES_OF_RECORDER, name]).await;
        parts.add_log(&format!("{place}/log.txt"), log);
        let reply = reply(name).await;
        if let Reply::Answer(_, Some(recording)) = &reply {
            found.recordings.push(recording.clone());
        }
        found.replies.push((name.clone(), reply));
        let call = Call::of(
            "docker",
            ["exec", name, "ov2-ha-recorder", "doctor", "--json"],
        );
        let ended = call.ended_within(INSIDE).await;
        report.add(inside(name, ended.as_ref()));
        let said = ended.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        parts.add(&format!("{place}/doctor.json"), said);
    }
    found
}

async fn reply(container: &str) -> Reply {
    let call = Call::of(
        "docker",
        ["exec", container, "ov2-ha-recorder", "ask", "--json"],
    );
    match call.ended_within(PATIENCE).await {
        Ok(ended) => Reply::of_command(ended.status.code().map(i64::from), &ended.stdout),
        Err(cause) => Reply::Unknown(cause.message),
    }
}

/// What a container's own checks found, in one.
fn inside(container: &str, ended: Result<&Output, &Failure>) -> Check {
    let name = format!("in {container}");
    let Ok(ended) = ended else {
        let finding = format!("does not answer within {} s", INSIDE.as_secs());
        return Check::bad(&name, finding)
            .advice(format!("\"docker logs {container}\" says what it does"));
    };
    let found: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    let Some(checks) = found["checks"].as_array() else {
        if ended.status.code() == Some(NO_SUCH_COMMAND) {
            let why = "its image is of an earlier version, which cannot check itself";
            return Check::skipped(&name, why);
        }
        // Docker says on either stream what it cannot do.
        let said = [&ended.stderr[..], &ended.stdout[..]].concat();
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().find(|line| !line.trim().is_empty());
        let first = first.map_or_else(|| ended.status.to_string(), str::to_owned);
        return Check::warning(&name, format!("cannot be looked into: {first}"))
            .advice(format!("see \"docker ps -a --filter name={container}\""));
    };
    let bad = checks.iter().filter(|check| check["outcome"] == "bad");
    let text = |check: &Value| {
        let part = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", part("name"), part("finding"))
    };
    let bad: Vec<_> = bad.map(text).collect();
    match bad.is_empty() {
        true => Check::good(&name, format!("{} checks, nothing wrong", checks.len())),
        false => Check::bad(&name, bad.join("; ")).advice(format!(
            "\"docker exec {container} ov2-ha-recorder doctor\" says what to do"
        )),
    }
}

/// What a program writes on both of its streams, however it ends: a unit that has failed is told of by a failure.
async fn words(program: &'static str, arguments: &[&str]) -> Result<String, Failure> {
    let ended = Call::of(program, arguments).ended_within(PATIENCE).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&ended.stdout) + &text(&ended.stderr);
    match ended.status.success() || !ended.stdout.is_empty() {
        true => Ok(said),
        false => Err(Failure::new(said.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn only_a_refused_command_means_an_earlier_version() {
        let check = |code: i32, stdout: &str, stderr: &str| {
            let ended = Output {
                status: ExitStatus::from_raw(code << 8),
                stdout: stdout.into(),
                stderr: stderr.into(),
            };
            inside("one", Ok(&ended))
        };
        let old = check(2, "", "error: unrecognized subcommand 'doctor'");
        assert!(old.finding().contains("earlier version"), "{old:?}");
        let paused = check(1, "", "Error response from daemon: one is paused\nmore");
        assert!(paused.is_warning(), "{paused:?}");
        assert!(paused.finding().ends_with("one is paused"), "{paused:?}");
        let found = r#"{"checks":[{"name":"clock","outcome":"bad","finding":"off"}]}"#;
        assert_eq!(check(1, found, "").finding(), "clock: off");
        let late = inside("one", Err(&Failure::new("late")));
        assert!(
            late.is_bad() && late.finding().contains("within 40 s"),
            "{late:?}"
        );
    }
}
