//! What OpenVidu's own recorder makes of a page. Its image cannot be had on every machine: [`SHOW`], [`RECORD`] and [`STOP`]
//! stand in, run in our recording image. They are a reconstruction, in our words, of what OpenVidu's published scripts do, with
//! the same waits, programs and options. Left out is what only costs time there: `xvfb-run`'s cookies, the search for a free
//! display, and the copies of their environment that are printed.

use super::docker::{Container, docker, recording_image};
use super::frames::Footage;
use super::openvidu::{Order, PATIENCE, environment, quick_environment};
use super::wait;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What OpenVidu's scripts do until the page is opened; `DISPLAY_NUMBER` is a free one.
const SHOW: &str = r#"
rm -rf /var/run/pulse /var/lib/pulse /root/.config/pulse
pulseaudio -D --system --disallow-exit --disallow-module-loading
browser=$(command -v google-chrome || command -v chromium)
with_display() { # as xvfb-run: the browser follows when the display says that it is ready
  trap : USR1
  (trap '' USR1; exec Xvfb ":$DISPLAY_NUMBER" -ac -screen 0 "${RESOLUTION}x24" -noreset -nolisten tcp) &
  wait
  DISPLAY=:$DISPLAY_NUMBER exec "$@"
}
with_display "$browser" --kiosk --start-maximized --test-type --no-sandbox --disable-infobars --disable-gpu \
  --disable-popup-blocking --window-size="${RESOLUTION/x/,}" --window-position=0,0 --no-first-run \
  --ignore-certificate-errors --disable-dev-shm-usage --autoplay-policy=no-user-gesture-required \
  --disable-sync --no-default-browser-check --disable-component-update --disable-background-networking \
  --disable-default-apps --simulate-outdated-no-au='Thu, 31 Dec 2099 23:59:59 GMT' \
  --disable-features=Translate,WebRtcHideLocalIpsWithMdns "$URL" &> /xvfb.log &
until pidof Xvfb > /dev/null; do sleep 0.1; done
"#;

/// What they do from then until ffmpeg writes the file, and until ffmpeg ends.
const RECORD: &str = r#"
mkdir -p "/recordings/$VIDEO_ID"; chmod 777 "/recordings/$VIDEO_ID"
echo "$RECORDING_JSON" > "/recordings/$VIDEO_ID/.recording.$VIDEO_ID"
rm -f /stop; touch /stop
sound=(-f alsa -i pulse)
[ "$ONLY_VIDEO" = true ] && sound=()
ffmpeg -y "${sound[@]}" -f x11grab -draw_mouse 0 -framerate "$FRAMERATE" -video_size "$RESOLUTION" \
  -i ":$DISPLAY_NUMBER" -c:a aac -c:v libx264 -preset ultrafast -crf 28 -refs 4 -qmin 4 -pix_fmt yuv420p \
  -filter:v "fps=$FRAMERATE" "/recordings/$VIDEO_ID/$VIDEO_NAME.mp4" < /stop
"#;

/// What the quick-start script does to end a recording and to describe it.
const STOP: &str = r#"
ffmpeg=$(pgrep -x ffmpeg)
echo q > /stop && tail --pid="$ffmpeg" -f /dev/null
video=/recordings/$VIDEO_ID/$VIDEO_NAME.mp4
ffprobe -v quiet -print_format json -show_format -show_streams "$video" > "/recordings/$VIDEO_ID/$VIDEO_ID.info"
seconds=$(ffmpeg -i "$video" 2>&1 | sed -n 's/.*Duration: 00:00:\([0-9.]*\),.*/\1/p')
ffmpeg -ss "$(awk "BEGIN { print $seconds / 2 }")" -i "$video" -vframes 1 -s 480x270 "/recordings/$VIDEO_ID/$VIDEO_ID.jpg"
"#;

/// When OpenVidu began the recordings.
pub const CREATED_AT: u64 = 1_795_577_569_120;

/// Who records in a container.
#[derive(Clone, Copy, Debug)]
pub enum Plays<'a> {
    /// This program of ours.
    Ours(&'a Path),
    /// The stand-in for OpenVidu's.
    Stock,
}

/// A container as OpenVidu makes it for `order`, not started.
pub fn create(image: &str, order: &Order, recordings: &Path, who: Plays<'_>) -> Container {
    let script = format!("{SHOW}{RECORD}");
    made(
        image,
        &environment(order, CREATED_AT),
        recordings,
        who,
        &script,
    )
}

/// A container as OpenVidu makes it for a session in quick-start mode, with `more` in its environment; not started.
pub fn create_open(
    image: &str,
    order: &Order,
    more: &[(&'static str, String)],
    recordings: &Path,
    who: Plays<'_>,
) -> Container {
    let actions = format!(
        "#!/bin/bash\ncase $1 in\n--start-recording) export -p > /order\n{RECORD};;\n--stop-recording) . /order\n{STOP};;\nesac\n"
    );
    let script = format!(
        "printf %s \"$ACTIONS\" > /composed_quick_start.sh; chmod 755 /composed_quick_start.sh\n{SHOW}\nsleep infinity"
    );
    let mut environment = quick_environment(order);
    environment.push(("ACTIONS", actions));
    environment.extend_from_slice(more);
    made(image, &environment, recordings, who, &script)
}

fn made(
    image: &str,
    environment: &[(&'static str, String)],
    recordings: &Path,
    who: Plays<'_>,
    script: &str,
) -> Container {
    let mut create: Vec<String> = "create --network host --shm-size 536870912"
        .split(' ')
        .map(str::to_owned)
        .collect();
    create.extend(["-v".into(), format!("{}:/recordings", recordings.display())]);
    let more = [
        ("DISPLAY_NUMBER", own_display().to_string()),
        ("HA_CONTROLLER_PORT", "1".to_owned()),
    ];
    let all = environment.iter().chain(&more);
    create.extend(all.flat_map(|(name, value)| ["-e".into(), format!("{name}={value}")]));
    match who {
        Plays::Ours(program) => {
            let program = program.canonicalize().unwrap();
            let at = "/usr/local/bin/ov2-ha-recorder:ro";
            create.extend(["-v".into(), format!("{}:{at}", program.display())]);
            create.push(image.to_owned());
        }
        Plays::Stock => {
            create.extend(["--entrypoint", "bash", image, "-c", script].map(str::to_owned));
        }
    }
    Container(docker(&create).unwrap())
}

/// The containers have the host's network, and so its displays: one that another container has would never be ready.
fn own_display() -> u32 {
    static EARLIER: AtomicU32 = AtomicU32::new(0);
    let of_process = std::process::id() % 100;
    300 + of_process * 100 + EARLIER.fetch_add(1, Ordering::Relaxed) % 100
}

/// What the stand-in records of `order` in `length`.
///
/// # Errors
/// Where there is no Docker or no recording image.
pub async fn records(order: &Order, length: Duration) -> Result<Footage, String> {
    let image = recording_image()?;
    let folder = tempfile::tempdir().unwrap();
    let order = Order {
        id: "stock".into(),
        name: "stock".into(),
        ..order.clone()
    };
    let container = Removed(create(&image, &order, folder.path(), Plays::Stock));
    docker(&["start", &container.0.0])?;
    let video = folder.path().join("stock/stock.mp4");
    wait::until_true("OpenVidu's own file", PATIENCE, || {
        fs::metadata(&video).is_ok_and(|file| file.len() > 0)
    })
    .await;
    tokio::time::sleep(length).await;
    docker(&["exec", &container.0.0, "bash", "-c", "echo 'q' > stop"])?;
    docker(&["wait", &container.0.0])?;
    Ok(Footage::read(&video))
}

/// Goes away with the test.
struct Removed(Container);

impl Drop for Removed {
    fn drop(&mut self) {
        self.0.remove();
    }
}
