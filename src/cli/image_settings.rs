//! What the recording image itself tells its recorders: a file in its last layer. It is read without running anything of the
//! image: a container is made, the file is copied out of it, and the container is removed.

use super::Failure;
use super::record::IMAGE_ENV_FILE;
use super::system::{Call, image_is_ours};
use crate::random;
use std::io::{self, Read};
use std::time::Duration;

/// How long Docker may take for each of the three steps.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is longer is no file of settings.
const MOST_BYTES: u64 = 1 << 20;

/// What `image` tells its recorders; `None` where it has no such file.
///
/// # Errors
/// When Docker does not answer in time, or the image is not there.
pub(super) async fn read(image: &str) -> Result<Option<String>, Failure> {
    let name = format!("ov2-ha-recorder-look-{}", random::hex::<6>());
    let create = ["create", "--pull=never", "--name", &name, image];
    let found = match Call::of("docker", create).output_within(PATIENCE).await {
        Ok(_) => copied(&name).await,
        Err(failure) => Err(failure),
    };
    // Also where it could not be made in time: it may be there by now. If it is not, nothing is to be removed.
    let remove = Call::of("docker", ["rm", "-f", "-v", &name]);
    let _ = remove.ended_within(PATIENCE).await;
    found
}

/// Whether the recording image tells its recorders `text` and nothing else.
pub(super) fn has(image: &str, text: &str) -> bool {
    let said = || super::wait(read(image)).ok().flatten();
    image_is_ours(image) == Some(true) && said().as_deref() == Some(text)
}

async fn copied(container: &str) -> Result<Option<String>, Failure> {
    let place = format!("{container}:{IMAGE_ENV_FILE}");
    let copy = Call::of("docker", ["cp", &place, "-"]);
    let ended = copy.ended_within(PATIENCE).await?;
    if ended.status.success() {
        let unpacked = unpacked(&ended.stdout);
        return unpacked.map(Some).map_err(|cause| {
            Failure::new(format!(
                "{IMAGE_ENV_FILE} of the image cannot be read: {cause}"
            ))
        });
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    match says_that_it_is_missing(&said) {
        true => Ok(None),
        false => Err(Failure::new(format!("docker cp failed: {}", said.trim()))),
    }
}

/// In the words of all versions since 20.10; their exit code is that of every failure.
fn says_that_it_is_missing(said: &str) -> bool {
    let words = ["Could not find the file", "No such container:path"];
    words.iter().any(|it| said.contains(it))
}

/// The text of the one file in an archive.
fn unpacked(archive: &[u8]) -> io::Result<String> {
    let mut archive = tar::Archive::new(archive);
    let first = archive.entries()?.next();
    let entry = first.ok_or_else(|| io::Error::other("Docker sends nothing"))??;
    if !entry.header().entry_type().is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    entry.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: tar::EntryType, text: &str) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        let added = archive.append_data(&mut header, "ov2-ha-recorder.env", text.as_bytes());
        added.unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_file_is_read_and_nothing_else_is_taken_for_one() {
        let read = |kind, text: &str| unpacked(&archive(kind, text)).ok();
        let file = read(tar::EntryType::Regular, "A=1\n");
        assert_eq!(file.as_deref(), Some("A=1\n"));
        assert_eq!(read(tar::EntryType::Regular, "").as_deref(), Some(""));
        assert_eq!(read(tar::EntryType::Directory, ""), None);
        assert_eq!(unpacked(b"").ok(), None);
    }

    #[test]
    fn a_missing_file_is_told_from_a_docker_that_fails() {
        for (said, is_missing) in [
            (
                "Error: No such container:path: look:/etc/ov2-ha-recorder.env",
                true,
            ),
            (
                "Error response from daemon: Could not find the file /etc/ov2-ha-recorder.env in container look",
                true,
            ),
            ("Cannot connect to the Docker daemon", false),
            ("Error response from daemon: No such container: look", false),
        ] {
            assert_eq!(says_that_it_is_missing(said), is_missing, "{said}");
        }
    }
}
