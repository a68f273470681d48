//! `--store`: a command that reads takes may be pointed at another chunk store than the configured one, such as the disk of
//! a lost machine or somebody's bucket.

use super::{DataDir, Failure, SettingsFile, exit};
use crate::config::Settings;
use crate::store::{self, ChunkStore};
use clap::Args;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Which chunk store; every subcommand that reads takes from one takes it.
#[derive(Clone, Debug, Args)]
pub(super) struct StoreChoice {
    /// Chunk store instead of the configured one: a recordings folder with chunks in it, such as a lost machine's disk,
    /// or s3://BUCKET[/PREFIX], with endpoint, region and keys from the settings.
    #[arg(long, value_name = "STORE")]
    store: Option<Location>,
    #[command(flatten)]
    data: DataDir,
}

/// Where chunks are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    Folder(String),
    /// `BUCKET[/PREFIX]`
    Bucket(String),
}

impl FromStr for Location {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            None if !text.is_empty() => Ok(Self::Folder(text.to_owned())),
            Some(("s3", bucket)) if !bucket.trim_matches('/').is_empty() => {
                Ok(Self::Bucket(bucket.to_owned()))
            }
            _ => Err("expected a folder or s3://BUCKET[/PREFIX]"),
        }
    }
}

impl StoreChoice {
    /// Whether it was chosen on the command line.
    pub(super) const fn is_named(&self) -> bool {
        self.store.is_some()
    }

    /// The settings with the chosen store in them, and that store.
    ///
    /// # Errors
    /// When the settings are wrong, or the store is a folder that is not there.
    pub(super) fn open(
        &self,
        file: &SettingsFile,
    ) -> Result<(Settings, Arc<dyn ChunkStore>), Failure> {
        let configured = file.variables();
        let variables = match &self.store {
            None => configured,
            Some(Location::Folder(path)) if !Path::new(path).is_dir() => {
                let message = format!(
                    "--store {path}: there is no such folder; name a recordings folder or s3://BUCKET"
                );
                return Err(Failure::with(exit::UNAVAILABLE, message));
            }
            // In a folder, chunks lie where a recorder writes them.
            Some(Location::Folder(path)) => configured
                .with("HA_RECORDING_STORAGE", "local")
                .with("OPENVIDU_RECORDING_PATH", path),
            Some(Location::Bucket(name)) => configured
                .with("HA_RECORDING_STORAGE", "s3")
                .with("HA_AWS_S3_BUCKET", name),
        };
        let settings = self.data.settle(&variables, variables.settings()?);
        let store = store::open(&settings, &settings.recording_path)?;
        Ok((settings, store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_or_a_bucket() {
        let folder = |path: &str| Ok(Location::Folder(path.into()));
        assert_eq!("/mnt/disk".parse(), folder("/mnt/disk"));
        assert_eq!("s3".parse(), folder("s3"));
        let bucket = Location::Bucket("bucket/a/b".into());
        assert_eq!("s3://bucket/a/b".parse(), Ok(bucket));
        for bad in ["", "s3://", "s3:///", "gs://bucket", "https://host/bucket"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }
}
