//! Which values nobody may see, for whoever hides them in a text that leaves the machine: those of the secret settings, of
//! variables that are called a secret, and the parts of addresses that open something.

use super::{Headers, Parse, TABLE, Variables};
use std::collections::BTreeSet;

/// A part of an address that is at least so long may be a key: names of folders and services are shorter.
pub(crate) const SHORTEST_KEY: usize = 12;

/// How the names of variables and parameters say that a value is secret.
const TELLING: [&str; 7] = [
    "secret",
    "pass",
    "token",
    "_key",
    "apikey",
    "auth",
    "credential",
];
/// The same where it is a word of the name: they stand in others by chance.
const TELLING_WORDS: [&str; 2] = ["sig", "pwd"];
/// The shell's own variables, whose values stand in every text.
const FOLDERS: [&str; 2] = ["pwd", "oldpwd"];
/// What a variable that is called a secret may say without being one.
const WORDS: [&str; 8] = [
    "true", "false", "none", "null", "default", "auto", "basic", "enabled",
];
/// How keys and certificates begin, wherever they were put.
const PEM: &str = "-----BEGIN";

impl Variables {
    /// Every value that nobody may see, also where it lies in a file that a variable names.
    pub fn secrets(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (name, value) in self.with_files() {
            find(&name, &value, &mut found);
        }
        found
    }
}

/// Whether a value is a key or a certificate in a place where its file is to be named.
pub(super) fn is_pem(value: &str) -> bool {
    value.contains(PEM)
}

/// Whether `name` is that of a setting that nobody may see.
pub(super) fn is_secret(name: &str) -> bool {
    TABLE
        .iter()
        .any(|setting| setting.name == name && setting.secret)
}

fn find(name: &str, value: &str, found: &mut BTreeSet<String>) {
    let setting = TABLE.iter().find(|setting| setting.name == name);
    let says_so = || is_telling(name) && !is_word(value);
    if is_pem(value) || setting.map_or_else(says_so, |setting| setting.secret) {
        found.insert(value.to_owned());
        for (_, header) in Headers::parse(value).unwrap_or_default().0 {
            // "Bearer …" is no secret, what follows is.
            found.extend(header.split_whitespace().last().map(str::to_owned));
            found.insert(header);
        }
    }
    // A password may have what stands between addresses.
    let words = value.split(|c: char| c.is_whitespace() || c == '"');
    let parts = value.split(|c: char| c.is_whitespace() || "\",'".contains(c));
    for address in words.chain(parts).filter_map(|word| word.split_once("://")) {
        find_in_address(address.1, setting.is_some(), found);
    }
}

/// What stands behind the scheme: user and password, and what below the host is as long as a key. In the address of a page only
/// a parameter's name can tell: the ids of sessions are long too.
fn find_in_address(address: &str, is_ours: bool, found: &mut BTreeSet<String>) {
    let end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let (authority, below) = address.split_at(end);
    let (path, query) = below.split_once('?').unwrap_or((below, ""));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').map(|(_, password)| password);
    let values = query.split(['&', '#']).filter_map(|it| it.split_once('='));
    let values = values.filter(|(name, value)| is_telling(name) || value.len() >= SHORTEST_KEY);
    let folders = path
        .split(['/', '#'])
        .filter(|it| is_ours && it.len() >= SHORTEST_KEY);
    for part in password
        .into_iter()
        .chain(values.map(|(_, value)| value))
        .chain(folders)
    {
        found.insert(part.to_owned());
        found.extend(decoded(part));
    }
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let is_named = TELLING.iter().any(|word| name.contains(word));
    is_named
        || (!FOLDERS.contains(&name.as_str()) && words.any(|word| TELLING_WORDS.contains(&word)))
}

fn is_word(value: &str) -> bool {
    WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// A part of an address as it was before it was put there.
fn decoded(part: &str) -> Option<String> {
    let address = reqwest::Url::parse(&format!("http://host/?={part}")).ok()?;
    let (_, value) = address.query_pairs().next()?;
    Some(value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_settings_files_addresses_and_headers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "in-a-file\n").unwrap();
        let variables = Variables::of([
            ("HA_CONTROLLER_PASSWORD_FILE", file.to_str().unwrap()),
            ("HA_WEBHOOK_TOKEN", "a-token"),
            (
                "OPENVIDU_WEBHOOK_HEADERS",
                "Authorization: Bearer in-a-header",
            ),
            (
                "HA_ALERT_URL",
                "https://hooks.example.com/services/T0123456789ABCDEF",
            ),
            (
                "URL",
                "https://APP:pa%20ss@host/#/layout/ses_of_a_long_name/?secret=in-a-page",
            ),
            ("AWS_SESSION_TOKEN", "of-aws"),
            ("CHUNK_TIME_SIZE", "7"),
            ("HA_CONTROLLER_USERNAME", "recorder"),
        ]);
        let found = variables.secrets();
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(
            found,
            [
                "Authorization: Bearer in-a-header",
                "Bearer in-a-header",
                "T0123456789ABCDEF",
                "a-token",
                "in-a-file",
                "in-a-header",
                "in-a-page",
                "of-aws",
                "pa ss",
                "pa%20ss",
            ]
        );
    }

    fn found(pairs: &[(&str, &str)]) -> Vec<String> {
        let variables = Variables::of(pairs.iter().copied());
        variables.secrets().into_iter().collect()
    }

    #[test]
    fn a_name_that_says_secret_hides_its_value_and_no_other_word() {
        let hidden = ["SMTP_PASS", "APIKEY", "DB_PWD", "X_AUTH", "A_SIG"];
        for name in hidden {
            assert_eq!(found(&[(name, "a-value")]), ["a-value"], "{name}");
        }
        for name in ["DESIGN", "PWD", "OLDPWD", "SIGNAL", "HOME"] {
            assert!(found(&[(name, "a-value")]).is_empty(), "{name}");
        }
        for value in ["true", "False", "none", "default"] {
            assert!(found(&[("USE_PASSWORD", value)]).is_empty(), "{value}");
        }
        let password = found(&[("NO_PROXY_AT", "http://u:pa,s's@h")]);
        assert!(password.contains(&"pa,s's".to_owned()), "{password:?}");
    }

    #[test]
    fn a_key_in_the_place_of_its_file_is_a_secret() {
        let key = "abcdefghijklmnop/0123456789";
        assert_eq!(found(&[("HA_AWS_SECRET_KEY_FILE", key)]), [key]);
        let pem = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----";
        assert_eq!(found(&[("HA_TLS_KEY", pem)]), [pem]);
        let named = Variables::of([("HA_AWS_SECRET_KEY_FILE", key)]);
        let (_, faults) = named.forgiving();
        assert!(!faults.concat().contains(key), "{faults:?}");
        assert!(
            faults.concat().contains("HA_AWS_SECRET_KEY_FILE"),
            "{faults:?}"
        );
    }
}
