//! Log lines: plain sentences with fields, as text for people or JSON for machines.

use crate::clock::{Clock, SystemClock};
use crate::config::LogFormat;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::{Map, json};
use std::io::Write;

/// Starts logging to standard error; `RUST_LOG` overrides the levels. Harmless when called again.
pub(super) fn start(format: LogFormat, debug: bool) {
    let level = if debug { "debug" } else { "info" };
    let quiet = "s3s=warn,hyper=warn,reqwest=warn,tracing::span=off,sled=warn,bollard=warn,tokio_cron_scheduler=warn";
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("{level},{quiet}"));
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filter);
    match format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(json_line),
    };
    // An error means that logging was started before, as in tests.
    let _ = builder.try_init();
}

fn text(out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>) -> std::io::Result<()> {
    let mut line = format!(
        "{} {:<5} {}",
        SystemClock.now(),
        record.level(),
        record.args()
    );
    // The visitor never fails.
    let _ = record.key_values().visit(&mut TextFields(&mut line));
    writeln!(out, "{line}")
}

fn json_line(
    out: &mut env_logger::fmt::Formatter,
    record: &log::Record<'_>,
) -> std::io::Result<()> {
    let mut fields = Map::new();
    fields.insert("timestamp".into(), json!(SystemClock.now()));
    fields.insert("level".into(), json!(record.level().as_str()));
    fields.insert("message".into(), json!(record.args().to_string()));
    // The visitor never fails.
    let _ = record.key_values().visit(&mut JsonFields(&mut fields));
    writeln!(out, "{}", serde_json::Value::Object(fields))
}

struct TextFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push_str(&format!(" {key}={value}"));
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
