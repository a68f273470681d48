//! The containers that work on this host's recordings: what each is for, and what in its environment is secret.

use crate::cli::Failure;
use crate::cli::service::CONTAINER;
use crate::cli::system::Call;
use crate::cli::validate::PATIENCE;
use crate::config::{SHORTEST_KEY, Settings, TABLE, Variables};
use crate::model::ids::RecordingId;
use crate::recorder::secrets_of_page;
use crate::runtime::MADE_BY_US;
use crate::tasks;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The label `created.by`, of our image and of our controller's containers.
const OURS: [&str; 2] = ["ov2-ha-recorder", MADE_BY_US.1];

/// A container that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: String,
    /// Whether our recorder is in it. A broadcast's log holds its environment, and with it the key of its stream.
    pub(super) is_recorder: bool,
    /// What it records.
    pub(super) recording: Option<RecordingId>,
    /// What nobody may see of its environment.
    pub(super) secrets: BTreeSet<String>,
    /// Files with more of that which cannot be read.
    pub(super) unread: Vec<String>,
}

/// Those that have the recordings folder, and the service's own.
///
/// # Errors
/// When Docker does not answer.
pub(super) async fn running(settings: &Settings) -> Result<Vec<Running>, Failure> {
    let folder = format!("volume={}", settings.recording_path.display());
    let list = [
        "ps",
        "-q",
        "--filter",
        &folder,
        "--filter",
        "label=created.by",
    ];
    let ids = Call::of("docker", list).output_within(PATIENCE).await?;
    let inspect = ["inspect", "--type", "container", CONTAINER];
    let inspect = Call::of("docker", inspect.into_iter().chain(ids.split_whitespace()));
    // One that has gone meanwhile is told of by its exit code.
    let found = inspect.ended_within(PATIENCE).await?.stdout;
    let found: Vec<Value> = serde_json::from_slice(&found)
        .map_err(|cause| Failure::new(format!("docker inspect cannot be understood: {cause}")))?;
    // The files that are named there may lie on a disk that hangs.
    let read = move || found.iter().filter_map(Running::of).collect();
    tasks::answered_within(PATIENCE, read)
        .await
        .ok_or_else(|| Failure::new("the files that containers name cannot be read"))
}

impl Running {
    fn of(found: &Value) -> Option<Self> {
        let name = found["Name"].as_str()?.trim_start_matches('/').to_owned();
        let (variables, unread) = told(found, &name);
        let maker = found["Config"]["Labels"]["created.by"].as_str();
        let mode = variables.get("CONTAINER_WORKING_MODE");
        let is_composed = mode.is_none_or(|mode| mode.starts_with("COMPOSED"));
        let is_ours = maker.is_some_and(|maker| OURS.contains(&maker));
        let is_recorder = is_ours && is_composed && name != CONTAINER;
        let recording = variables.get("VIDEO_ID").filter(|_| is_recorder);
        Some(Self {
            is_recorder,
            recording: recording.and_then(|id| RecordingId::parse(id).ok()),
            secrets: secrets(&variables),
            unread,
            name,
        })
    }
}

/// What a container's environment says, with its files where they are on this machine, and which of those cannot be read.
fn told(found: &Value, container: &str) -> (Variables, Vec<String>) {
    let lines = found["Config"]["Env"].as_array().into_iter().flatten();
    let pairs = lines.filter_map(|line| line.as_str()?.split_once('='));
    let mut told = Vec::new();
    let mut unread = Vec::new();
    for (name, value) in pairs {
        let Some(setting) = name.strip_suffix("_FILE") else {
            told.push((name, value.to_owned()));
            continue;
        };
        let Some(setting) = TABLE.iter().find(|it| it.name == setting) else {
            continue;
        };
        match on_host(found, Path::new(value)) {
            Some(here) => told.push((name, here.display().to_string())),
            None if setting.secret => unread.push(format!(
                "cannot read what {name} names inside the container {container}"
            )),
            None => {}
        }
    }
    let variables = Variables::of(told);
    unread.extend(variables.unread());
    (variables, unread)
}

/// Where a file of a container lies on this machine; `None` where only the container has it.
fn on_host(found: &Value, path: &Path) -> Option<PathBuf> {
    let mounts = found["Mounts"].as_array()?.iter().filter_map(|mount| {
        let inside = path.strip_prefix(mount["Destination"].as_str()?).ok()?;
        let place = mount["Source"].as_str().filter(|it| !it.is_empty())?;
        Some((inside, Path::new(place)))
    });
    // One may be mounted below another.
    let (inside, place) = mounts.min_by_key(|(inside, _)| inside.components().count())?;
    match inside.as_os_str().is_empty() {
        true => Some(place.to_owned()),
        false => Some(place.join(inside)),
    }
}

fn secrets(variables: &Variables) -> BTreeSet<String> {
    let mut found = variables.secrets();
    let id = variables.get("VIDEO_ID").unwrap_or_default();
    if let Some(page) = variables.get("URL") {
        found.extend(secrets_of_page(&page));
        let is_key = |part: &&str| {
            part.len() >= SHORTEST_KEY && !part.starts_with("layout") && !id.starts_with(*part)
        };
        found.extend(parts(&page).filter(is_key).map(str::to_owned));
    }
    if let Some(place) = variables.get("BROADCAST_URL") {
        let all: Vec<_> = parts(&place).collect();
        // Before the stream's key stands the name of an application, such as "live".
        let keys = all.iter().skip(usize::from(all.len() > 1));
        found.extend(keys.map(|key| (*key).to_owned()));
        found.insert(place);
    }
    found
}

/// What stands below the host of an address.
fn parts(address: &str) -> impl Iterator<Item = &str> {
    let (_, place) = address.split_once("://").unwrap_or_default();
    let (_, below) = place.split_once(['/', '?', '#']).unwrap_or_default();
    let parts = below.split(['/', '?', '#', '&']);
    let values = parts.map(|part| part.split_once('=').map_or(part, |(_, value)| value));
    values.filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(maker: &str, variables: &[&str]) -> Running {
        let config = json!({ "Labels": { "created.by": maker }, "Env": variables });
        Running::of(&json!({ "Name": "/one", "Config": config })).unwrap()
    }

    #[test]
    fn only_our_own_recorders_are_taken_for_ones() {
        let mode = |maker: &str, mode: &str| {
            let mode = format!("CONTAINER_WORKING_MODE={mode}");
            let found = container(maker, &[&mode, "VIDEO_ID=ses_A~1"]);
            assert_eq!(found.recording.is_some(), found.is_recorder);
            found.is_recorder
        };
        assert!(mode("ha-controller", "COMPOSED"));
        assert!(mode("ov2-ha-recorder", "COMPOSED_QUICK_START"));
        assert!(!mode("ov2-ha-recorder", "BROADCAST"));
        assert!(!mode("someone", "COMPOSED"));
        assert!(container("ha-controller", &[]).is_recorder);
    }

    #[test]
    fn what_a_page_or_a_stream_is_opened_with_is_secret() {
        let found = container(
            "ov2-ha-recorder",
            &[
                "BROADCAST_URL=rtmp://live.example.com/app/stream-key",
                "URL=https://h/openvidu/?token=a-t0ken#/layout-best-fit/ses_of_a_long_name/of-the-page/8443/false",
                "VIDEO_ID=ses_of_a_long_name~1",
                "SMTP_PASS=of-mail",
                "HA_AWS_SECRET_KEY_FILE=/etc/hostname",
            ],
        );
        for part in ["stream-key", "a-t0ken", "of-the-page", "of-mail"] {
            assert!(found.secrets.contains(part), "{part}: {found:?}");
        }
        assert_eq!(
            found.unread,
            ["cannot read what HA_AWS_SECRET_KEY_FILE names inside the container one"]
        );
        let ordinary = ["ses_of_a_long_name", "layout-best-fit", "openvidu", "app"];
        for part in ordinary {
            assert!(!found.secrets.contains(part), "{part}: {found:?}");
        }
    }

    #[test]
    fn a_secret_in_a_file_that_a_container_names_is_found_where_the_file_is_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::create_dir(place("recordings")).unwrap();
        for (name, text) in [
            ("recordings/token", "of-recorders"),
            ("password", "of-the-account"),
            ("key", "of-the-store"),
        ] {
            std::fs::write(place(name), text).unwrap();
        }
        let mount =
            |here: &str, there: &str| json!({ "Source": place(here), "Destination": there });
        let found = Running::of(&json!({
            "Name": "/one",
            "Config": { "Labels": {}, "Env": [
                "HA_RECORDER_TOKEN_FILE=/recordings/token",
                "HA_CONTROLLER_PASSWORD_FILE=/run/secrets/password",
                "HA_AWS_SECRET_KEY_FILE=/recordings/deep/key",
                "HA_VIEWER_PASSWORD_FILE=/elsewhere/password",
                "HA_CA_FILE_FILE=/elsewhere/name",
            ] },
            "Mounts": [
                mount("recordings", "/recordings"),
                mount("password", "/run/secrets/password"),
                mount("", "/recordings/deep"),
            ],
        }));
        let found = found.unwrap();
        for part in ["of-recorders", "of-the-account", "of-the-store"] {
            assert!(found.secrets.contains(part), "{part}: {found:?}");
        }
        assert_eq!(
            found.unread,
            ["cannot read what HA_VIEWER_PASSWORD_FILE names inside the container one"]
        );
    }
}
