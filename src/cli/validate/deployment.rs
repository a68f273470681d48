//! OpenVidu's own folder against our settings: what differs there is found out by a recording that fails, or by nobody.

use super::super::openvidu::Deployment;
use super::super::report::Check;
use crate::config::Settings;
use std::fs;
use std::path::Path;

const NAME: &str = "deployment";
/// Where OpenVidu is installed.
const USUAL: &str = "/opt/openvidu";

/// What is found in OpenVidu's folder, where there is one.
pub(super) fn deployment(named: Option<&Path>, settings: &Settings) -> Vec<Check> {
    let path = named.unwrap_or(Path::new(USUAL));
    if named.is_none() && !path.join("docker-compose.yml").exists() {
        let finding = format!("OpenVidu is not in {USUAL}; name its folder to have it checked");
        return vec![Check::skipped(NAME, finding)];
    }
    let found = match Deployment::read(path) {
        Ok(found) => found,
        Err(failure) => return vec![Check::bad(NAME, failure.message)],
    };
    let checks = [
        other_image(&found, settings),
        other_folder(&found, settings),
        served(&found, settings),
        webhook(&found),
        recording(&found),
    ];
    let checks: Vec<_> = checks.into_iter().flatten().collect();
    if !checks.is_empty() {
        return checks;
    }
    let finding = format!(
        "OpenVidu {} records with {} and posts its webhooks here",
        found.version,
        settings.image()
    );
    vec![Check::good(NAME, finding)]
}

fn other_image(found: &Deployment, settings: &Settings) -> Option<Check> {
    let (name, tag) = &found.image;
    let theirs = format!("{name}:{tag}");
    (theirs != settings.image()).then(|| {
        let finding = format!(
            "OpenVidu records with {theirs}, and our image is {}",
            settings.image()
        );
        Check::bad(NAME, finding).advice(
            "run \"ov2-ha-recorder install\" again: it builds the image that OpenVidu uses now",
        )
    })
}

fn other_folder(found: &Deployment, settings: &Settings) -> Option<Check> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    (real(&found.recordings) != real(&settings.recording_path)).then(|| {
        let finding = format!(
            "OpenVidu records to {}, and OPENVIDU_RECORDING_PATH is {}",
            found.recordings.display(),
            settings.recording_path.display()
        );
        Check::bad(NAME, finding).advice("run \"ov2-ha-recorder install\" again")
    })
}

/// OpenVidu serves whatever lies in the recordings folder.
fn served(found: &Deployment, settings: &Settings) -> Option<Check> {
    let settings_file = settings.recording_path.join(".env");
    (found.is_public && settings_file.exists()).then(|| {
        let finding = format!(
            "OPENVIDU_RECORDING_PUBLIC_ACCESS is true: everyone can read {} with its secrets over OpenVidu",
            settings_file.display()
        );
        Check::bad(NAME, finding)
            .advice("set it to false, restart OpenVidu, and change what is secret in it")
    })
}

fn webhook(found: &Deployment) -> Option<Check> {
    let finding = match (found.posts_here(), found.events_with_recordings.is_none()) {
        (false, _) => "OpenVidu does not post its webhooks here: how a recording ends is seen late",
        (true, false) => "OPENVIDU_WEBHOOK_EVENTS lacks recordingStatusChanged",
        (true, true) => return None,
    };
    let advice = "\"ov2-ha-recorder install --dry-run\" shows the lines that OpenVidu's .env needs, reconfigure writes them";
    Some(Check::warning(NAME, finding).advice(advice))
}

fn recording(found: &Deployment) -> Option<Check> {
    let finding = "OPENVIDU_RECORDING is not true in OpenVidu's .env: it records nothing yet";
    (!found.recording).then(|| Check::warning(NAME, finding))
}
