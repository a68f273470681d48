//! Log lines: plain sentences with fields, as text for people or JSON for machines. Before the journal's ears a line begins
//! with its level as the journal understands it, which keeps the time itself.

use crate::clock::{Clock, SystemClock};
use crate::config::LogFormat;
use env_logger::Target;
use env_logger::fmt::Formatter;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, json};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

/// Starts logging to standard error, and to the file `copy` too; `RUST_LOG` overrides the levels. Harmless when called again.
pub(super) fn start(format: LogFormat, debug: bool, copy: Option<File>) {
    let filter = "debug,s3s=warn,hyper=warn,reqwest=warn,tracing::span=off,sled=warn,bollard=warn,tokio_cron_scheduler=warn";
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&levels().unwrap_or_else(|| filter.into()));
    let line = match format {
        LogFormat::Text if journal_listens() => told,
        LogFormat::Text => text,
        LogFormat::Json => json_line,
    };
    match journal_listens() {
        true => builder.format(move |out, record| {
            write!(out, "<{}>", priority(record.level()))?;
            line(out, record)
        }),
        false => builder.format(line),
    };
    if let Some(copy) = copy {
        builder.target(Target::Pipe(Box::new(Both(copy))));
    }
    // An error means that logging was started before, as in tests.
    let _ = builder.try_init();
    tell_more(debug);
}

/// Tells what helps to find a fault too, or not any more; `RUST_LOG` has the last word.
pub(super) fn tell_more(debug: bool) {
    if levels().is_none() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

fn levels() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}

/// Whether standard error is what the service manager connected to the journal, and not something put in its place.
fn journal_listens() -> bool {
    let connected = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = std::fs::metadata("/proc/self/fd/2");
    own.is_ok_and(|own| connected == format!("{}:{}", own.dev(), own.ino()))
}

/// The level in syslog's numbers.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn text(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    write!(out, "{} {:<5} ", SystemClock.now().fixed(), record.level())?;
    told(out, record)
}

/// What is told, without time and level.
fn told(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let mut line = printable(&record.args().to_string()).into_owned();
    // The visitor never fails.
    let _ = record.key_values().visit(&mut TextFields(&mut line));
    writeln!(out, "{line}")
}

fn json_line(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let mut fields = Map::new();
    fields.insert("timestamp".into(), json!(SystemClock.now().fixed()));
    fields.insert("level".into(), json!(record.level().as_str()));
    fields.insert("message".into(), json!(record.args().to_string()));
    // The visitor never fails.
    let _ = record.key_values().visit(&mut JsonFields(&mut fields));
    writeln!(out, "{}", serde_json::Value::Object(fields))
}

/// The text without what would begin a line of its own, or paint the terminal of who reads it: some of it is what others
/// sent.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    Cow::Owned(shown.collect())
}

/// A field's value; in quotes where it could be taken for further fields.
fn field(value: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=');
    match printable(value) {
        shown if shown.chars().all(is_plain) => shown,
        shown => {
            let shown = shown.replace('\\', "\\\\").replace('"', "\\\"");
            Cow::Owned(format!("\"{shown}\""))
        }
    }
}

/// Standard error and a file. A file that cannot be written keeps nothing from standard error.
struct Both(File);

impl Write for Both {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(line);
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct TextFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0
            .push_str(&format!(" {key}={}", field(&value.to_string())));
        Ok(())
    }
}

struct JsonFields<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for JsonFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = match (value.to_u64(), value.to_f64()) {
            (Some(number), _) => json!(number),
            (None, Some(number)) => json!(number),
            _ => json!(value.to_string()),
        };
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_send_makes_neither_lines_nor_fields() {
        let forged = "gone\n2026-01-01T00:00:00.000Z INFO  recording sealed\u{1b}[2J";
        let shown = printable(forged);
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(shown.contains("gone\\n2026"), "{shown}");
        assert_eq!(field("ses_A~1"), "ses_A~1");
        assert_eq!(field("x status=200"), "\"x status=200\"");
        assert_eq!(field("\" a=b\n"), "\"\\\" a=b\\\\n\"");
        assert_eq!(printable("täglich 5 €"), "täglich 5 €");
    }
}
