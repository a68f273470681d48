//! `config`: every setting, what it is now, and where that comes from. Secrets stay hidden, also the ones inside URLs.

use super::report::{Colour, Form, Paint};
use super::{Failure, SettingsFile, exit};
use crate::config::{Faults, Setting, TABLE, Variables};
use clap::Args;
use serde::Serialize;

/// Show every setting, its value and where it comes from; secrets are hidden.
#[derive(Debug, Args)]
pub(super) struct Config {
    /// Show these settings only.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Explain each setting.
    #[arg(long)]
    help_texts: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

/// A setting, as a person may see it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: &'static str,
    value: Option<String>,
    source: &'static str,
    secret: bool,
    expected: &'static str,
    help: &'static str,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        let process = Variables::of_process();
        let all = self.file.variables();
        let wanted =
            |row: &&Setting| self.names.is_empty() || self.names.iter().any(|n| n == row.name);
        let rows = TABLE
            .iter()
            .filter(wanted)
            .map(|setting| row(setting, &process, &all))
            .collect::<Vec<_>>();
        if let Some(name) = self
            .names
            .iter()
            .find(|name| !TABLE.iter().any(|row| row.name == **name))
        {
            return Err(Failure::with(
                exit::CONFIG,
                format!("{name}: there is no such setting"),
            ));
        }
        let explain = self.help_texts;
        self.form
            .print(&rows, |rows| text(rows, explain, Paint::of_terminal()));
        if let Some(path) = self.file.path().filter(|_| !self.form.json) {
            eprintln!("(file) is {}", path.display());
        }
        let (settings, faults) = all.forgiving();
        // Beside the rows, which may go to a program.
        for warning in &settings.warnings {
            eprintln!("warning: {warning}");
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Faults(faults).into()),
        }
    }
}

/// Every setting, without secrets.
pub(super) fn rows(all: &Variables) -> Vec<Row> {
    let process = Variables::of_process();
    let row = |setting| row(setting, &process, all);
    TABLE.iter().map(row).collect()
}

fn row(setting: &Setting, process: &Variables, all: &Variables) -> Row {
    let (value, source) = match (process.get(setting.name), all.get(setting.name)) {
        (Some(value), _) => (Some(value), "environment"),
        (None, Some(value)) => (Some(value), "file"),
        (None, None) => (
            setting
                .default
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
            "default",
        ),
    };
    Row {
        name: setting.name,
        // What everybody may read here is no secret.
        value: value.map(|text| match source {
            "default" => text,
            _ => (setting.shown)(&text),
        }),
        source,
        secret: setting.secret,
        expected: setting.expected,
        help: setting.help,
    }
}

fn text(rows: &[Row], explain: bool, paint: Paint) -> String {
    let wide = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or_default();
    let line = |row: &Row| {
        let value = row.value.as_deref().unwrap_or("—");
        let source = match row.source {
            "default" => paint.dye(Colour::Grey, "(default)"),
            source => paint.dye(Colour::Green, &format!("({source})")),
        };
        let help = match explain {
            true => format!("\n{:wide$}  {}\n", "", paint.dye(Colour::Grey, row.help)),
            false => String::new(),
        };
        format!("{:wide$}  {value}  {source}{help}", row.name)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_also_inside_urls() {
        let variables = Variables::of([
            ("HA_CONTROLLER_PASSWORD", "hidden"),
            (
                "OPENVIDU_WEBHOOK_ENDPOINT",
                "https://a:hidden@x:1/p?key=hidden",
            ),
            ("OPENVIDU_WEBHOOK_HEADERS", "Authorization: hidden"),
            ("CHUNK_TIME_SIZE", "7"),
        ]);
        let rows = TABLE
            .iter()
            .map(|setting| row(setting, &variables, &variables))
            .collect::<Vec<_>>();
        let text = text(&rows, true, Paint(false));
        assert!(!text.contains("hidden"), "{text}");
        assert!(text.contains("https://x:1  (environment)"), "{text}");
        assert!(text.contains("7  (environment)"), "{text}");
        assert!(text.contains("15443  (default)"), "{text}");
        let headers = TABLE
            .iter()
            .find(|it| it.name == "HA_AWS_S3_HEADERS")
            .unwrap();
        let headers = row(headers, &Variables::default(), &Variables::default());
        assert_eq!(
            headers.value.as_deref(),
            Some("{}"),
            "a default hides nothing"
        );
    }
}
