//! Identifiers, checked once where they enter. Inside the program a [`RecordingId`] is safe as a folder name, as a part
//! of an object key and in a log line. Copies share their text: every index of every session holds one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest identifier that is accepted, in bytes: what a file system takes as one name.
pub const LONGEST: usize = 255;

/// Why a text is no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("an id must not be empty")]
    Empty,
    /// More than [`LONGEST`] bytes.
    #[error("an id must not be longer than {LONGEST} bytes, this one has {0}")]
    TooLong(usize),
    /// `.` or `..`, which name folders.
    #[error("an id must not be \".\" or \"..\"")]
    Dots,
    /// A `/`, a `\`, or a control character.
    #[error("an id must not contain {0:?}")]
    Character(char),
}

fn check(text: &str) -> Result<(), IdError> {
    match text {
        "" => return Err(IdError::Empty),
        "." | ".." => return Err(IdError::Dots),
        _ if text.len() > LONGEST => return Err(IdError::TooLong(text.len())),
        _ => {}
    }
    match text
        .chars()
        .find(|c| c.is_control() || matches!(c, '/' | '\\'))
    {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, utoipa::ToSchema)]
        #[schema(value_type = String, min_length = 1, max_length = 255, pattern = r"^(?!\.{1,2}$)[^/\\\x00-\x1f\x7f-\x9f]+$")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as an identifier.
            ///
            /// # Errors
            /// When it is empty, too long, or could leave its folder; see [`IdError`].
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text.into()))
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(input)?).map_err(de::Error::custom)
            }
        }
    };
}

id! {
    /// OpenVidu's id of a recording (`ses_A`, `ses_A~1`, …). Used again after its recording is deleted: with a
    /// [`TakeId`] it names one recording.
    RecordingId
}

id! {
    /// One recording among those that bore the same id: OpenVidu's `createdAt` in milliseconds, or, where that is
    /// missing, its `uniqueSessionId`.
    TakeId
}

id! {
    /// A container's id as Docker gives it, or a process's under the process runtime.
    ContainerId
}

impl RecordingId {
    /// The name OpenVidu gives the recording's container.
    pub fn container_name(&self) -> String {
        format!("recording_{}", self.0.replace('~', "_"))
    }
}

/// One recorder's life within a take, counted from 1.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct RunNumber(pub u32);

impl RunNumber {
    /// The run after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RunNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_folder() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a\nb",
            "a\u{7f}",
            &"x".repeat(256),
        ] {
            assert!(RecordingId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["ses_A", "ses_A~1", "ä ö", "...", &"x".repeat(255)] {
            assert!(RecordingId::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_container_is_named_as_openvidu_names_it() {
        let id = RecordingId::parse("ses~A~1").unwrap();
        assert_eq!(id.container_name(), "recording_ses_A_1");
    }
}
