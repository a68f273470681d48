//! What recorders are told, and in which way: the text that lies in the last layer of the recording image and, as long as a
//! recorder needs it there, in the recordings folder.

use super::env_text::EnvText;
use super::install::VERSION_LABEL;
use super::service::{CONTAINER, Manager};
use super::system::{Call, image_label};
use super::{Failure, exit, image_settings};
use crate::config::{RuntimeKind, Settings, TABLE, Variables, quoted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What either of the keys consists of.
const KEYS: [&str; 3] = [
    "HA_RECORDER_TOKEN",
    "HA_CONTROLLER_USERNAME",
    "HA_CONTROLLER_PASSWORD",
];

/// The recordings folder in a recorder's container.
const RECORDINGS_OF_RECORDERS: &str = "/recordings";

/// What opens the controller to recorders. Older ones know the account only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Token,
    Account,
}

impl Key {
    /// For recorders of this version.
    pub(super) fn of_image(settings: &Settings) -> Self {
        // A controller in a container of compose's has the settings that it was made with.
        let is_behind = || matches!(Manager::find(), Ok(Manager::Docker));
        match settings.recorder_token.is_none() || is_behind() {
            true => Self::Account,
            false => Self::Token,
        }
    }

    /// For every recorder that may read the recordings folder: those of the image, which is of this version where it
    /// `is_built`, those of `earlier` images, and those that run.
    pub(super) fn of_folder(settings: &Settings, is_built: bool, earlier: &[String]) -> Self {
        let all_know = || knows_tokens(earlier) && all_know_tokens(settings, is_built);
        match Self::of_image(settings) == Self::Token && all_know() {
            true => Self::Token,
            false => Self::Account,
        }
    }
}

fn knows_tokens(images: &[String]) -> bool {
    let version = |image: &String| image_label(image, VERSION_LABEL);
    images
        .iter()
        .all(|image| version(image).is_some_and(|it| !it.is_empty()))
}

fn all_know_tokens(settings: &Settings, is_built: bool) -> bool {
    if settings.runtime == RuntimeKind::Process {
        return true;
    }
    let knows = |version: &str| !version.is_empty();
    let image = || image_label(&settings.image(), VERSION_LABEL);
    // A colon, so that one without a version is a line too.
    let version = format!("{{{{.Label \"{VERSION_LABEL}\"}}}}:");
    let ours = [
        "ps",
        "--filter",
        "label=created.by=ov2-ha-recorder",
        "--format",
        &version,
    ];
    let running = || Call::of("docker", ours).answer();
    (is_built || image().as_deref().is_some_and(knows))
        && running().is_ok_and(|said| said.lines().all(|line| knows(line.trim_end_matches(':'))))
}

/// Where the text lies on this machine: beside the service's own settings.
pub(super) fn host_file(env_file: &Path) -> PathBuf {
    env_file.with_file_name("recorders.env")
}

/// What opens the controller to recorders and a person's own file at `path` sets otherwise than the service has it: they read it
/// first, and would be refused or not find the controller.
///
/// # Errors
/// With the names, never the values.
pub(super) fn refuse_clash(path: &Path, env: &EnvText, settings: &Settings) -> Result<(), Failure> {
    let theirs = Variables::default().over_file(path);
    let told = [Key::Token, Key::Account].map(|key| text(env, settings, key));
    let told = Variables::default().over_text(&told.concat(), Path::new(""));
    let opens = |name: &&str| KEYS.contains(name) || *name == "HA_CONTROLLER_PORT";
    let names = TABLE.iter().map(|row| row.name).filter(opens);
    let is_told = |name: &str| KEYS.contains(&name) || told.get(name).is_some();
    let differs = |name: &str| {
        theirs
            .get(name)
            .is_some_and(|it| told.get(name) != Some(it))
    };
    let names: Vec<_> = names.filter(|it| is_told(it) && differs(it)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} sets {} otherwise than the service's settings, and recorders read it before what their image says: remove these lines or \
         the file, or bring them into line with the service, and run this again",
        path.display(),
        names.join(", ")
    );
    Err(Failure::with(exit::CONFIG, message))
}

/// Everything that is set, secrets resolved, but for what only the controller needs.
pub(super) fn text(env: &EnvText, settings: &Settings, key: Key) -> String {
    let other_key: &[&str] = match key {
        Key::Token => &["HA_CONTROLLER_USERNAME", "HA_CONTROLLER_PASSWORD"],
        Key::Account => &["HA_RECORDER_TOKEN"],
    };
    let not_theirs = [
        "HA_VIEWER_",
        "HA_WEBHOOK_",
        "OPENVIDU_WEBHOOK",
        "HA_TLS_",
        "HA_TRUSTED_",
        "HA_S3_SERVER_",
        "OPENVIDU_RECORDING_PATH",
        "OPENVIDU_URL",
        "OPENVIDU_SECRET",
        "HA_ORPHAN_",
        "HA_LISTEN_",
        "HA_ALERT_",
        "HA_ALIVE_",
        "IMAGE_",
    ];
    let variables = Variables::default().over_text(env.as_str(), Path::new(""));
    let mut text = String::from(
        "# Written by \"ov2-ha-recorder install\" for the recorders; change the service's own file instead.\n",
    );
    let authorities = authorities(settings);
    for setting in TABLE
        .iter()
        .filter(|row| !not_theirs.iter().any(|prefix| row.name.starts_with(prefix)))
        .filter(|row| !other_key.contains(&row.name))
    {
        let copy = authorities.iter().find(|(name, ..)| *name == setting.name);
        let value = match copy {
            Some((_, file, _)) => Some(format!("{RECORDINGS_OF_RECORDERS}/{file}")),
            None => variables.get(setting.name),
        };
        if let Some(value) = value {
            text.push_str(&format!("{}={}\n", setting.name, quoted(&value)));
        }
    }
    text
}

/// The files of authorities of which recorders get a copy in the recordings folder, for a path of this machine leads nowhere in
/// their containers: the setting, the copy's name, and the file here. They speak TLS to the controller only where
/// `HA_CONTROLLER_CA` is set.
pub(super) fn authorities(settings: &Settings) -> Vec<(&'static str, &'static str, &Path)> {
    let further = settings.ca_file.as_deref();
    let controller = settings.controller_ca.as_deref();
    // The certificate itself will do where no authority is named: recorders trust the usual ones besides.
    let own = settings.tls_cert.as_deref();
    let controller = controller.or(own.map(|own| further.unwrap_or(own)));
    let both = [
        further.map(|path| ("HA_CA_FILE", ".ov2-ha-recorder-ca.pem", path)),
        controller.map(|path| {
            (
                "HA_CONTROLLER_CA",
                ".ov2-ha-recorder-controller-ca.pem",
                path,
            )
        }),
    ];
    // One that is named as recorders know it lies there already.
    let is_theirs = |path: &Path| path.starts_with(RECORDINGS_OF_RECORDERS);
    let both = both.into_iter().flatten();
    both.filter(|(.., path)| !is_theirs(path)).collect()
}

/// The recorders' containers in the folder `recordings` whose image does not tell them `text`. Each may be started again, by Docker
/// or the controller, and reads its settings anew then.
///
/// # Errors
/// When Docker does not answer.
pub(super) fn recorders_without(text: &str, recordings: &Path) -> Result<Vec<String>, Failure> {
    // As Docker writes it.
    let folder: PathBuf = recordings.components().collect();
    let folder = format!("volume={}", folder.display());
    let ours = ["--filter", "label=created.by", "--filter", &folder];
    let list = [&["ps", "-a", "-q", "--no-trunc"], &ours[..]].concat();
    let ids = Call::of("docker", list).answer()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let inspect = ["inspect", "-f", "{{.Image}} {{.Name}}"];
    let found = Call::of("docker", inspect.into_iter().chain(ids.split_whitespace())).answer()?;
    let mut known = BTreeMap::new();
    Ok(without(&found, |image| {
        let has = || image_settings::has(image, text);
        *known.entry(image.to_owned()).or_insert_with(has)
    }))
}

/// The names in lines of an image and a container's name, where the image does not tell what is to be told.
fn without(found: &str, mut tells: impl FnMut(&str) -> bool) -> Vec<String> {
    let pairs = found.lines().filter_map(|line| line.split_once(' '));
    let pairs = pairs.map(|(image, name)| (image, name.trim_start_matches('/')));
    pairs
        .filter(|(image, name)| *name != CONTAINER && !tells(image))
        .map(|(_, name)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorders_get_the_password_itself_and_nothing_that_only_the_controller_needs() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        let env = EnvText::new(format!(
            "HA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD_FILE={}\nHA_WEBHOOK_TOKEN=t\nHA_RECORDER_TOKEN=of-recorders\nCHUNK_TIME_SIZE=5\n",
            password.display()
        ));
        let settings = Variables::default()
            .over_text(env.as_str(), Path::new("env"))
            .settings()
            .unwrap();
        let narrow = text(&env, &settings, Key::Token);
        assert!(
            narrow.contains("HA_RECORDER_TOKEN=of-recorders\n"),
            "{narrow}"
        );
        assert!(!narrow.contains("HA_CONTROLLER_PASSWORD"), "{narrow}");
        assert!(!narrow.contains("HA_CONTROLLER_USERNAME"), "{narrow}");
        let text = text(&env, &settings, Key::Account);
        assert!(!text.contains("HA_RECORDER_TOKEN"), "{text}");
        assert!(text.contains("HA_CONTROLLER_PASSWORD=s3cret\n"), "{text}");
        assert!(text.contains("CHUNK_TIME_SIZE=5\n"), "{text}");
        assert!(!text.contains("HA_WEBHOOK_TOKEN"), "{text}");
    }

    #[test]
    fn recorders_of_an_image_that_tells_them_otherwise_are_found_and_the_controller_is_none() {
        let found = "sha256:a /recording_1\nsha256:b /recording_2\nsha256:a /recording_3\nsha256:c /ov-recorder-ha-controller\n";
        for (telling, names) in [
            (&["sha256:a", "sha256:b"][..], &[][..]),
            (&["sha256:a"], &["recording_2"]),
            (&[], &["recording_1", "recording_2", "recording_3"]),
        ] {
            let names = names.iter().copied().map(str::to_owned);
            let others = without(found, |image| telling.contains(&image));
            assert_eq!(others, names.collect::<Vec<_>>());
        }
    }
}
