//! What `install` changes on a machine is written down before it is done, so that `uninstall` can put it back: whole
//! files that it makes or takes away, single lines of files that belong to OpenVidu, and the recording image's name.

use super::env_text::EnvText;
use super::system::{
    Call, WITHOUT_SETTINGS, docker_answers, forget_backup, forget_earlier_settings, image_id,
    image_is_ours, image_label,
};
use super::{Failure, exit};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// One thing to be changed.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The file at `path` shall hold `text`; `mode` is for a file that is new.
    File {
        path: PathBuf,
        text: String,
        mode: u32,
    },
    /// The env file at `path` shall say `name=value`.
    Line {
        path: PathBuf,
        name: &'static str,
        value: String,
    },
    /// There shall be no file at `path`.
    NoFile { path: PathBuf },
}

/// What was there before a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase")]
enum Before {
    /// A file with its text; `None` where there was, or is to be, none.
    File {
        path: PathBuf,
        text: Option<String>,
        /// Written as an empty text where there is to be no file: earlier versions know a text only.
        #[serde(with = "text_or_none")]
        after: Option<String>,
    },
    Line {
        path: PathBuf,
        name: String,
        line: Option<String>,
        after: String,
    },
    /// An image of ours took this name; its id, once it was built.
    Image { name: String, built: Option<String> },
}

/// How what was changed is found now.
enum Found {
    /// As we left it.
    Ours,
    /// Put back already.
    Back,
    /// Someone changed it since: it is theirs.
    Theirs,
    /// It cannot be looked at; why.
    Unknown(String),
}

/// Whether things are put back, or it is only shown which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    Show,
    Carry,
}

/// A text that may be missing, as a text.
mod text_or_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        text: &Option<String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_deref().unwrap_or_default().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<String>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.filter(|it| !it.is_empty()))
    }
}

/// The record of all changes; it may hold secrets and is for its owner only.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    changes: Vec<Before>,
}

/// What was put back, what was left because someone changed it since, and what still waits, with the reason.
#[derive(Debug, Default, Serialize)]
pub(super) struct PutBack {
    pub(super) restored: Vec<String>,
    pub(super) left: Vec<String>,
    pub(super) waits: Vec<String>,
}

impl Change {
    /// Whether it is so already.
    pub(super) fn done(&self) -> bool {
        match self {
            Self::File { path, text, .. } => {
                fs::read_to_string(path).is_ok_and(|found| found == *text)
            }
            Self::Line { path, name, value } => fs::read_to_string(path)
                .is_ok_and(|found| EnvText::new(found).get(name).as_ref() == Some(value)),
            Self::NoFile { path } => !path.exists(),
        }
    }

    /// Whether there is no file yet that it would change.
    pub(super) fn is_new(&self) -> bool {
        !self.path().exists()
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Line { path, .. } | Self::NoFile { path } => path,
        }
    }

    fn before(&self) -> Result<Before, Failure> {
        let found = read(self.path())?;
        Ok(match self {
            Self::File { path, text, .. } => Before::File {
                path: path.clone(),
                text: found,
                after: Some(text.clone()),
            },
            Self::Line { path, name, value } => Before::Line {
                path: path.clone(),
                name: (*name).to_owned(),
                line: found.and_then(|text| EnvText::new(text).line(name)),
                after: value.clone(),
            },
            Self::NoFile { path } => Before::File {
                path: path.clone(),
                text: found,
                after: None,
            },
        })
    }

    fn make(&self) -> Result<(), Failure> {
        match self {
            Self::File { path, text, mode } => write(path, text, *mode),
            Self::Line { path, name, value } => {
                let mut text = EnvText::new(read(path)?.unwrap_or_default());
                text.set(name, value);
                write(path, text.as_str(), 0o600)
            }
            Self::NoFile { path } => remove(path),
        }
    }
}

impl Record {
    /// The record in `data_dir`; an empty one when nothing was changed yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn load(data_dir: &Path) -> Result<Self, Failure> {
        let path = Self::path(data_dir);
        match read(&path)? {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(&text).map_err(|cause| {
                Failure::new(format!(
                    "cannot read {}: {cause}; nothing was changed",
                    path.display()
                ))
            }),
        }
    }

    /// Makes `change`, after writing down what was there before. Answers whether there was anything to do.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn make(&mut self, change: &Change, data_dir: &Path) -> Result<bool, Failure> {
        if change.done() {
            return Ok(false);
        }
        self.remember(change.before()?);
        self.save(data_dir)?;
        change.make()?;
        Ok(true)
    }

    /// Writes down that the image `name` becomes one of ours, or, with its id, that it is.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(super) fn note_image(
        &mut self,
        name: &str,
        built: Option<String>,
        data_dir: &Path,
    ) -> Result<(), Failure> {
        self.remember(Before::Image {
            name: name.to_owned(),
            built,
        });
        self.save(data_dir)
    }

    /// Whether the image `name` is written down.
    pub(super) fn has_image(&self, name: &str) -> bool {
        let mut changes = self.changes.iter();
        changes.any(|it| matches!(it, Before::Image { name: noted, .. } if noted == name))
    }

    /// The images that are written down, but for `current`.
    pub(super) fn images_besides(&self, current: &str) -> Vec<String> {
        let names = self.changes.iter().filter_map(|it| match it {
            Before::Image { name, .. } if name != current => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// Whether the file at `path` is there as we left it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn has_our_file(&self, path: &Path) -> Result<bool, Failure> {
        let found = read(path)?;
        let is_it = |it: &Before| matches!(it, Before::File { path: noted, after, .. } if noted == path && *after == found);
        Ok(found.is_some() && self.changes.iter().any(is_it))
    }

    /// Leaves the file at `path` as it is, for good.
    pub(super) fn forget_file(&mut self, path: &Path) {
        self.changes
            .retain(|it| !matches!(it, Before::File { path: noted, .. } if noted == path));
    }

    fn save(&mut self, data_dir: &Path) -> Result<(), Failure> {
        self.version = 1;
        let text = serde_json::to_string_pretty(self).map_err(Failure::new)?;
        fs::create_dir_all(data_dir).map_err(|cause| cannot_write(data_dir, &cause))?;
        write(&Self::path(data_dir), &text, 0o600)
    }

    /// A second change of the same thing keeps what was there before the first.
    fn remember(&mut self, fresh: Before) {
        let old = self
            .changes
            .iter_mut()
            .find(|old| old.place() == fresh.place());
        match (old, fresh) {
            (Some(Before::File { after, .. }), Before::File { after: fresh, .. }) => *after = fresh,
            (Some(Before::Line { after, .. }), Before::Line { after: fresh, .. }) => *after = fresh,
            (Some(Before::Image { built, .. }), Before::Image { built: fresh, .. }) => {
                *built = fresh
            }
            (_, fresh) => self.changes.push(fresh),
        }
    }

    /// Puts everything back, newest first, and forgets it; the image only where that is `wanted`. What cannot be put back now
    /// stays written down.
    ///
    /// # Errors
    /// When a file cannot be written; what was put back by then stays so.
    pub(super) fn undo(
        mut self,
        data_dir: &Path,
        image_is_wanted: bool,
        undo: Undo,
    ) -> Result<PutBack, Failure> {
        let mut done = PutBack::default();
        let mut rest = Vec::new();
        for before in std::mem::take(&mut self.changes).into_iter().rev() {
            if matches!(before, Before::Image { .. }) && !image_is_wanted {
                rest.push(before);
                continue;
            }
            let shown = before.shown();
            let found = before.found();
            // One that cannot be put back keeps none of the others.
            match found.unwrap_or_else(|cause| Found::Unknown(cause.message)) {
                Found::Unknown(why) => {
                    done.waits.push(format!("{shown}: {why}"));
                    rest.push(before);
                }
                Found::Theirs => done.left.push(shown),
                Found::Back => done.restored.push(shown),
                Found::Ours => {
                    let carried = match undo {
                        Undo::Carry => before.put_back(),
                        Undo::Show => Ok(()),
                    };
                    match carried {
                        Ok(()) => done.restored.push(shown),
                        Err(cause) => {
                            done.waits.push(format!("{shown}: {}", cause.message));
                            rest.push(before);
                        }
                    }
                }
            }
        }
        if undo == Undo::Show {
            return Ok(done);
        }
        rest.reverse();
        self.changes = rest;
        if !self.changes.is_empty() {
            self.save(data_dir)?;
            return Ok(done);
        }
        let path = Self::path(data_dir);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cannot_write(&path, &cause)),
            _ => Ok(done),
        }
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("install.json")
    }
}

impl Before {
    fn place(&self) -> (&Path, Option<&str>) {
        match self {
            Self::File { path, .. } => (path, None),
            Self::Line { path, name, .. } => (path, Some(name)),
            Self::Image { name, .. } => (Path::new(""), Some(name)),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Line { path, name, .. } => format!("{name} in {}", path.display()),
            Self::Image { name, .. } => format!("the image {name}"),
        }
    }

    fn found(&self) -> Result<Found, Failure> {
        Ok(match self {
            Self::File { path, text, after } => match read(path)? {
                None if text.is_none() => Found::Back,
                found if found == *after => Found::Ours,
                Some(_) => Found::Theirs,
                None => Found::Back,
            },
            Self::Line {
                path, name, after, ..
            } => {
                let text = EnvText::new(read(path)?.unwrap_or_default());
                match text.get(name).as_ref() == Some(after) {
                    true => Found::Ours,
                    false => Found::Theirs,
                }
            }
            Self::Image { name, built } => match (docker_answers(), image_id(name)) {
                (Err(silence), _) => Found::Unknown(silence.message),
                (Ok(()), None) => Found::Back,
                (Ok(()), Some(id)) if built.as_ref().is_some_and(|built| *built != id) => {
                    Found::Theirs
                }
                (Ok(()), Some(_)) => match image_is_ours(name) {
                    Some(true) => Found::Ours,
                    _ => Found::Theirs,
                },
            },
        })
    }

    fn put_back(&self) -> Result<(), Failure> {
        match self {
            Self::File {
                path,
                text: Some(text),
                ..
            } => write(path, text, 0o600),
            Self::File {
                path, text: None, ..
            } => remove(path),
            Self::Line {
                path, name, line, ..
            } => {
                let mut text = EnvText::new(read(path)?.unwrap_or_default());
                text.restore(name, line.as_deref());
                write(path, text.as_str(), 0o600)
            }
            Self::Image { name, .. } => give_back(name),
        }
    }
}

/// Gives an image's name back to what ours was built on, where the image script kept that for it, or else to nobody: OpenVidu
/// then fetches its own. Of ours nothing stays that holds the recorders' settings, but for what a container is made of.
fn give_back(image: &str) -> Result<(), Failure> {
    let label = |name| image_label(image, name).filter(|it| !it.is_empty());
    let plain = label(WITHOUT_SETTINGS);
    let kept = label("ov2-ha-recorder.replaces");
    let kept = kept.filter(|kept| Call::of("docker", ["tag", kept, image]).succeeds());
    let needless = kept.as_deref().unwrap_or(image);
    Call::of("docker", ["rmi", needless]).output()?;
    forget_backup(image);
    forget_earlier_settings();
    if let Some(plain) = plain {
        Call::of("docker", ["rmi", &plain]).succeeds();
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failure> {
    fs::remove_file(path).map_err(|cause| cannot_write(path, &cause))
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Failure::with(
            exit::CANNOT_WRITE,
            format!("cannot read {}: {cause}", path.display()),
        )),
    }
}

/// Replaces the file in one step, keeping mode, owner and group of the one that is there. `mode` is for a new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let put = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = path.with_extension("ov2-new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    put().map_err(|cause| cannot_write(path, &cause))
}

fn cannot_write(path: &Path, cause: &std::io::Error) -> Failure {
    Failure::with(
        exit::CANNOT_WRITE,
        format!("cannot write {}: {cause}{}", path.display(), as_root(cause)),
    )
}

/// Root has no more to gain.
fn as_root(cause: &std::io::Error) -> &'static str {
    match cause.kind() == ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() {
        true => "; run this as root",
        false => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_back_to_what_it_was_but_not_over_someone_s_later_edit() {
        let folder = tempfile::tempdir().unwrap();
        let (data, env, own) = (
            folder.path().join("data"),
            folder.path().join(".env"),
            folder.path().join("own.env"),
        );
        fs::write(&env, "A=1\nB=2\n").unwrap();
        let line = |name, value: &str| Change::Line {
            path: env.clone(),
            name,
            value: value.into(),
        };
        let file = |text: &str| Change::File {
            path: own.clone(),
            text: text.into(),
            mode: 0o640,
        };
        let mut record = Record::default();
        for change in [
            line("A", "x"),
            line("A", "y"),
            line("C", "3"),
            line("B", "z"),
            file("one"),
            file("two"),
        ] {
            assert!(record.make(&change, &data).unwrap());
            assert!(
                !record.make(&change, &data).unwrap(),
                "twice changes nothing"
            );
        }
        assert_eq!(
            fs::metadata(&own).unwrap().permissions().mode() & 0o777,
            0o640
        );
        fs::write(
            &env,
            fs::read_to_string(&env).unwrap().replace("B=z", "B=mine"),
        )
        .unwrap();
        let shown = Record::load(&data).unwrap();
        let shown = shown.undo(&data, true, Undo::Show).unwrap();
        assert_eq!(shown.restored.len(), 3, "{shown:?}");
        assert!(own.exists(), "what is only shown changes nothing");
        let record = Record::load(&data).unwrap();
        let done = record.undo(&data, true, Undo::Carry).unwrap();
        assert_eq!(done.restored, shown.restored);
        assert_eq!(done.left, [format!("B in {}", env.display())]);
        assert_eq!(fs::read_to_string(&env).unwrap(), "A=1\nB=mine\n");
        assert!(!own.exists());
    }

    /// What there was, whether it was changed by hand since, and what uninstall leaves.
    #[test]
    fn a_file_of_ours_that_was_taken_away_gives_its_place_back_to_what_was_there_before() {
        for (before, later, is_ours, left) in [
            (None, None, true, None),
            (Some("theirs"), None, true, Some("theirs")),
            (None, Some("by hand"), false, Some("by hand")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (data, path) = (folder.path().join("data"), folder.path().join(".env"));
            if let Some(before) = before {
                fs::write(&path, before).unwrap();
            }
            let mut record = Record::default();
            assert!(!record.has_our_file(&path).unwrap());
            let file = |text: &str| Change::File {
                path: path.clone(),
                text: text.into(),
                mode: 0o600,
            };
            assert!(record.make(&file("ours"), &data).unwrap());
            if let Some(later) = later {
                fs::write(&path, later).unwrap();
            }
            assert_eq!(record.has_our_file(&path).unwrap(), is_ours);
            if is_ours {
                let gone = Change::NoFile { path: path.clone() };
                assert!(record.make(&gone, &data).unwrap());
                assert!(!path.exists() && !record.make(&gone, &data).unwrap());
            }
            let record = Record::load(&data).unwrap();
            record.undo(&data, true, Undo::Carry).unwrap();
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), left);
        }
    }

    /// As the version of before reads it, and as one between wrote it.
    #[test]
    fn a_record_of_a_file_that_was_taken_away_is_read_by_the_version_of_before_and_by_this_one() {
        #[derive(Deserialize)]
        struct Earlier {
            changes: Vec<EarlierFile>,
        }
        #[derive(Deserialize)]
        struct EarlierFile {
            after: String,
        }
        let folder = tempfile::tempdir().unwrap();
        let (data, path) = (folder.path().join("data"), folder.path().join("a"));
        fs::write(&path, "theirs").unwrap();
        let mut record = Record::default();
        let gone = Change::NoFile { path: path.clone() };
        assert!(record.make(&gone, &data).unwrap());
        let place = Record::path(&data);
        let text = fs::read_to_string(&place).unwrap();
        let earlier: Earlier = serde_json::from_str(&text).unwrap();
        assert_eq!(earlier.changes[0].after, "");
        for text in [text.clone(), text.replace("\"\"", "null")] {
            fs::write(&place, &text).unwrap();
            assert!(!path.exists());
            let record = Record::load(&data).unwrap();
            record.undo(&data, true, Undo::Carry).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "theirs", "{text}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_record_of_before_files_were_taken_away_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "ours").unwrap();
        let text = format!(
            r#"{{"version":1,"changes":[{{"what":"file","path":{path:?},"text":null,"after":"ours"}}]}}"#
        );
        fs::write(folder.path().join("install.json"), text).unwrap();
        let record = Record::load(folder.path()).unwrap();
        assert!(record.has_our_file(&path).unwrap());
    }
}
