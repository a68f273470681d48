//! Env files that belong to a person: a value is changed in its line, and everything else, comments and order included,
//! stays as it was. Lines are read as settings are.

use crate::config::{EnvFile, quoted};
use std::ops::Range;

/// The text of an env file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EnvText(String);

impl EnvText {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of `name`; `None` when it is not set or empty. The last line wins, as in a shell.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let file = EnvFile::read(&self.0);
        let values = file.values(|_| None);
        let set = values.filter(|(entry, _)| entry.name == name);
        let value = set.last().map(|(_, value)| value.text);
        value.filter(|value| !value.is_empty())
    }

    /// The whole line that sets `name`, or the lines.
    pub(super) fn line(&self, name: &str) -> Option<String> {
        let lines = self.0.lines().collect::<Vec<_>>();
        Some(lines[self.place(name)?].join("\n"))
    }

    /// Sets `name`: in the line that sets it, below the comment that offers it, or at the end.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let fresh = format!("{name}={}", quoted(value));
        let offered = self.0.lines().rev().position(|line| {
            let offer = line.trim_start().strip_prefix('#').map(str::trim_start);
            offer.is_some_and(|offer| !Self::new(offer).places(name).is_empty())
        });
        let count = self.0.lines().count();
        let below = count - offered.unwrap_or_default();
        let place = self.place(name).unwrap_or(below..below);
        self.replace(place, &[&fresh]);
    }

    /// Puts the line of `name` back to what it was; `None` takes it out.
    pub(super) fn restore(&mut self, name: &str, before: Option<&str>) {
        if let Some(place) = self.place(name) {
            self.replace(place, before.as_slice());
        }
    }

    /// The lines that set `name`; the last where several do.
    fn place(&self, name: &str) -> Option<Range<usize>> {
        self.places(name).pop()
    }

    fn places(&self, name: &str) -> Vec<Range<usize>> {
        let entries = EnvFile::read(&self.0).entries.into_iter();
        let set = entries.filter(|entry| entry.name == name);
        set.map(|entry| entry.lines).collect()
    }

    fn replace(&mut self, place: Range<usize>, by: &[&str]) {
        let mut lines = self.0.lines().collect::<Vec<_>>();
        lines.splice(place, by.iter().copied());
        self.0 = lines.join("\n") + "\n";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# a comment\nOPENVIDU_WEBHOOK=false\n\n#OPENVIDU_WEBHOOK_ENDPOINT=\n\n# last\nA=\"b c\"\n";

    #[test]
    fn a_value_is_changed_in_its_place_and_goes_back_to_what_it_was() {
        let mut text = EnvText::new(TEXT);
        let before = text.line("OPENVIDU_WEBHOOK");
        text.set("OPENVIDU_WEBHOOK", "true");
        text.set("OPENVIDU_WEBHOOK_ENDPOINT", "http://x");
        text.set("NEW", "1");
        assert_eq!(
            text.as_str(),
            "# a comment\nOPENVIDU_WEBHOOK=true\n\n#OPENVIDU_WEBHOOK_ENDPOINT=\nOPENVIDU_WEBHOOK_ENDPOINT=http://x\n\n# last\nA=\"b c\"\nNEW=1\n"
        );
        text.restore("NEW", None);
        text.restore("OPENVIDU_WEBHOOK_ENDPOINT", None);
        text.restore("OPENVIDU_WEBHOOK", before.as_deref());
        assert_eq!(text.as_str(), TEXT);
    }

    #[test]
    fn every_value_is_read_as_it_was_set_and_the_last_line_holds() {
        let mut text = EnvText::new("export A='1' # one\nA=2 # two\n");
        assert_eq!(text.get("A").as_deref(), Some("2"));
        for value in [
            "x y",
            "a #b",
            "'b'",
            "\"c\"",
            "\"d",
            " e ",
            "f\\",
            "[\"g: h\"]",
            "i\\\"j #",
            "k$l",
            "${m}",
            "it's $5 `n`",
            "['o: p']",
            "two\nlines",
        ] {
            text.set("A", value);
            assert_eq!(text.get("A").as_deref(), Some(value));
        }
        text.restore("A", None);
        assert_eq!(text.as_str(), "export A='1' # one\n");
    }

    #[test]
    fn a_value_over_several_lines_is_replaced_whole() {
        let mut text = EnvText::new("A='{\n}' # two lines\nB=1\n");
        let before = text.line("A");
        text.set("A", "2");
        assert_eq!(text.as_str(), "A=2\nB=1\n");
        text.restore("A", before.as_deref());
        assert_eq!(text.get("A").as_deref(), Some("{\n}"));
        assert_eq!(text.get("B").as_deref(), Some("1"));
    }

    #[test]
    fn names_that_only_begin_alike_are_not_confused() {
        let text = EnvText::new(TEXT);
        assert_eq!(text.get("OPENVIDU_WEBHOOK").as_deref(), Some("false"));
        assert_eq!(text.get("OPENVIDU_WEBHOOK_ENDPOINT"), None);
        assert_eq!(text.get("A").as_deref(), Some("b c"));
    }
}
