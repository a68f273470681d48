//! Everything one story needs, and nothing that another one has: an image name, a recordings folder, the page, a controller
//! and an OpenVidu. It is all cleared away in the end.

use super::controller::Controller;
use super::docker::{OwnImage, recording_image};
use super::frames::{self, Footage};
use super::openvidu::{OpenVidu, Order, Recording, Sealed};
use super::page::Page;
use super::target::Target;
use super::vessel::Ground;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A stage.
#[derive(Debug)]
pub struct Stage {
    /// The server whose recordings are kept.
    pub openvidu: OpenVidu,
    /// What watches over them.
    pub controller: Controller,
    /// The customer, who is told what OpenVidu and the controller say.
    pub customer: Target,
    /// What is recorded.
    pub page: Page,
    /// The image under a name of its own, where recorders run in Docker.
    pub image: Option<OwnImage>,
    /// Where everything lies.
    pub folder: PathBuf,
}

impl Stage {
    /// Sets everything up below `folder`.
    ///
    /// # Errors
    /// When Docker or the image cannot be had.
    pub async fn set(
        binary: &Path,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, String> {
        let image = OwnImage::of(&recording_image()?);
        let name = image.name.clone();
        let all = [("IMAGE_NAME", name.as_str()), ("IMAGE_TAG", OwnImage::TAG)];
        let ground = Ground::Docker {
            image: image.full(),
        };
        Ok(Self::with(
            binary,
            folder,
            ground,
            Some(image),
            &[&all, settings].concat(),
        )
        .await)
    }

    /// The same where recorders are processes of this machine.
    ///
    /// # Errors
    /// When the process runtime cannot be used.
    pub async fn of_processes(
        binary: &Path,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, String> {
        let root = folder.join("controller/data/processes");
        let runtime = ProcessRuntime::open(&root, binary).map_err(|cause| cause.to_string())?;
        let ground = Ground::Processes { runtime, root };
        let all = [&[("HA_RUNTIME", "process")], settings].concat();
        Ok(Self::with(binary, folder, ground, None, &all).await)
    }

    async fn with(
        binary: &Path,
        folder: &Path,
        ground: Ground,
        image: Option<OwnImage>,
        settings: &[(&str, &str)],
    ) -> Self {
        let (recordings, customer) = (folder.join("recordings"), Target::agreeable().await);
        let endpoint = customer.url();
        let relay = [
            ("OPENVIDU_WEBHOOK", "true"),
            ("OPENVIDU_WEBHOOK_ENDPOINT", endpoint.as_str()),
        ];
        let settings = [&relay, settings].concat();
        let controller =
            Controller::start(binary, &folder.join("controller"), &recordings, &settings).await;
        let webhook = controller.url("/openvidu/webhook");
        Self {
            openvidu: OpenVidu::new(&recordings, ground, Some(webhook)),
            controller,
            customer,
            page: Page::serve().await,
            image,
            folder: folder.to_owned(),
        }
    }

    /// What a client orders for `id`: the page of this stage.
    pub fn order(&self, id: &str) -> Order {
        Order::of(id, &self.page.url())
    }
}

/// When the main story kills the recorder, and when it ends.
pub const KILL_AT: Duration = Duration::from_secs(12);
/// See [`KILL_AT`].
pub const STOP_AT: Duration = Duration::from_secs(30);

/// What the main story left.
#[derive(Debug)]
pub struct Played {
    /// The recording.
    pub recording: Recording,
    /// When the recorder was killed, in seconds since the epoch.
    pub killed_at: f64,
    /// The sealed recording.
    pub sealed: Sealed,
    /// What the video shows.
    pub footage: Footage,
}

impl Stage {
    /// The main story: 30 s of a page, the recorder's first process killed at 12 s, stopped as OpenVidu stops.
    ///
    /// # Errors
    /// When OpenVidu would have failed the recording.
    pub async fn play(&self, id: &str, mut say: impl FnMut(&str)) -> Result<Played, String> {
        let recording = self.openvidu.start(self.order(id)).await?;
        let begin = tokio::time::Instant::now();
        say(&format!(
            "OpenVidu sees the video after {:.1} s",
            recording.start_took.as_secs_f64()
        ));
        tokio::time::sleep_until(begin + KILL_AT).await;
        let killed_at = seconds_now();
        recording.vessel.kill_first_process();
        say("12 s: killed the recorder's first process");
        tokio::time::sleep_until(begin + STOP_AT).await;
        let sealed = self.openvidu.stop(&recording).await?;
        say(&format!(
            "30 s: stopped; finished {:.2} s later",
            sealed.stop_took.as_secs_f64()
        ));
        let footage = Footage::read(&sealed.video);
        Ok(Played {
            recording,
            killed_at,
            sealed,
            footage,
        })
    }
}

impl Played {
    /// What is missing, for a person.
    pub fn holes(&self) -> String {
        frames::describe(&self.footage.holes())
    }
}

/// The wall clock in seconds since the epoch.
pub fn seconds_now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Says that a test is left out and why. Where all must run (`OV2_TEST_ALL`) that is a failure.
pub fn leave_out(test: &str, why: &str) {
    assert!(
        std::env::var_os("OV2_TEST_ALL").is_none(),
        "{test} cannot run: {why}"
    );
    // Straight to standard error: what a passing test prints is not shown.
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {test}: {why}");
}
