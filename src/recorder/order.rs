//! What OpenVidu asks for: the environment of the recording container, read once and checked. The page's address carries
//! OpenVidu's secret; it stays a [`Secret`] and leaves only to Chrome's pipe.

use crate::child::Hidden;
use crate::config::{Faults, Secret, Variables};
use crate::model::ids::{RecordingId, TakeId};
use serde_json::Value;
use std::fmt;

/// What to record, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// The recording's id; `VIDEO_ID`.
    pub recording: RecordingId,
    /// Which recording of that id.
    pub take: TakeId,
    /// The video's file name without extension; `VIDEO_NAME`.
    pub video_name: String,
    /// The page; `URL`.
    pub url: Secret,
    /// Whether there is to be sound; the opposite of `ONLY_VIDEO`.
    pub sound: Sound,
    /// The size of the picture; `RESOLUTION`.
    pub resolution: Resolution,
    /// Frames a second; `FRAMERATE`.
    pub frame_rate: u32,
    /// OpenVidu's view of the recording; `RECORDING_JSON`.
    pub json: Option<Value>,
}

/// Whether a recording has sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sound {
    /// Sound and picture.
    Recorded,
    /// The picture alone.
    None,
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Resolution {
    /// Reads `1280x720`.
    pub fn parse(text: &str) -> Option<Self> {
        let (width, height) = text.split_once('x')?;
        let side = |text: &str| text.parse().ok().filter(|side| (16..=7680).contains(side));
        Some(Self {
            width: side(width)?,
            height: side(height)?,
        })
    }

    /// The largest size within this one that H.264 can take: even on both sides.
    pub const fn even(self) -> Self {
        Self {
            width: self.width & !1,
            height: self.height & !1,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x{}", self.width, self.height)
    }
}

/// What the container is for.
#[derive(Clone, Debug)]
pub enum Assignment {
    /// A composed recording: ours.
    Compose(Box<Order>),
    /// Anything else, which the base image's own entry point does; the word says what.
    Other(String),
}

impl Assignment {
    /// Reads the environment.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(variables: &Variables) -> Result<Self, Faults> {
        let get = |name| variables.get(name);
        let headless = get("HEADLESS_CHROME_ONLY").is_some_and(|text| text == "true");
        match get("CONTAINER_WORKING_MODE") {
            _ if headless => Ok(Self::Other("HEADLESS_CHROME_ONLY".into())),
            Some(mode) if mode != "COMPOSED" => Ok(Self::Other(mode)),
            _ => Order::read(variables).map(|order| Self::Compose(Box::new(order))),
        }
    }
}

impl Order {
    fn read(variables: &Variables) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut take = |name: &str, default: Option<&str>| {
            let text = variables.get(name).or(default.map(str::to_owned));
            if text.is_none() {
                faults.push(format!("{name}: required; OpenVidu gives it"));
            }
            text.unwrap_or_default()
        };
        let url = take("URL", None);
        let id = take("VIDEO_ID", None);
        let video_name = take("VIDEO_NAME", Some(&id));
        let resolution = take("RESOLUTION", Some("1280x720"));
        let frame_rate = take("FRAMERATE", Some("25"));
        let only_video = take("ONLY_VIDEO", Some("false"));
        let format = take("VIDEO_FORMAT", Some("mp4"));
        let json: Option<Value> = variables
            .get("RECORDING_JSON")
            .and_then(|text| serde_json::from_str(&text).ok());

        let mut wrong = |name: &str, text: &str, expected: &str| {
            if !text.is_empty() {
                faults.push(format!("{name}={text}: expected {expected}"));
            }
        };
        let recording = RecordingId::parse(id.as_str())
            .inspect_err(|cause| wrong("VIDEO_ID", &id, &cause.to_string()))
            .ok();
        if let Err(cause) = RecordingId::parse(format!("{video_name}.mp4")) {
            wrong("VIDEO_NAME", &video_name, &cause.to_string());
        }
        let size = Resolution::parse(&resolution);
        if size.is_none() {
            wrong("RESOLUTION", &resolution, "a size such as 1280x720");
        }
        let rate = frame_rate.parse().ok().filter(|n| (1..=120).contains(n));
        if rate.is_none() {
            wrong("FRAMERATE", &frame_rate, "a whole number from 1 to 120");
        }
        if format != "mp4" {
            wrong("VIDEO_FORMAT", &format, "mp4");
        }
        match (recording, size, rate) {
            (Some(recording), Some(resolution), Some(frame_rate)) if faults.is_empty() => {
                Ok(Self {
                    recording,
                    take: take_of(json.as_ref()),
                    video_name,
                    url: Secret::new(url),
                    sound: match only_video.eq_ignore_ascii_case("true") {
                        true => Sound::None,
                        false => Sound::Recorded,
                    },
                    resolution,
                    frame_rate,
                    json,
                })
            }
            _ => Err(Faults(faults)),
        }
    }

    /// A member of `RECORDING_JSON` as text.
    pub fn member(&self, name: &str) -> Option<String> {
        text(self.json.as_ref()?.get(name)?)
    }

    /// `RECORDING_JSON` without the address, which is all in it that could carry a secret.
    pub fn safe_json(&self) -> Option<Value> {
        let mut json = self.json.clone()?;
        json.as_object_mut()?.remove("url");
        Some(json)
    }

    /// Everything that no log may repeat: the address and each secret part of it.
    pub fn hidden(&self) -> Hidden {
        let url = self.url.expose();
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let values = query
            .split(['&', '#'])
            .filter_map(|pair| pair.split_once('='))
            .map(|(_, value)| value.to_owned());
        let user = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'))
            .map(|(user, _)| user.to_owned());
        Hidden::new(
            [url.to_owned(), query.to_owned()]
                .into_iter()
                .chain(values)
                .chain(user),
        )
    }
}

/// Which recording of an id this is. Without any trait of its own it is the only one.
fn take_of(json: Option<&Value>) -> TakeId {
    ["createdAt", "uniqueSessionId"]
        .iter()
        .filter_map(|name| text(json?.get(name)?))
        .find_map(|text| TakeId::parse(text).ok())
        .or_else(|| TakeId::parse("0").ok())
        .unwrap_or_else(|| unreachable!("\"0\" is an id"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openvidu() -> Vec<(&'static str, &'static str)> {
        vec![
            ("CONTAINER_WORKING_MODE", "COMPOSED"),
            (
                "URL",
                "https://OPENVIDUAPP:pa55word@host:4443/layout?secret=MY_SECRET&x=1#abcdef",
            ),
            ("ONLY_VIDEO", "false"),
            ("RESOLUTION", "1280x720"),
            ("FRAMERATE", "25"),
            ("VIDEO_ID", "ses_A~1"),
            ("VIDEO_NAME", "My video"),
            ("VIDEO_FORMAT", "mp4"),
            (
                "RECORDING_JSON",
                r#"{"id":"ses_A~1","createdAt":1795577569120,"url":"s"}"#,
            ),
        ]
    }

    fn order(pairs: Vec<(&'static str, &'static str)>) -> Order {
        match Assignment::read(&Variables::of(pairs)) {
            Ok(Assignment::Compose(order)) => *order,
            other => panic!("no order: {other:?}"),
        }
    }

    #[test]
    fn openvidus_environment_is_an_order() {
        let order = order(openvidu());
        assert_eq!(order.recording.as_str(), "ses_A~1");
        assert_eq!(order.take.as_str(), "1795577569120");
        assert_eq!(order.resolution.to_string(), "1280x720");
        assert_eq!(order.sound, Sound::Recorded);
        assert_eq!(order.safe_json().unwrap().get("url"), None);
    }

    #[test]
    fn no_part_of_the_address_that_is_secret_can_be_said() {
        let order = order(openvidu());
        let said = order.hidden().clean(
            "GET https://OPENVIDUAPP:pa55word@host:4443/layout?secret=MY_SECRET&x=1#abcdef, MY_SECRET, OPENVIDUAPP:pa55word",
        );
        assert!(
            !said.contains("MY_SECRET") && !said.contains("pa55word"),
            "{said}"
        );
        assert!(!format!("{order:?}").contains("MY_SECRET"));
    }

    #[test]
    fn other_modes_are_the_base_images_own() {
        for pair in [
            ("CONTAINER_WORKING_MODE", "COMPOSED_QUICK_START"),
            ("HEADLESS_CHROME_ONLY", "true"),
        ] {
            let assignment = Assignment::read(&Variables::of([pair])).unwrap();
            assert!(matches!(assignment, Assignment::Other(_)), "{pair:?}");
        }
    }

    #[test]
    fn all_faults_of_an_order_come_at_once() {
        let variables = Variables::of([
            ("VIDEO_ID", "../x"),
            ("RESOLUTION", "big"),
            ("FRAMERATE", "0"),
        ]);
        let text = Assignment::read(&variables).unwrap_err().to_string();
        for name in ["URL", "VIDEO_ID", "RESOLUTION", "FRAMERATE"] {
            assert!(text.contains(name), "{name}: {text}");
        }
    }

    #[test]
    fn an_odd_size_is_captured_to_the_even_one_within_it() {
        let odd = Resolution::parse("1279x721").unwrap();
        assert_eq!(odd.even().to_string(), "1278x720");
    }
}
