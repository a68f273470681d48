//! What a recorder finds when it starts: the controller's name, the settings in the recordings folder and in its image, and
//! whether these open the controller's door.

use super::super::image_settings;
use super::super::record::IMAGE_ENV_FILE;
use super::super::report::Check;
use crate::client::{Client, ClientError};
use crate::config::{RuntimeKind, Settings, TABLE, Variables};
use crate::model::ids::RecordingId;
use crate::model::wire::Heartbeat;
use crate::random;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a name may take to be found.
const PATIENCE: Duration = Duration::from_secs(5);
/// The recordings folder in a recorder's container.
const THEIR_RECORDINGS: &str = "/recordings";

/// Whether the name that recorders are given leads anywhere.
pub(in crate::cli) async fn host(settings: &Settings) -> Check {
    let name = settings.controller_host.as_str();
    let looked = tokio::net::lookup_host((name, settings.controller_port.0));
    let found = match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .ok_or_else(|| "it has no address".to_owned()),
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    match found {
        Ok(address) if address.ip().to_string() == name => Check::good("host", name),
        Ok(address) => Check::good("host", format!("{name} is {}", address.ip())),
        Err(cause) => Check::bad("host", format!("{name} cannot be resolved: {cause}")).advice(
            "set HA_CONTROLLER_HOST to a name or an address at which recording containers, which use this machine's network, \
             reach the controller",
        ),
    }
}

/// Where a recorder finds its settings, besides its environment, which OpenVidu makes. It has secrets
/// and is not shown as it is.
struct Found {
    /// The file in the recordings folder.
    folder: Option<PathBuf>,
    /// What the image says, and its name.
    image: Option<(String, String)>,
}

/// Whether recorders can register with what they find. Their image is looked into where there `is_image` of ours.
pub(super) async fn recorders(settings: &Settings, running: bool, is_image: bool) -> Vec<Check> {
    let (file, name) = (settings.recording_path.join(".env"), settings.image());
    let asked = match is_image {
        true => image_settings::read(&name).await,
        false => Ok(None),
    };
    let (text, silence) = match asked {
        Ok(text) => (text, None),
        Err(failure) => (None, Some(failure.message)),
    };
    let found = Found {
        folder: file.is_file().then_some(file),
        image: text.map(|text| (text, name)),
    };
    let tried = match found.is_none() {
        true => missing(settings, silence),
        false => tried(settings, running, &found).await,
    };
    let served = found.folder.as_deref().filter(|_| is_image);
    [tried]
        .into_iter()
        .chain(served.and_then(served_by_openvidu))
        .collect()
}

impl Found {
    fn is_none(&self) -> bool {
        self.folder.is_none() && self.image.is_none()
    }

    /// As a recorder reads them: the folder's over those of the image.
    fn variables(&self) -> Variables {
        let variables = match &self.folder {
            Some(path) => Variables::default().over_file(path),
            None => Variables::default(),
        };
        match &self.image {
            Some((text, _)) => variables.over_text(text, Path::new(IMAGE_ENV_FILE)),
            None => variables,
        }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let folder = self.folder.as_ref().map(|path| path.display().to_string());
        let image = self
            .image
            .as_ref()
            .map(|(_, name)| format!("the settings in {name}"));
        let both: Vec<_> = folder.into_iter().chain(image).collect();
        out.write_str(&both.join(" and "))
    }
}

fn wrong(finding: String) -> Check {
    Check::bad("recorders", finding)
        .advice("\"ov2-ha-recorder reconfigure\" writes what recorders need; see the README for a set-up by hand")
}

fn missing(settings: &Settings, silence: Option<String>) -> Check {
    let file = settings.recording_path.join(".env");
    let image = match (settings.runtime, silence) {
        (RuntimeKind::Process, _) => String::new(),
        (_, None) => format!(", and {} has no settings of ours", settings.image()),
        (_, Some(silence)) => format!(
            ", and {} cannot be looked into ({silence})",
            settings.image()
        ),
    };
    wrong(format!(
        "{} is missing{image}: recorders know neither the controller nor the account, and record unwatched",
        file.display()
    ))
}

/// OpenVidu serves the recordings folder, to everyone where its recordings are public.
fn served_by_openvidu(file: &Path) -> Option<Check> {
    let secrets = Variables::default().over_file(file).secrets();
    let finding = format!(
        "{} has secrets in a folder that OpenVidu serves",
        file.display()
    );
    let advice = "\"ov2-ha-recorder reconfigure\" moves what \"install\" has written into the recording image; \
                  \"build-recorder --settings FILE\" puts there what was written by hand";
    (!secrets.is_empty()).then(|| Check::warning("recorders", finding).advice(advice))
}

/// Whether recorders are let in with what they find.
async fn tried(settings: &Settings, running: bool, found: &Found) -> Check {
    let shown = found.to_string();
    let said = as_they_see_it(found.variables(), &settings.recording_path);
    let (mut theirs, faults) = said.forgiving();
    if let Some(fault) = faults.first() {
        return wrong(format!("{shown}: {fault}"));
    }
    let is_ours = match &theirs.recorder_token {
        Some(token) => settings.recorder_token.as_ref() == Some(token),
        None => theirs.account().ok() == settings.account().ok(),
    };
    if !is_ours {
        return wrong(format!(
            "{shown} has another account or token than the service"
        ));
    }
    if theirs.controller_port != settings.controller_port {
        return wrong(format!(
            "{shown} says port {}, and the service has {}",
            theirs.controller_port.0, settings.controller_port.0
        ));
    }
    if !running {
        return Check::good("recorders", format!("{shown} opens the service"));
    }
    for authority in [&mut theirs.ca_file, &mut theirs.controller_ca] {
        *authority = authority
            .take()
            .map(|path| seen_from_here(&path, &settings.recording_path));
    }
    let address = theirs.controller_host.in_url();
    match door(&theirs).await {
        Ok(()) => Check::good(
            "recorders",
            format!("with {shown} they reach the controller at {address}"),
        ),
        Err(cause) => wrong(format!("with {shown}: {cause}")),
    }
}

/// Whether a recorder with these settings is let in.
///
/// # Errors
/// Why it is not.
pub(in crate::cli) async fn door(theirs: &Settings) -> Result<(), ClientError> {
    let client = Client::new(theirs)?;
    match client.heartbeat(&nobody(), &Heartbeat::default()).await {
        // Whoever is not let in is not told what there is.
        Err(ClientError::NotFound) => Ok(()),
        other => other,
    }
}

/// No session has this id.
fn nobody() -> RecordingId {
    RecordingId::parse(format!("ov2-validate-{}", random::hex::<6>()))
        .unwrap_or_else(|_| unreachable!("letters, digits and hyphens are an id"))
}

/// With files of the recordings folder where they are on this machine: a recorder finds a setting's value there.
pub(in crate::cli) fn as_they_see_it(said: Variables, recordings: &Path) -> Variables {
    TABLE.iter().fold(said, |said, setting| {
        let name = format!("{}_FILE", setting.name);
        match said.get(&name) {
            Some(path) => {
                let here = seen_from_here(Path::new(&path), recordings);
                said.with(&name, &here.to_string_lossy())
            }
            None => said,
        }
    })
}

/// A path in a recorder's container, as it is on this machine.
fn seen_from_here(path: &Path, recordings: &Path) -> PathBuf {
    match path.strip_prefix(THEIR_RECORDINGS) {
        Ok(inside) => recordings.join(inside),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_s_file_is_read_before_the_image_s() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        std::fs::write(&file, "CHUNK_TIME_SIZE=9\n").unwrap();
        let image = || {
            Some((
                "CHUNK_TIME_SIZE=8\nHEARTBEAT_INTERVAL=7\n".into(),
                "ours:1".into(),
            ))
        };
        for (in_folder, in_image, chunk, heartbeat, shown) in [
            (
                None,
                image(),
                Some("8"),
                Some("7"),
                "the settings in ours:1",
            ),
            (Some(file.clone()), None, Some("9"), None, "/.env"),
            (
                Some(file.clone()),
                image(),
                Some("9"),
                Some("7"),
                "/.env and the settings in ours:1",
            ),
        ] {
            let found = Found {
                folder: in_folder,
                image: in_image,
            };
            let variables = found.variables();
            assert_eq!(variables.get("CHUNK_TIME_SIZE").as_deref(), chunk);
            assert_eq!(variables.get("HEARTBEAT_INTERVAL").as_deref(), heartbeat);
            assert!(found.to_string().ends_with(shown), "{found}");
        }
    }

    #[test]
    fn only_secrets_that_lie_in_the_folder_are_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        for (text, is_warned) in [
            ("HA_CONTROLLER_PORT=1\n", false),
            ("HA_RECORDER_TOKEN=a-long-token\n", true),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(served_by_openvidu(&file).is_some(), is_warned, "{text}");
        }
    }
}
