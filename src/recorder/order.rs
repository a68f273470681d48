//! What OpenVidu asks for: the environment of the recording container, read once and checked. The page's address carries
//! OpenVidu's secret; it stays a [`Secret`] and leaves only to Chrome's pipe.

use super::address;
use crate::child::Hidden;
use crate::clock::Timestamp;
use crate::config::{Faults, Secret, Variables};
use crate::model::ids::{RecordingId, TakeId};
use crate::runtime::QUICK_START;
use serde_json::Value;
use std::collections::BTreeMap;
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

/// The page that is to be seen and heard, and how: what display, sound server and browser need to know.
#[derive(Clone, Debug)]
pub struct View {
    /// The page.
    pub url: Secret,
    /// Whether anybody hears it.
    pub sound: Sound,
    /// The size of the display.
    pub resolution: Resolution,
    /// How many of its pictures a second are recorded.
    pub frame_rate: u32,
}

impl View {
    /// Everything that no log may repeat: the address and each secret part of it.
    pub fn hidden(&self) -> Hidden {
        Hidden::new(address::secrets(self.url.expose()))
    }
}

/// Whether a recording has sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sound {
    /// Sound and picture.
    Recorded,
    /// The picture alone.
    None,
}

impl Sound {
    /// Reads `ONLY_VIDEO`.
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(Self::None),
            "false" => Some(Self::Recorded),
            _ => None,
        }
    }
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
    /// What OpenVidu records with where nothing else is asked for.
    const USUAL: Self = Self {
        width: 1280,
        height: 720,
    };

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
    /// A composed recording: ours. Beside it what was ordered and could not be understood; a default holds for that.
    Compose(Box<Order>, Vec<String>),
    /// A session's page, of which recordings are ordered later, one after the other. Beside it the same.
    QuickStart(View, Vec<String>),
    /// Anything else, which the base image's own entry point does; the word says what.
    Other(String),
}

impl Assignment {
    /// Reads the environment.
    ///
    /// # Errors
    /// When there is no page to record, or nothing to call the recording by.
    pub fn read(variables: &Variables) -> Result<Self, Faults> {
        let get = |name| variables.get(name);
        let headless = get("HEADLESS_CHROME_ONLY").is_some_and(|text| text == "true");
        match get("CONTAINER_WORKING_MODE") {
            _ if headless => Ok(Self::Other("HEADLESS_CHROME_ONLY".into())),
            Some(mode) if mode == QUICK_START => {
                let mut faults = Vec::new();
                let view = View::read(variables, &mut faults)?;
                Ok(Self::QuickStart(view, faults))
            }
            Some(mode) if mode != "COMPOSED" => Ok(Self::Other(mode)),
            _ => {
                let mut faults = Vec::new();
                let order = Order::read(variables, &mut faults)?;
                Ok(Self::Compose(Box::new(order), faults))
            }
        }
    }
}

impl View {
    fn read(variables: &Variables, faults: &mut Vec<String>) -> Result<Self, Faults> {
        let url = required(variables, "URL").map_err(|missing| Faults(vec![missing]))?;
        let mut wishes = Wishes { variables, faults };
        Ok(Self {
            url: Secret::new(url),
            // Whether a recording has sound is known with its order.
            sound: Sound::Recorded,
            resolution: wishes.resolution(),
            frame_rate: wishes.frame_rate(),
        })
    }
}

impl Order {
    /// Reads an order of a recording of `view`, which came by variables as OpenVidu exports them. What they do not say is as the
    /// view has it. Beside the order what could not be understood; a default holds for that.
    ///
    /// # Errors
    /// When there is nothing to call the recording by.
    pub fn of_view(
        view: &View,
        exported: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<String>), Faults> {
        let ours = [
            ("URL", view.url.expose().to_owned()),
            ("RESOLUTION", view.resolution.to_string()),
            ("FRAMERATE", view.frame_rate.to_string()),
        ];
        let mut all: BTreeMap<&str, String> = ours.into();
        let said = exported.iter().filter(|(_, value)| !value.is_empty());
        all.extend(
            said.filter(|(name, _)| *name != "URL")
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        let mut faults = Vec::new();
        let order = Self::read(&Variables::of(all), &mut faults)?;
        Ok((order, faults))
    }

    /// When OpenVidu made it.
    pub fn made_at(&self) -> Option<Timestamp> {
        let millis = self.json.as_ref()?.get("createdAt")?.as_i64()?;
        Some(Timestamp::from_millis(millis))
    }

    /// The page as this recording shows it.
    pub fn view(&self) -> View {
        View {
            url: self.url.clone(),
            sound: self.sound,
            resolution: self.resolution,
            frame_rate: self.frame_rate,
        }
    }

    fn read(variables: &Variables, faults: &mut Vec<String>) -> Result<Self, Faults> {
        let url = required(variables, "URL").map(Secret::new);
        let recording = required(variables, "VIDEO_ID").and_then(|text| {
            RecordingId::parse(text.as_str()).map_err(|cause| format!("VIDEO_ID={text}: {cause}"))
        });
        let (url, recording) = match (url, recording) {
            (Ok(url), Ok(recording)) => (url, recording),
            (url, recording) => {
                let missing = [url.err(), recording.err()];
                return Err(Faults(missing.into_iter().flatten().collect()));
            }
        };
        let mut wishes = Wishes { variables, faults };
        let json = wishes.take("RECORDING_JSON", None, |text| {
            serde_json::from_str(text).map(Some).ok()
        });
        wishes.take("VIDEO_FORMAT", (), |text| (text == "mp4").then_some(()));
        Ok(Self {
            take: take_of(json.as_ref()),
            video_name: wishes.take("VIDEO_NAME", recording.to_string(), |text| {
                let name = RecordingId::parse(format!("{text}.mp4"));
                name.is_ok().then(|| text.to_owned())
            }),
            url,
            sound: wishes.take("ONLY_VIDEO", Sound::Recorded, Sound::parse),
            resolution: wishes.resolution(),
            frame_rate: wishes.frame_rate(),
            json,
            recording,
        })
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
}

/// What OpenVidu says about how to record. Nothing of it ends a recording.
struct Wishes<'a> {
    variables: &'a Variables,
    faults: &'a mut Vec<String>,
}

impl Wishes<'_> {
    fn resolution(&mut self) -> Resolution {
        self.take("RESOLUTION", Resolution::USUAL, Resolution::parse)
    }

    fn frame_rate(&mut self) -> u32 {
        let said = self.variables.get("FRAMERATE");
        let nearest = said.and_then(|text| nearest_rate(&text));
        self.take("FRAMERATE", nearest.unwrap_or(25), |text| {
            text.parse().ok().filter(|rate| RATES.contains(rate))
        })
    }

    /// What is wished by `name`; `usual` where nothing is, or nothing that can be done, which is a fault.
    fn take<T>(&mut self, name: &str, usual: T, read: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = self.variables.get(name) else {
            return usual;
        };
        read(&text).unwrap_or_else(|| {
            // OpenVidu's view of the recording may hold an address with its secret.
            let shown = if name == "RECORDING_JSON" {
                "…"
            } else {
                &text
            };
            let fault = format!("{name}={shown}: OpenVidu's order cannot be understood");
            self.faults.push(fault);
            usual
        })
    }
}

/// Frames a second that can be recorded.
const RATES: std::ops::RangeInclusive<u32> = 1..=120;

/// The rate nearest to one that cannot be recorded as it is.
fn nearest_rate(text: &str) -> Option<u32> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0)?;
    Some((rate.round() as u32).clamp(*RATES.start(), *RATES.end()))
}

fn required(variables: &Variables, name: &str) -> Result<String, String> {
    let missing = || format!("{name}: required; OpenVidu gives it");
    variables.get(name).ok_or_else(missing)
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
            Ok(Assignment::Compose(order, _)) => *order,
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
        let said = order.view().hidden().clean(
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
            ("CONTAINER_WORKING_MODE", "BROADCAST"),
            ("HEADLESS_CHROME_ONLY", "true"),
        ] {
            let assignment = Assignment::read(&Variables::of([pair])).unwrap();
            assert!(matches!(assignment, Assignment::Other(_)), "{pair:?}");
        }
    }

    #[test]
    fn an_order_of_a_page_that_is_open_says_the_rest() {
        let page = [
            ("CONTAINER_WORKING_MODE", QUICK_START),
            ("URL", "https://h/?secret=MY_SECRET"),
            ("RESOLUTION", "1920x1080"),
            ("FRAMERATE", "30"),
        ];
        let Ok(Assignment::QuickStart(view, faults)) = Assignment::read(&Variables::of(page))
        else {
            panic!("no page")
        };
        assert_eq!(faults, Vec::<String>::new());
        let exported = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            Order::of_view(&view, &pairs.collect())
        };
        let (order, faults) = exported(&[
            ("URL", "http://elsewhere/"),
            ("VIDEO_ID", "ses~1"),
            ("RESOLUTION", "640x480"),
            ("FRAMERATE", ""),
            ("ONLY_VIDEO", "true"),
            ("RECORDING_JSON", r#"{"createdAt":12,"name":"it's \"x\""}"#),
        ])
        .unwrap();
        assert_eq!(faults, Vec::<String>::new());
        assert!(order.url.expose().contains("MY_SECRET"));
        assert_eq!(order.resolution.to_string(), "640x480");
        assert_eq!((order.frame_rate, order.sound), (30, Sound::None));
        assert_eq!(order.member("name").as_deref(), Some("it's \"x\""));
        assert!(exported(&[]).unwrap_err().to_string().contains("VIDEO_ID"));
    }

    #[test]
    fn without_a_page_or_an_id_there_is_nothing_to_record() {
        let variables = Variables::of([("VIDEO_ID", "../x"), ("RESOLUTION", "big")]);
        let text = Assignment::read(&variables).unwrap_err().to_string();
        for name in ["URL", "VIDEO_ID"] {
            assert!(text.contains(name), "{name}: {text}");
        }
    }

    #[test]
    fn what_openvidu_says_otherwise_is_recorded_as_well_as_can_be_and_told() {
        let wrong = [
            ("RESOLUTION", "big"),
            ("FRAMERATE", "29.97"),
            ("ONLY_VIDEO", "perhaps"),
            ("VIDEO_NAME", "../../etc/x"),
            ("VIDEO_FORMAT", "webm"),
            ("RECORDING_JSON", "{\"secret\""),
        ];
        let variables = wrong
            .iter()
            .fold(Variables::of(openvidu()), |all, (name, value)| {
                all.with(name, value)
            });
        let Ok(Assignment::Compose(order, faults)) = Assignment::read(&variables) else {
            panic!("no order")
        };
        assert_eq!(order.resolution, Resolution::USUAL);
        assert_eq!(order.frame_rate, 30);
        assert_eq!(order.sound, Sound::Recorded);
        assert_eq!(order.video_name, "ses_A~1");
        assert_eq!(order.json, None);
        let text = faults.join("\n");
        for (name, _) in wrong {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("secret"), "{text}");
        for (rate, taken) in [
            ("0", 25),
            ("240", 120),
            ("-1", 25),
            ("fast", 25),
            ("0.2", 1),
        ] {
            let variables = Variables::of(openvidu()).with("FRAMERATE", rate);
            let Ok(Assignment::Compose(order, faults)) = Assignment::read(&variables) else {
                panic!("no order")
            };
            assert_eq!((order.frame_rate, faults.len()), (taken, 1), "{rate}");
        }
    }

    #[test]
    fn an_odd_size_is_captured_to_the_even_one_within_it() {
        let odd = Resolution::parse("1279x721").unwrap();
        assert_eq!(odd.even().to_string(), "1278x720");
    }
}
