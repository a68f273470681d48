//! What a support engineer asks for, as files of an archive. What cannot be had is written down with its reason: a machine on
//! which nothing answers has an archive too.

use super::mask::Mask;
use std::collections::BTreeSet;
use std::fmt::Display;

/// The file with what could not be had.
const MISSING: &str = "missing.txt";

/// The files of the archive, cleaned on their way out of every secret that is known by then.
#[derive(Debug, Default)]
pub(super) struct Parts {
    secrets: BTreeSet<String>,
    /// Files of secrets that cannot be read: what is in them cannot be hidden.
    unread: Vec<String>,
    files: Vec<(String, String)>,
    missing: String,
}

impl Parts {
    /// More that nobody may see.
    pub(super) fn hide(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.extend(secrets);
    }

    /// Files of secrets that cannot be read, and why.
    pub(super) fn cannot_hide(&mut self, unread: impl IntoIterator<Item = String>) {
        self.unread.extend(unread);
    }

    /// What was told with [`Self::cannot_hide`].
    pub(super) fn unread(&self) -> &[String] {
        &self.unread
    }

    /// One more file; an empty one tells nothing.
    pub(super) fn put(&mut self, name: &str, text: &str) {
        if !text.trim().is_empty() {
            self.files.push((name.to_owned(), text.to_owned()));
        }
    }

    /// One that may be lacking.
    pub(super) fn add(&mut self, name: &str, text: Result<String, impl Display>) {
        match text {
            Ok(text) => self.put(name, &text),
            Err(why) => self.lack(name, why),
        }
    }

    /// One that programs have written freely: it stays out where not every secret is known.
    pub(super) fn add_log(&mut self, name: &str, text: Result<String, impl Display>) {
        match self.unread.is_empty() {
            true => self.add(name, text),
            false => {
                let why = format!("left out: {}", self.unread.join("; "));
                self.lack(name, why);
            }
        }
    }

    /// Why there is no such file.
    pub(super) fn lack(&mut self, name: &str, why: impl Display) {
        self.missing.push_str(&format!("{name}: {why}\n"));
    }

    /// The same for what is known as a value.
    pub(super) fn add_json(&mut self, name: &str, value: &impl serde::Serialize) {
        self.add(name, serde_json::to_string_pretty(value));
    }

    /// What hides all that is known.
    pub(super) fn mask(&self) -> Mask {
        Mask::of(self.secrets.iter().cloned())
    }

    /// All files.
    pub(super) fn files(mut self) -> Vec<(String, String)> {
        let mask = self.mask();
        if !self.missing.is_empty() {
            self.files.push((MISSING.to_owned(), self.missing));
        }
        let files = self.files.iter();
        files
            .map(|(name, text)| (mask.clean(name), mask.clean(text)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_found_late_is_hidden_in_what_was_there_before() {
        let mut parts = Parts::default();
        parts.put("of-stream-key", "the stream-key");
        parts.lack("other", "stream-key");
        parts.hide(["stream-key".to_owned()]);
        let files = parts.files();
        assert!(!format!("{files:?}").contains("stream-key"), "{files:?}");
    }

    #[test]
    fn no_log_is_packed_where_a_file_of_secrets_cannot_be_read() {
        let mut parts = Parts::default();
        parts.cannot_hide(["cannot read a.env".to_owned()]);
        parts.add_log("log/service.txt", Ok::<_, String>("a line".to_owned()));
        let files = parts.files();
        let [(name, text)] = &files[..] else {
            panic!("{files:?}")
        };
        assert_eq!(name, MISSING);
        assert_eq!(text, "log/service.txt: left out: cannot read a.env\n");
    }
}
