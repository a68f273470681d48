//! Env files that belong to a person: a value is changed in its line, and everything else, comments and order included,
//! stays as it was. Lines are read as settings are.

use crate::config::{assignment, quoted};

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
        let mut lines = self.0.lines().rev();
        let value = lines.find_map(|line| value_of(line, name));
        value.filter(|value| !value.is_empty())
    }

    /// The whole line that sets `name`.
    pub(super) fn line(&self, name: &str) -> Option<String> {
        let sets = |line: &&str| value_of(line, name).is_some();
        self.0.lines().rev().find(sets).map(str::to_owned)
    }

    /// Sets `name`: in the line that sets it, below the comment that offers it, or at the end.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let fresh = format!("{name}={}", quoted(value));
        let lines = self.0.lines().map(str::to_owned).collect::<Vec<_>>();
        let set = lines
            .iter()
            .rposition(|line| value_of(line, name).is_some());
        let offered = lines.iter().rposition(|line| {
            let offer = line.trim_start().strip_prefix('#').map(str::trim_start);
            offer.is_some_and(|offer| value_of(offer, name).is_some())
        });
        let mut lines = lines;
        match (set, offered) {
            (Some(at), _) => lines[at] = fresh,
            (None, Some(at)) => lines.insert(at + 1, fresh),
            (None, None) => lines.push(fresh),
        }
        self.0 = lines.join("\n") + "\n";
    }

    /// Puts the line of `name` back to what it was; `None` takes it out.
    pub(super) fn restore(&mut self, name: &str, before: Option<&str>) {
        let mut lines = self.0.lines().collect::<Vec<_>>();
        let set = lines
            .iter()
            .rposition(|line| value_of(line, name).is_some());
        let Some(at) = set else { return };
        match before {
            Some(before) => lines[at] = before,
            None => drop(lines.remove(at)),
        }
        self.0 = lines.join("\n") + "\n";
    }
}

/// The value, when `line` sets `name`.
fn value_of(line: &str, name: &str) -> Option<String> {
    let (set, value) = assignment(line)?;
    (set == name).then_some(value)
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
        ] {
            text.set("A", value);
            assert_eq!(text.get("A").as_deref(), Some(value));
        }
        text.restore("A", None);
        assert_eq!(text.as_str(), "export A='1' # one\n");
    }

    #[test]
    fn names_that_only_begin_alike_are_not_confused() {
        let text = EnvText::new(TEXT);
        assert_eq!(text.get("OPENVIDU_WEBHOOK").as_deref(), Some("false"));
        assert_eq!(text.get("OPENVIDU_WEBHOOK_ENDPOINT"), None);
        assert_eq!(text.get("A").as_deref(), Some("b c"));
    }
}
