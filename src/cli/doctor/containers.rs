//! The containers that work on this host's recordings: what each is for, and what in its environment is secret.

use crate::cli::Failure;
use crate::cli::service::CONTAINER;
use crate::cli::system::Call;
use crate::cli::validate::PATIENCE;
use crate::config::{SHORTEST_KEY, Settings, Variables};
use crate::model::ids::RecordingId;
use crate::recorder::secrets_of_page;
use crate::runtime::MADE_BY_US;
use serde_json::Value;
use std::collections::BTreeSet;

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
    Ok(found.iter().filter_map(Running::of).collect())
}

impl Running {
    fn of(found: &Value) -> Option<Self> {
        let name = found["Name"].as_str()?.trim_start_matches('/').to_owned();
        let lines = found["Config"]["Env"].as_array().into_iter().flatten();
        let pairs = lines.filter_map(|line| line.as_str()?.split_once('='));
        // What a container calls a file is another one here.
        let variables = Variables::of(pairs.filter(|(name, _)| !name.ends_with("_FILE")));
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
            name,
        })
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
        let ordinary = ["ses_of_a_long_name", "layout-best-fit", "openvidu", "app"];
        for part in ordinary {
            assert!(!found.secrets.contains(part), "{part}: {found:?}");
        }
    }
}
