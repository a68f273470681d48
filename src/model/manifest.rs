//! What lies beside a take's chunks in the store: enough to finish the video on any machine, and no secret. A controller
//! that has forgotten everything, or an operator with nothing but the bucket, starts from this.

use super::chunk::TakeKey;
use super::ids::{RecordingId, TakeId};
use super::timeline::GapMode;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the file's format.
pub const VERSION: u32 = 1;

/// What `manifest.json` holds. Written by every run of the take when it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The recording's id.
    pub recording: RecordingId,
    /// Which recording of that id.
    pub take: TakeId,
    /// The video's file name without extension.
    pub video_name: String,
    /// OpenVidu's `RECORDING_JSON`; made safe by [`Manifest::to_json`].
    #[serde(default)]
    pub recording_json: Option<Value>,
    /// Frames a second.
    pub frame_rate: u32,
    /// Width and height, as OpenVidu writes them: `1280x720`.
    pub resolution: String,
    /// Whether there is no sound track.
    #[serde(default)]
    pub only_video: bool,
    /// What becomes of gaps.
    #[serde(default)]
    pub gap_mode: GapMode,
    /// When the run that wrote this began.
    pub created_at: Timestamp,
}

impl Manifest {
    /// The text to store, without anything that could be a secret: URLs lose user, password, query and fragment.
    pub fn to_json(&self) -> String {
        let mut safe = self.clone();
        if let Some(json) = &mut safe.recording_json {
            strip_urls(json);
        }
        // Strings, numbers and enums always have a JSON form.
        serde_json::to_string_pretty(&safe).unwrap_or_default()
    }

    /// Reads a stored manifest and checks that it belongs to `take`.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn parse(take: &TakeKey, text: &[u8]) -> Result<Self, String> {
        let wrong = |cause: String| format!("{} cannot be used: {cause}", take.manifest());
        let manifest: Self =
            serde_json::from_slice(text).map_err(|cause| wrong(cause.to_string()))?;
        if manifest.version > VERSION {
            return Err(wrong(format!(
                "it has version {}, this program reads up to {VERSION}; use a newer one",
                manifest.version
            )));
        }
        if manifest.recording != take.recording || manifest.take != take.take {
            return Err(wrong(format!(
                "it speaks of take {} of recording {}",
                manifest.take, manifest.recording
            )));
        }
        if RecordingId::parse(manifest.video_name.as_str()).is_err() {
            return Err(wrong("the video's name is no file name".into()));
        }
        Ok(manifest)
    }
}

fn strip_urls(json: &mut Value) {
    match json {
        Value::String(text) => {
            if let Some(safe) = without_secrets(text) {
                *text = safe;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip_urls),
        Value::Object(members) => members.values_mut().for_each(strip_urls),
        _ => {}
    }
}

/// The URL `text` without user, password, query and fragment; `None` when it is no URL.
fn without_secrets(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    Some(format!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take() -> TakeKey {
        TakeKey {
            recording: RecordingId::parse("ses_A~1").unwrap(),
            folder: "chunks".into(),
            take: TakeId::parse("1795577569120").unwrap(),
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            version: VERSION,
            recording: take().recording,
            take: take().take,
            video_name: "My recording".into(),
            recording_json: Some(json!({
                "id": "ses_A~1",
                "url": "https://OPENVIDUAPP:hidden@host:4443/recordings/a.mp4?token=hidden#hidden",
                "createdAt": 1_795_577_569_120_i64,
            })),
            frame_rate: 25,
            resolution: "1280x720".into(),
            only_video: false,
            gap_mode: GapMode::Cut,
            created_at: Timestamp::from_millis(1_795_577_569_120),
        }
    }

    #[test]
    fn a_manifest_reads_back_without_its_secrets() {
        let text = manifest().to_json();
        assert!(!text.contains("hidden"), "{text}");
        let read = Manifest::parse(&take(), text.as_bytes()).unwrap();
        let json = read.recording_json.clone().unwrap();
        assert_eq!(json["url"], "https://host:4443/recordings/a.mp4");
        assert_eq!(json["createdAt"], 1_795_577_569_120_i64);
        assert_eq!(read.video_name, "My recording");
    }

    #[test]
    fn a_manifest_of_version_1_is_read_for_ever() {
        let text = r#"{"version":1,"recording":"ses_A~1","take":"1795577569120","videoName":"v",
            "frameRate":25,"resolution":"1280x720","createdAt":"2026-11-25T03:32:49.12Z"}"#;
        assert_eq!(
            Manifest::parse(&take(), text.as_bytes()).unwrap().version,
            1
        );
    }

    #[test]
    fn a_manifest_that_does_not_fit_is_refused_with_the_reason() {
        for (change, reason) in [
            (json!({"version": 9}), "version 9"),
            (json!({"take": "other"}), "take other"),
            (json!({"videoName": "../x"}), "no file name"),
        ] {
            let mut value = serde_json::to_value(manifest()).unwrap();
            for (name, new) in change.as_object().unwrap() {
                value[name] = new.clone();
            }
            let said = Manifest::parse(&take(), value.to_string().as_bytes()).unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
        assert!(Manifest::parse(&take(), b"{").is_err());
    }
}
