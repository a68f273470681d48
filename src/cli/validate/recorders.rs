//! What a recorder finds when it starts: the controller's name, the settings in the recordings folder, and whether these open
//! the controller's door.

use super::super::report::Check;
use crate::client::{Client, ClientError};
use crate::config::{Settings, TABLE, Variables};
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

/// Whether recorders can register with what lies in the recordings folder for them.
pub(super) async fn recorders(settings: &Settings, running: bool) -> Check {
    let path = settings.recording_path.join(".env");
    let shown = path.display();
    let wrong = |finding: String| {
        Check::bad("recorders", finding)
            .advice("\"ov2-ha-recorder reconfigure\" writes what recorders need; see the README for a set-up by hand")
    };
    if !path.is_file() {
        return wrong(format!(
            "{shown} is missing: recorders know neither the controller nor the account, and record unwatched"
        ));
    }
    let said = Variables::default().over_file(&path);
    let (mut theirs, faults) = as_they_see_it(said, &settings.recording_path).forgiving();
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
fn as_they_see_it(said: Variables, recordings: &Path) -> Variables {
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
