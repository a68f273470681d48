//! What nobody may say. Every secret that a test uses is remembered here, and whatever our program writes in the suite, logs
//! of controllers and recorders and the words of commands, is held against those of all tests until then.

use super::page;
use ov2_ha_recorder::config::TABLE;
use std::collections::BTreeSet;
use std::process::Output;
use std::sync::{Mutex, PoisonError};

static USED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on the secret ones among these settings are said by nobody.
pub fn keep<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let is_secret = |name: &str| TABLE.iter().any(|known| known.secret && known.name == name);
    let secrets = settings
        .into_iter()
        .filter(|(name, value)| is_secret(name) && !value.is_empty())
        .map(|(_, value)| value.to_owned());
    USED.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(secrets);
}

/// What `who` wrote.
///
/// # Panics
/// When a secret is in it.
pub fn heard(who: &str, text: &str) {
    if std::thread::panicking() {
        return; // what failed first is said first
    }
    let used = USED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let told = used
        .iter()
        .map(String::as_str)
        .chain([page::SECRET])
        .find(|secret| text.contains(secret));
    assert!(told.is_none(), "{who} wrote the secret {told:?}: {text}");
}

/// What a command said, on both of its streams.
///
/// # Panics
/// When a secret is in it.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    heard("a command", &said);
    said
}

#[cfg(test)]
mod tests {
    #[test]
    #[should_panic(expected = "a test wrote the secret")]
    fn a_secret_that_is_said_is_noticed() {
        super::keep([("HA_WEBHOOK_TOKEN", "kept-by-a-test")]);
        super::heard("a test", "the token is kept-by-a-test");
    }
}
