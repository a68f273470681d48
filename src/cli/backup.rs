//! `backup`: one archive with what makes this service what it is: settings, sessions, outbox, and the manifests of takes
//! whose chunks are in the store. Taken from the running service over its API, or from the database when it does not run.

use super::api::{Api, refused};
use super::archive;
use super::output::{Output, Replace};
use super::report::Form;
use super::{DataDir, Failure, SettingsFile, exit};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Settings, TABLE, Variables};
use crate::controller::relay;
use crate::db::Db;
use crate::db::outbox::{Bounds, Outbox};
use crate::store;
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// The version of the archive's layout.
pub(super) const FORMAT: u32 = 1;
/// The entry that describes the archive; the last one, so that an archive with it is whole.
pub(super) const INDEX: &str = "backup.json";
/// The entry with the database.
pub(super) const STATE: &str = "state.jsonl";
/// The entry with the settings.
pub(super) const SETTINGS: &str = "settings.env";
/// The folder of the files from which the settings have values, under the settings' names.
pub(super) const FILES: &str = "files/";
/// The folder of the manifests.
pub(super) const MANIFESTS: &str = "manifests/";

/// Write settings, sessions, webhooks and manifests into one archive, while the service runs or not.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The archive; without it ov2-ha-recorder-<time>.tar.gz in this folder, and "-" is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the archive where it is there already.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

/// What an archive says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) format: u32,
    pub(super) program: String,
    pub(super) created_at: Timestamp,
    pub(super) records: u64,
    pub(super) manifests: u64,
    pub(super) settings: bool,
    /// Why the manifests are not in it, when they are not.
    pub(super) without_manifests: Option<String>,
    /// Which files that the settings name are not in it, and why.
    #[serde(default)]
    pub(super) without_files: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Made {
    archive: PathBuf,
    bytes: u64,
    #[serde(flatten)]
    index: Index,
}

impl Backup {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let settings = self.file.settings_with(&self.data)?;
        let now = SystemClock.now();
        let named = self.output.clone();
        let path = named.unwrap_or_else(|| archive::usual_name("ov2-ha-recorder", now));
        let output = Output::of(&path, Replace::when(self.force))?;
        let bar = bar(self.form);
        bar.set_message("database");
        let state = state(&settings, &self.data.data_dir, &bar).await?;
        let records = crate::db::export::check(&state[..])
            .map_err(Failure::new)?
            .records;
        bar.set_message("manifests");
        let manifests = manifests(&settings, &bar).await;
        let (manifests, without_manifests) = match manifests {
            Ok(found) => (found, None),
            Err(cause) => (Vec::new(), Some(cause.to_string())),
        };
        let env = self.file.path().and_then(|path| std::fs::read(path).ok());
        let (files, without_files) = named_files(env.as_deref().unwrap_or_default());
        let index = Index {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").into(),
            created_at: now,
            records,
            manifests: manifests.len() as u64,
            settings: env.is_some(),
            without_manifests,
            without_files,
        };
        bar.set_message("archive");
        let entries = env
            .map(|text| (SETTINGS.to_owned(), Bytes::from(text)))
            .into_iter()
            .chain([(STATE.to_owned(), Bytes::from(state))])
            .chain(files)
            .chain(
                manifests
                    .into_iter()
                    .map(|(key, body)| (format!("{MANIFESTS}{key}"), body)),
            );
        let bytes = write(&output, entries, &index).map_err(|cause| {
            Failure::with(
                exit::CANNOT_WRITE,
                format!("cannot write {}: {cause}", path.display()),
            )
        })?;
        bar.finish_and_clear();
        let made = Made {
            archive: path,
            bytes,
            index,
        };
        match output {
            Output::Standard => self.form.print_aside(&made, text),
            _ => self.form.print(&made, text),
        }
        Ok(())
    }
}

fn text(made: &Made) -> String {
    let mut text = format!(
        "{}: {} records, {} manifests, {} bytes; it holds passwords: keep it safe",
        made.archive.display(),
        made.index.records,
        made.index.manifests,
        made.bytes
    );
    if let Some(why) = &made.index.without_manifests {
        text.push_str(&format!("\nwithout the store's manifests: {why}"));
    }
    for why in &made.index.without_files {
        text.push_str(&format!("\nwithout {why}"));
    }
    text
}

fn bar(form: Form) -> ProgressBar {
    let shown = !form.json && std::io::stderr().is_terminal();
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {bar:40} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    bar
}

/// The database's export: from the running service, wherever its folder is, or from the folder when nobody answers.
async fn state(
    settings: &Settings,
    data_dir: &Path,
    bar: &ProgressBar,
) -> Result<Vec<u8>, Failure> {
    match fetch(settings, bar).await {
        Err(silence) if silence.code == exit::UNAVAILABLE => match Db::is_in(data_dir) {
            true => exported(settings, data_dir),
            false => Err(silence),
        },
        answered => answered,
    }
}

fn exported(settings: &Settings, data_dir: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let db = Db::open(data_dir).map_err(Failure::new)?;
    let (targets, bounds) = (relay::targets(settings), Bounds::of(settings));
    Outbox::take_up_journal(&db, targets, bounds, SystemClock.now()).map_err(Failure::new)?;
    db.export(&mut text).map_err(Failure::new)?;
    Ok(text)
}

async fn fetch(settings: &Settings, bar: &ProgressBar) -> Result<Vec<u8>, Failure> {
    let api = Api::of(settings)?;
    let answer = api
        .request(Method::POST, "/api/backup")
        .send()
        .await
        .map_err(|cause| api.unreachable(&cause))?;
    let status = answer.status();
    if status == reqwest::StatusCode::UNAUTHORIZED {
        return Err(refused("back up"));
    }
    if !status.is_success() {
        return Err(Failure::new(format!(
            "cannot back up: the controller answers {}",
            status.as_u16()
        )));
    }
    bar.set_length(answer.content_length().unwrap_or(0));
    let mut text = Vec::new();
    let mut body = answer.bytes_stream();
    while let Some(part) = body.next().await {
        let part = part.map_err(|cause| api.unreachable(&cause))?;
        text.extend_from_slice(&part);
        bar.set_position(text.len() as u64);
    }
    Ok(text)
}

async fn manifests(
    settings: &Settings,
    bar: &ProgressBar,
) -> Result<Vec<(String, Bytes)>, store::StoreError> {
    let store = store::open(settings, &settings.recording_path)?;
    let objects = store.list("").await?;
    let mut found = Vec::new();
    for object in objects
        .into_iter()
        .filter(|object| object.key.ends_with("/manifest.json"))
    {
        let body = store.read(&object.key).await?;
        bar.inc(body.len() as u64);
        found.push((object.key, body));
    }
    Ok(found)
}

/// The files in which the values of settings lie, as entries, and which of them cannot be read.
fn named_files(env: &[u8]) -> (Vec<(String, Bytes)>, Vec<String>) {
    let env = String::from_utf8_lossy(env);
    let named = Variables::default().over_text(&env, Path::new(SETTINGS));
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for setting in TABLE {
        let Some(path) = named.get(&format!("{}_FILE", setting.name)) else {
            continue;
        };
        match std::fs::read(&path) {
            Ok(body) => files.push((format!("{FILES}{}", setting.name), Bytes::from(body))),
            Err(cause) => missing.push(format!("{}_FILE={path}: {cause}", setting.name)),
        }
    }
    (files, missing)
}

fn write(
    output: &Output,
    entries: impl Iterator<Item = (String, Bytes)>,
    index: &Index,
) -> std::io::Result<u64> {
    let text = Bytes::from(serde_json::to_string_pretty(index)?);
    let entries = entries.chain([(INDEX.to_owned(), text)]);
    output.write(|out| archive::pack(out, index.created_at, entries))
}
