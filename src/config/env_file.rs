//! Env files as people write them, read as `bash` (`set -a; . file`) and `docker compose` read them. Where these two
//! differ (`NAME=a b`, `NAME=["x: y"]`, `NAME: value`, `\n` in double quotes) Compose's documented rules hold, for they
//! are what OpenVidu's own `.env` is read by.
//!
//! Written here because no crate reads them so. dotenvy 0.15 was tried with every input of the tests below: it takes the
//! quotes out of `["x: y"]`, refuses `a b`, a BOM and a backslash in double quotes, lets one open quote hide the rest of
//! the file, and knows no `${NAME:-default}`. A line that cannot be read is named and costs that line alone.

use std::collections::BTreeMap;
use std::ops::Range;

/// Lines that a value in quotes may go over.
const LONGEST_VALUE: usize = 100;

/// What an env file says, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnvFile {
    /// What it sets.
    pub(crate) entries: Vec<Entry>,
    /// Lines that say nothing that can be understood, counted from 1.
    pub(crate) malformed: Vec<usize>,
}

/// A value, and the lines that set it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The variable.
    pub(crate) name: String,
    /// The lines, counted from 0.
    pub(crate) lines: Range<usize>,
    pieces: Vec<Piece>,
}

/// A value as it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Value {
    /// Its text.
    pub(crate) text: String,
    /// Whether a `$` in it names nothing that is set. Perhaps it was meant as a character.
    pub(crate) lost_reference: bool,
}

/// A part of a value that is spelled in one way.
#[derive(Clone, Debug)]
struct Piece {
    spelling: Spelling,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// `'…'`: as it stands.
    Single,
    /// `"…"`: with escapes and references.
    Double,
    /// Without quotes, to the end of the line: with references.
    Bare,
    /// Without quotes, behind a quote: a backslash keeps the next character, as for a shell.
    Joined,
}

impl EnvFile {
    /// Reads `text`.
    pub(crate) fn read(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().collect::<Vec<_>>();
        let mut file = Self::default();
        let mut at = 0;
        while at < lines.len() {
            let begin = at;
            at += 1;
            let Some(statement) = Statement::read(lines[begin]) else {
                file.malformed.push(begin + 1);
                continue;
            };
            let Statement::Sets { name, value } = statement else {
                continue;
            };
            match value_from(value, &lines[at..]) {
                Some((pieces, more)) => {
                    at += more;
                    file.entries.push(Entry {
                        name: name.to_owned(),
                        lines: begin..at,
                        pieces,
                    });
                }
                None => file.malformed.push(begin + 1),
            }
        }
        file
    }

    /// The values in their order. A reference means what `known` says, else what an earlier line set.
    pub(crate) fn values(
        &self,
        known: impl Fn(&str) -> Option<String>,
    ) -> impl Iterator<Item = (&Entry, Value)> {
        let mut set = BTreeMap::<&str, String>::new();
        self.entries.iter().map(move |entry| {
            let value = entry.value(&|name| known(name).or_else(|| set.get(name).cloned()));
            set.insert(&entry.name, value.text.clone());
            (entry, value)
        })
    }
}

/// What a line is about.
enum Statement<'a> {
    /// It sets `name` to what `value` spells.
    Sets { name: &'a str, value: &'a str },
    /// An empty line, a comment, or a name alone, which takes the environment's value and changes nothing.
    Nothing,
}

impl<'a> Statement<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            return Some(Self::Nothing);
        }
        let exported = line
            .strip_prefix("export")
            .map(|rest| (rest, rest.trim_start()));
        let line = match exported {
            Some((rest, name)) if rest.len() > name.len() => name,
            _ => line,
        };
        match line.split_once(['=', ':']) {
            Some((name, value)) if is_name(name.trim_end()) => Some(Self::Sets {
                name: name.trim_end(),
                value,
            }),
            None if is_name(line.trim_end()) => Some(Self::Nothing),
            _ => None,
        }
    }
}

impl Entry {
    /// The value, with what `known` says of other variables.
    fn value(&self, known: &dyn Fn(&str) -> Option<String>) -> Value {
        let mut value = Value::default();
        for piece in &self.pieces {
            match piece.spelling {
                Spelling::Single => value.text.push_str(&piece.text.replace("\\'", "'")),
                spelling => expand(&piece.text, spelling, known, &mut value),
            }
        }
        value
    }
}

/// `value` as an env file must spell it so that this program, `bash` and `docker compose` read it as itself.
pub(crate) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,=?-".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else if !value.contains('\'') && !value.ends_with('\\') {
        format!("'{value}'")
    } else {
        let escaped = value.chars().flat_map(|c| {
            let escape = matches!(c, '\\' | '"' | '$' | '`').then_some('\\');
            escape.into_iter().chain([c])
        });
        format!("\"{}\"", escaped.collect::<String>())
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !text.is_empty() && text.chars().all(allowed)
}

/// The pieces of the value that begins with `rest`, the part of a line behind `=`, and how many of the lines that follow
/// belong to it. `None` when a quote is not closed, or something stands behind the value.
fn value_from(rest: &str, following: &[&str]) -> Option<(Vec<Piece>, usize)> {
    if let Some(pieces) = pieces(rest) {
        return Some((pieces, 0));
    }
    // An open quote: its value goes on below, unless a line there sets a variable itself.
    let mut text = rest.to_owned();
    for (count, line) in following.iter().take(LONGEST_VALUE).enumerate() {
        if sets_a_variable(line) {
            return None;
        }
        text.push('\n');
        text.push_str(line);
        if let Some(pieces) = pieces(&text) {
            return Some((pieces, count + 1));
        }
    }
    None
}

fn sets_a_variable(line: &str) -> bool {
    // The last line of a certificate or key ends like an assignment of nothing.
    let text = line.trim();
    let is_padding = text.ends_with('=') && text.len().is_multiple_of(4);
    if is_padding && !text.trim_end_matches('=').contains(['=', '_', ' ']) {
        return false;
    }
    let name = line.split_once('=').map(|(name, _)| name.trim());
    name.is_some_and(|name| is_name(name.trim_start_matches("export ").trim()))
}

fn pieces(rest: &str) -> Option<Vec<Piece>> {
    let value = rest.trim_start();
    let mut pieces = Vec::new();
    if !value.starts_with(['"', '\'']) {
        let text = uncommented(rest).trim().to_owned();
        let spelling = Spelling::Bare;
        return Some(vec![Piece { spelling, text }]);
    }
    let mut value = value;
    loop {
        let (spelling, text, rest) = match value.chars().next() {
            None => return Some(pieces),
            Some(c) if c.is_whitespace() => {
                let behind = value.trim_start();
                return (behind.is_empty() || behind.starts_with('#')).then_some(pieces);
            }
            Some('\'') => {
                let (text, rest) = closed(value, '\'')?;
                (Spelling::Single, text, rest)
            }
            Some('"') => {
                let (text, rest) = closed(value, '"')?;
                (Spelling::Double, text, rest)
            }
            Some(_) => {
                let (text, rest) = value.split_at(end_of_word(value));
                (Spelling::Joined, text, rest)
            }
        };
        let text = text.to_owned();
        pieces.push(Piece { spelling, text });
        value = rest;
    }
}

/// A line without its comment, which begins with `#` behind a blank.
fn uncommented(rest: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| rest[..*at].ends_with([' ', '\t']);
    let comment = rest.match_indices('#').find(begins);
    comment.map_or(rest, |(at, _)| &rest[..at])
}

/// What stands between the quote with which `value` begins and the one that closes it, and what follows.
fn closed(value: &str, quote: char) -> Option<(&str, &str)> {
    let inner = &value[1..];
    let mut escaped = false;
    let end = inner.char_indices().find(|(_, c)| {
        let closes = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    // `'…\'` is whole for a shell, which knows no escape between single quotes.
    let shell = || (quote == '\'').then(|| inner.find('\'')).flatten();
    let end = end.map(|(at, _)| at).or_else(shell)?;
    Some((&inner[..end], &inner[end + 1..]))
}

fn end_of_word(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = !escaped && (c.is_whitespace() || matches!(c, '\'' | '"'));
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at)
}

/// Adds what `text` means to `value`.
fn expand(
    text: &str,
    spelling: Spelling,
    known: &dyn Fn(&str) -> Option<String>,
    value: &mut Value,
) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '$']) {
        value.text.push_str(&rest[..at]);
        let here = &rest[at..];
        rest = match here.starts_with('\\') {
            true => escape(here, spelling, value),
            false => reference(here, spelling, known, value),
        };
    }
    value.text.push_str(rest);
}

/// Takes the backslash with which `text` begins and what it escapes; answers what follows.
fn escape<'a>(text: &'a str, spelling: Spelling, value: &mut Value) -> &'a str {
    let Some(next) = text[1..].chars().next() else {
        value.text.push('\\');
        return "";
    };
    let meant = match (spelling, next) {
        (Spelling::Joined, _) | (_, '$') => Some(next),
        (Spelling::Double, '\\' | '"' | '`') => Some(next),
        (Spelling::Double, 'n') => Some('\n'),
        (Spelling::Double, 'r') => Some('\r'),
        (Spelling::Double, 't') => Some('\t'),
        _ => None,
    };
    if meant.is_none() {
        value.text.push('\\');
    }
    value.text.push(meant.unwrap_or(next));
    &text[1 + next.len_utf8()..]
}

/// Takes the `$` with which `text` begins and the name behind it; answers what follows.
fn reference<'a>(
    text: &'a str,
    spelling: Spelling,
    known: &dyn Fn(&str) -> Option<String>,
    value: &mut Value,
) -> &'a str {
    let behind = &text[1..];
    let braced = behind.strip_prefix('{').and_then(|inner| {
        let end = end_of_braces(inner)?;
        let (name, rule) = inner[..end].split_at(name_length(&inner[..end]));
        (!name.is_empty()).then_some((name, rule, &inner[end + 1..]))
    });
    if let Some((name, rule, rest)) = braced {
        let (operator, word) = rule.split_at(rule.find(|c| c != ':').map_or(0, |at| at + 1));
        let found = known(name).filter(|found| !operator.starts_with(':') || !found.is_empty());
        match (operator.trim_start_matches(':'), found) {
            ("-" | "" | "?", Some(found)) => value.text.push_str(&found),
            ("-", None) | ("+", Some(_)) => expand(word, spelling, known, value),
            ("+", None) => {}
            _ => value.lost_reference = true,
        }
        return rest;
    }
    if let Some(rest) = behind.strip_prefix('$') {
        value.text.push('$');
        return rest;
    }
    let (name, rest) = behind.split_at(name_length(behind));
    match known(name) {
        Some(found) if !name.is_empty() => value.text.push_str(&found),
        _ => {
            value.lost_reference = true;
            if name.is_empty() {
                value.text.push('$');
            }
        }
    }
    rest
}

/// How many bytes of `text` are a variable's name; none where a digit stands first.
fn name_length(text: &str) -> usize {
    let length = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        0
    } else {
        length
    }
}

fn end_of_braces(inner: &str) -> Option<usize> {
    let mut depth = 1;
    let end = inner.char_indices().find(|(_, c)| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    end.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> BTreeMap<String, String> {
        let known = |name: &str| (name == "OUTSIDE").then(|| "out".to_owned());
        let file = EnvFile::read(text);
        let values = file.values(known);
        values
            .map(|(entry, value)| (entry.name.clone(), value.text))
            .collect()
    }

    #[test]
    fn a_line_means_what_bash_and_compose_take_it_for() {
        for (line, meant) in [
            ("A=b", "b"),
            ("  A=b  ", "b"),
            ("A = b", "b"),
            ("A: b", "b"),
            ("export A=b", "b"),
            ("export\tA='b'", "b"),
            ("\u{feff}A=b\r", "b"),
            ("A=", ""),
            ("A=   # note", ""),
            ("A=\t# note", ""),
            ("A=#b", "#b"),
            ("A=b\t# note", "b"),
            ("A=b # it's \"odd\"", "b"),
            ("A=b#c", "b#c"),
            ("A=b c", "b c"),
            ("A=\"b\" # the \"short\" one", "b"),
            ("A='b' # it's the team's", "b"),
            ("A=\"b # c\"", "b # c"),
            ("A='b # c'", "b # c"),
            ("A=\"b\\\"c\"", "b\"c"),
            ("A=\"C:\\path\\\\x\"", "C:\\path\\x"),
            ("A=\"b\\nc\"", "b\nc"),
            ("A='b\\nc'", "b\\nc"),
            ("A=b\\nc", "b\\nc"),
            ("A='it'\\''s'", "it's"),
            ("A='Let\\'s go'", "Let's go"),
            ("A='b\\'", "b\\"),
            ("A=\"b\"'c'd", "bcd"),
            ("A=[\"x: y\"]", "[\"x: y\"]"),
            ("A=['x: y']", "['x: y']"),
            ("A={\"x\":\"y\"}", "{\"x\":\"y\"}"),
            ("A=b$missing", "b"),
            ("A='b$missing'", "b$missing"),
            ("A=b\\$c", "b$c"),
            ("A=\"b\\$c\"", "b$c"),
            ("A=b$$c", "b$c"),
            ("A=$OUTSIDE.x", "out.x"),
            ("A=http://${OUTSIDE}:9", "http://out:9"),
            ("A=\"${OUTSIDE}\"", "out"),
            ("A=${missing:-d}", "d"),
            ("A=${missing:-${OUTSIDE}}", "out"),
            ("A=${missing-d}", "d"),
            ("A=${OUTSIDE:+d}", "d"),
            ("A=${missing:+d}", ""),
            ("A=${missing:?told}", ""),
            ("A=${OUTSIDE:?told}", "out"),
            ("A=b$", "b$"),
            ("A=b$5", "b$5"),
            ("A=$(date)", "$(date)"),
            ("A=${", "${"),
            ("B=x\nA=$B", "x"),
            ("A=1\nA=2", "2"),
            (
                "A='{\n  \"x\": \"y\"\n}' # many lines",
                "{\n  \"x\": \"y\"\n}",
            ),
        ] {
            let found = read(line).remove("A");
            assert_eq!(found.as_deref(), Some(meant), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_itself_only() {
        let file = EnvFile::read("A=1\nthis is none\nB='open\nC=\"x\" y\nHA_X\nexport HA_Y\nD=4\n");
        let names = file.entries.iter().map(|entry| entry.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["A", "D"]);
        assert_eq!(file.malformed, [2, 3, 4]);
    }

    #[test]
    fn a_reference_to_nothing_is_noted() {
        let lost = |text: &str| {
            let file = EnvFile::read(text);
            file.values(|_| None).any(|(_, value)| value.lost_reference)
        };
        assert!(lost("A=abc$def") && lost("A=${B}") && lost("A=a$5"));
        assert!(!lost("A='abc$def'") && !lost("A=${B:-x}") && !lost("A=a\\$b"));
    }

    #[test]
    fn what_is_written_means_the_same_to_bash() {
        let values = [
            "",
            "a b",
            "a$b",
            "it's",
            "it's $5 `n` \"x\"",
            "['a: b']",
            "{\"a\":\"b\"}",
            "C:\\d\\",
            "#a",
            "~",
            "!x",
            "a;b&c|d",
        ];
        for value in values {
            let script = format!("A={}\nprintf %s \"$A\"", quoted(value));
            let bash = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            assert_eq!(String::from_utf8_lossy(&bash.unwrap().stdout), value);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_written_ends_the_program(text in "[\\PC\n]{0,60}") {
            let file = EnvFile::read(&text);
            let _ = file.values(|_| None).count();
        }

        #[test]
        fn every_value_is_read_as_it_was_written(value in "[ -~\u{e4}\t]{0,30}") {
            let line = format!("A={} # it's \"$x\"\n", quoted(&value));
            proptest::prop_assert_eq!(read(&line).remove("A"), Some(value));
        }
    }
}
