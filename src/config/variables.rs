//! Where values come from: the environment over env files, one layer above the other. What is wrong with a layer is kept
//! as a fault and told together with all the others; it never hides what the rest says.

use super::env_file::EnvFile;
use super::secrets::{is_pem, is_secret};
use super::{Faults, Settings, TABLE};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Most bytes of a file that holds settings or one value.
const LARGEST: u64 = 1 << 20;

/// How near a wrong name must be to one of ours to be taken for a slip of the pen: 1 is the same.
const NEAR: f64 = 0.92;

/// Names that the earlier project knew by which ours are meant.
const OLD_NAMES: [(&str, &str); 2] = [
    ("HA_AWS_S3_REGION", "HA_AWS_REGION"),
    ("HA_AWS_S3_REGION_FILE", "HA_AWS_REGION_FILE"),
];

/// Names that mean nothing here, and why.
const UNUSED: [(&str, &str); 5] = [
    (
        "HA_FAILOVER_HEARTBEAT_TIMEOUT",
        "HEARTBEAT_INTERVAL times HA_MAX_MISSED_HEARTBEATS is the time-out",
    ),
    (
        "HA_FAILOVER_STUCK_CHUNK_TIMEOUT",
        "CHUNK_TIME_SIZE times HA_MAX_MISSED_HEARTBEATS is the time-out",
    ),
    (
        "HA_S3_CLEANUP_ASYNC",
        "chunks are always deleted beside other work",
    ),
    (
        "HA_CONTROLLER_URL",
        "HA_CONTROLLER_HOST and HA_CONTROLLER_PORT say where the controller is",
    ),
    (
        "MINIO_CONSOLE_PORT",
        "the built-in S3 server has no console; the status page shows the bucket",
    ),
];

/// Variables from the real environment and env files.
#[derive(Clone, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    faults: Vec<String>,
    warnings: Vec<String>,
    /// Those of the faults that say that a file is there and cannot be read.
    unread: Vec<String>,
}

impl Variables {
    /// The process's environment.
    pub fn of_process() -> Self {
        Self::of_system(std::env::vars_os())
    }

    /// Variables as the system has them. What is no UTF-8 is a fault where it is a setting and of no interest elsewhere.
    fn of_system(pairs: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut variables = Self::default();
        for (name, value) in pairs {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => variables.add(&name, value),
                Err(_) if is_ours(&name) => {
                    variables
                        .faults
                        .push(format!("{name}: its value is not UTF-8"));
                }
                Err(value) => variables.add(&name, value.to_string_lossy().into_owned()),
            }
        }
        variables
    }

    /// Variables given one by one.
    pub fn of<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut variables = Self::default();
        for (name, value) in pairs {
            variables.add(&name.into(), value.into());
        }
        variables
    }

    /// The same with what the env file at `path` says beneath: what is already set wins.
    pub fn over_file(mut self, path: &Path) -> Self {
        match read_bounded(path) {
            Ok(bytes) => self.over_text(&String::from_utf8_lossy(&bytes), path),
            Err(cause) => {
                let fault = format!("cannot read the settings in {}: {cause}", path.display());
                if may_be_there(path) {
                    self.unread.push(fault.clone());
                }
                self.faults.push(fault);
                self
            }
        }
    }

    /// The same where nobody has asked for a file at `path`: it may be missing.
    pub fn over_file_if_any(mut self, path: &Path) -> Self {
        match path.metadata() {
            Err(cause) if cause.kind() == ErrorKind::NotFound => self,
            // Reading a pipe could wait for ever.
            Ok(found) if !found.is_file() => {
                let path = path.display();
                self.faults.push(format!(
                    "cannot read the settings in {path}: it is not a file"
                ));
                self
            }
            _ => self.over_file(path),
        }
    }

    /// The same with what the text of the env file at `path` says beneath.
    pub fn over_text(mut self, text: &str, path: &Path) -> Self {
        let path = path.display();
        let file = EnvFile::read(text);
        let lines = file.malformed.iter();
        self.faults
            .extend(lines.map(|line| format!("{path}:{line}: expected NAME=value")));
        let mut layer = BTreeMap::new();
        let above = self.values.clone();
        for (entry, value) in file.values(|name| above.get(name).cloned()) {
            layer.insert(entry.name.as_str(), (entry.lines.start + 1, value));
        }
        for (name, (line, value)) in layer {
            // The name may stand above with `_FILE` or without; either says what it is.
            let twins = [
                name,
                name.strip_suffix("_FILE").unwrap_or(name),
                &file_of(name),
            ]
            .map(|name| new_name(name).to_owned());
            if twins
                .iter()
                .any(|name| above.get(name).is_some_and(|it| !it.is_empty()))
            {
                continue;
            }
            if is_ours(name) && value.text.contains('\u{fffd}') {
                self.faults
                    .push(format!("{path}:{line}: the value of {name} is not UTF-8"));
                continue;
            }
            if is_ours(name) && value.lost_reference {
                self.warnings.push(format!(
                    "{path}:{line}: a \"$\" in {name} names no variable that is set, and is read as bash reads it; where the character is meant, put the value in single quotes"
                ));
            }
            self.add(name, value.text);
        }
        self
    }

    /// The same with `name` set, whatever it was before.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.values.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The value of `name`, or what the file named by `<name>_FILE` holds; `None` when unset or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        self.resolve(name).ok().flatten()
    }

    /// What is set, with the content of a file in the place of its name where a setting's value lies there.
    pub(super) fn with_files(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let set = self.values.iter().filter(|(_, value)| !value.is_empty());
        set.filter_map(|(name, value)| {
            let of_file = name.strip_suffix("_FILE").filter(|name| is_ours(name));
            match of_file {
                Some(setting) => {
                    let path = Path::new(value);
                    let read = read_bounded(path).ok().map(String::from_utf8);
                    match read {
                        Some(Ok(text)) => {
                            let text = text.trim_end_matches(['\r', '\n']);
                            Some((setting.to_owned(), text.to_owned()))
                        }
                        // What cannot be read can be told by nobody.
                        _ if may_be_there(path) => None,
                        // No file: it may be the value itself.
                        _ => Some((setting.to_owned(), value.clone())),
                    }
                }
                None => Some((name.clone(), value.clone())),
            }
        })
    }

    /// The files with settings, or with one that is secret, that are there and cannot be read.
    pub fn unread(&self) -> Vec<String> {
        let set = self.values.iter().filter(|(_, value)| !value.is_empty());
        let closed = set.filter_map(|(name, value)| {
            let path = Path::new(value);
            let is_file = name.strip_suffix("_FILE").is_some_and(is_secret) && may_be_there(path);
            let cause = is_file.then(|| read_bounded(path).err())??;
            Some(format!("cannot read {value}, which {name} names: {cause}"))
        });
        self.unread.iter().cloned().chain(closed).collect()
    }

    /// What could not be read of the environment and the files, whatever the values are.
    ///
    /// # Errors
    /// When there is any such fault.
    pub fn well_formed(&self) -> Result<(), Faults> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Faults(self.faults.clone())),
        }
    }

    /// Reads every setting.
    ///
    /// # Errors
    /// All faults at once, and the warnings beneath them: values that are not what is expected, lines that are none,
    /// combinations that cannot work.
    pub fn settings(&self) -> Result<Settings, Faults> {
        let (settings, faults) = self.forgiving();
        settings.unless(faults)
    }

    /// Reads every setting for `serve`.
    ///
    /// # Errors
    /// As for [`Self::settings`], and when the HTTP Basic account is missing or a file of authorities cannot be used.
    pub fn settings_of_service(&self) -> Result<Settings, Faults> {
        let (mut settings, mut faults) = self.forgiving();
        faults.extend(settings.drop_unusable_authorities());
        if let Err(Faults(missing)) = settings.account() {
            faults.extend(missing);
        }
        settings.unless(faults)
    }

    /// Reads every setting, and takes the default where one cannot be understood. The faults say where.
    pub fn forgiving(&self) -> (Settings, Vec<String>) {
        let mut faults = self.faults.clone();
        let mut values = BTreeMap::new();
        for setting in TABLE {
            match self.resolve(setting.name) {
                Ok(Some(value)) => {
                    values.insert(setting.name.to_owned(), value);
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        let mut settings = Settings::build(&values, &mut faults);
        settings.warnings = self.warnings.clone();
        settings.warnings.extend(self.odd_names());
        settings.warnings.extend(self.twice());
        settings.reconcile(&mut faults);
        (settings, faults)
    }

    fn add(&mut self, name: &str, value: String) {
        let known = new_name(name);
        let held = self.values.get(known).is_some_and(|held| !held.is_empty());
        // An old name never takes the place of the new one, nor what is empty that of a value.
        if !held || (name == known && !value.is_empty()) {
            self.values.insert(known.to_owned(), value);
        }
    }

    fn resolve(&self, name: &str) -> Result<Option<String>, String> {
        let set = |name: &str| self.values.get(name).filter(|value| !value.is_empty());
        if let Some(value) = set(name) {
            return Ok(Some(value.clone()));
        }
        let Some(path) = set(&file_of(name)) else {
            return Ok(None);
        };
        let value = read_bounded(Path::new(path))
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()))
            .map_err(|cause| {
                // The value itself may have been put there.
                let is_secret = is_pem(path) || (is_secret(name) && !path.starts_with('/'));
                let shown = if is_secret { "***" } else { path };
                format!("{name}_FILE={shown}: cannot be read: {cause}")
            })?;
        let value = value.trim_end_matches(['\r', '\n']);
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }

    /// A sentence for each setting that has a value and a file, of which the value is taken.
    fn twice(&self) -> Vec<String> {
        let is_set = |name: &str| self.values.get(name).is_some_and(|value| !value.is_empty());
        let names = TABLE.iter().map(|setting| setting.name);
        let both = names.filter(|name| is_set(name) && is_set(&file_of(name)));
        both.map(|name| format!("{name} and {name}_FILE are both set; the file is not read"))
            .collect()
    }

    /// A sentence for each name that is set and does nothing.
    fn odd_names(&self) -> Vec<String> {
        let set = self.values.iter().filter(|(_, value)| !value.is_empty());
        set.filter_map(|(name, _)| odd_name(name)).collect()
    }
}

fn odd_name(name: &str) -> Option<String> {
    if let Some((_, instead)) = UNUSED.iter().find(|(unused, _)| *unused == name) {
        return Some(format!("{name} is set and not used: {instead}"));
    }
    if !name.starts_with("HA_") || is_ours(name) {
        return None;
    }
    let nearest = TABLE
        .iter()
        .map(|setting| (strsim::jaro_winkler(setting.name, name), setting.name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(nearness, _)| *nearness >= NEAR);
    let hint = match nearest {
        Some((_, nearest)) => format!("did you mean {nearest}?"),
        None => "see \"ov2-ha-recorder config\" for all names".to_owned(),
    };
    Some(format!(
        "{name} is set, but there is no such setting; {hint}"
    ))
}

fn is_ours(name: &str) -> bool {
    let known = |name: &str| TABLE.iter().any(|setting| setting.name == new_name(name));
    known(name) || name.strip_suffix("_FILE").is_some_and(known)
}

fn new_name(name: &str) -> &str {
    let old = OLD_NAMES.iter().find(|(old, _)| *old == name);
    old.map_or(name, |(_, new)| new)
}

fn file_of(name: &str) -> String {
    format!("{name}_FILE")
}

/// Whether something lies at `path`, or nobody can say: a folder above it is closed.
fn may_be_there(path: &Path) -> bool {
    match path.try_exists() {
        Ok(is_there) => is_there,
        Err(_) => path.is_absolute(),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|cause| cause.to_string())?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| cause.to_string())?;
    match bytes.len() as u64 > LARGEST {
        true => Err(format!("it is larger than {LARGEST} bytes")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    const FILE: &str = "a.env";

    fn read(text: &str) -> (Settings, Vec<String>) {
        let variables = Variables::default().over_text(text, Path::new(FILE));
        variables.forgiving()
    }

    #[test]
    fn the_environment_wins_over_a_file_and_a_value_may_lie_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join(FILE);
        let password = folder.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        std::fs::write(
            &env,
            format!(
                "# comment\nexport CHUNK_TIME_SIZE=\"5\"\nHEARTBEAT_INTERVAL=7 # seconds\nHA_AWS_REGION=\nHA_CONTROLLER_PASSWORD_FILE={}\n",
                password.display()
            ),
        )
        .unwrap();
        let settings = Variables::of([("HEARTBEAT_INTERVAL", "2"), ("CHUNK_TIME_SIZE", "")])
            .over_file(&env)
            .settings()
            .unwrap();
        assert_eq!(settings.chunk_seconds.get(), 5);
        assert_eq!(settings.heartbeat_seconds.get(), 2);
        assert_eq!(settings.s3_region, "us-east-1");
        assert_eq!(
            settings.controller_password.as_ref().unwrap().expose(),
            "s3cret"
        );
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn a_file_of_the_environment_wins_over_the_value_of_an_env_file() {
        let folder = tempfile::tempdir().unwrap();
        let region = folder.path().join("region");
        std::fs::write(&region, "eu-west-1\n").unwrap();
        let settings = Variables::of([("HA_AWS_REGION_FILE", region.to_str().unwrap())])
            .over_text("HA_AWS_REGION=us-west-2", Path::new(FILE))
            .settings()
            .unwrap();
        assert_eq!(settings.s3_region, "eu-west-1");
    }

    #[test]
    fn an_old_name_means_the_new_one_and_an_unused_or_mistyped_one_is_named() {
        let (settings, faults) = read(
            "HA_AWS_S3_REGION=eu-west-1\nHA_CONTROLLER_URL=http://x\nHA_CONTROLER_HOST=x\nHA_NO_SUCH=1\nHA_EMPTY=\nMINIO_CONSOLE_PORT=nine\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(settings.s3_region, "eu-west-1");
        let text = settings.warnings.join("\n");
        for part in [
            "HA_CONTROLLER_URL is set and not used",
            "MINIO_CONSOLE_PORT is set and not used",
            "did you mean HA_CONTROLLER_HOST?",
            "HA_NO_SUCH is set, but there is no such setting; see",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(settings.warnings.len(), 4, "{text}");
        let both = read("HA_AWS_S3_REGION=eu-west-1\nHA_AWS_REGION=us-west-2");
        assert_eq!(both.0.s3_region, "us-west-2");
    }

    #[test]
    fn a_dollar_that_names_nothing_is_told_without_the_value() {
        let (settings, faults) = read("HA_CONTROLLER_PASSWORD=abc$def\nOTHER=a$b\n");
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(
            settings.controller_password.as_ref().unwrap().expose(),
            "abc"
        );
        let [told] = &settings.warnings[..] else {
            panic!("{:?}", settings.warnings)
        };
        assert!(
            told.starts_with("a.env:1: ") && told.contains("single quotes"),
            "{told}"
        );
        assert!(!told.contains("def"), "{told}");
    }

    #[test]
    fn a_reference_means_the_environments_value_before_the_files() {
        let text = "HA_CONTROLLER_HOST=file\nHA_AWS_S3_SERVICE_ENDPOINT=http://${HA_CONTROLLER_HOST}:9000\n";
        let endpoint = |variables: Variables| {
            let settings = variables
                .over_text(text, Path::new(FILE))
                .settings()
                .unwrap();
            settings.s3_endpoint.unwrap().expose().to_owned()
        };
        assert_eq!(endpoint(Variables::default()), "http://file:9000");
        let outside = Variables::of([("HA_CONTROLLER_HOST", "outside")]);
        assert_eq!(endpoint(outside), "http://outside:9000");
    }

    #[test]
    fn every_fault_is_told_and_the_rest_is_read() {
        let (settings, faults) = read(
            "this is no line\nCHUNK_TIME_SIZE=0\nHA_CONTROLLER_PORT=99999\nHEARTBEAT_INTERVAL=7\nHA_VIEWER_USERNAME=v\nHA_AWS_SECRET_KEY_FILE=/no/such\n",
        );
        assert_eq!(settings.heartbeat_seconds.get(), 7);
        assert_eq!(settings.chunk_seconds.get(), 10);
        assert_eq!(settings.controller_port.0, 15443);
        let text = faults.join("\n");
        for part in [
            "a.env:1: expected NAME=value",
            "CHUNK_TIME_SIZE=0",
            "HA_CONTROLLER_PORT=99999",
            "HA_VIEWER_USERNAME and HA_VIEWER_PASSWORD",
            "HA_AWS_SECRET_KEY_FILE=/no/such: cannot be read",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_no_utf_8_is_a_fault_of_our_names_only() {
        let odd = || OsString::from_vec(vec![b'a', 0xff]);
        let variables = Variables::of_system(
            [
                ("HA_AWS_REGION".into(), odd()),
                ("OTHER".into(), odd()),
                (odd(), "x".into()),
                ("CHUNK_TIME_SIZE".into(), "7".into()),
            ]
            .into_iter(),
        );
        let (settings, faults) = variables.forgiving();
        assert_eq!(faults, ["HA_AWS_REGION: its value is not UTF-8"]);
        assert_eq!(settings.chunk_seconds.get(), 7);
    }

    #[test]
    fn a_latin_1_comment_harms_nothing_and_a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join(FILE);
        std::fs::write(
            &env,
            b"# f\xfcr alle\nCHUNK_TIME_SIZE=7\nHA_AWS_REGION=\xff\n",
        )
        .unwrap();
        let (settings, faults) = Variables::default().over_file_if_any(&env).forgiving();
        assert_eq!(settings.chunk_seconds.get(), 7);
        assert!(matches!(&faults[..], [only] if only.contains(":3: the value of HA_AWS_REGION")));
        let missing = Variables::default().over_file_if_any(&folder.path().join("none"));
        assert!(missing.well_formed().is_ok());
        let no_file = Variables::default().over_file_if_any(folder.path());
        assert!(no_file.well_formed().is_err());
    }
}
