//! The display's refresh rate. Xvfb reports a mode of 0 Hz, and Chromium then draws 60 times a second, of which a recording
//! at 25 frames a second takes every second or third picture: a third of the container's processor time is lost, and
//! movement is uneven (33 and 50 ms between frames). With a RandR mode that has the recording's own rate Chromium draws at
//! that rate. The mode is made over a connection that stays open: Xvfb ends, or starts anew with its first mode, when its
//! last client goes.

use super::display::Display;
use crate::recorder::cookie::Cookie;
use crate::recorder::number;
use crate::recorder::order::Resolution;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;
use x11rb::connection::Connection as _;
use x11rb::errors::ReplyOrIdError;
use x11rb::protocol::randr::{ConnectionExt as _, ModeInfo, Rotation, SetConfig};
use x11rb::rust_connection::{DefaultStream, RustConnection};

/// How long the server may take to set a mode; it answers within a few milliseconds.
const SET: Duration = Duration::from_secs(2);
/// How often Chromium draws, in Hz, where a display says nothing.
pub(super) const UNSET: u32 = 60;
/// A display of ours has one screen.
const SCREEN: usize = 0;
/// Chromium itself draws at this rate at least, whatever the display says.
const LEAST: u32 = 20;

/// Holds the mode: dropped, the display may fall back to its first one.
#[derive(Debug)]
pub(super) struct Mode {
    _connection: RustConnection,
}

/// The rate in Hz for a recording of `frame_rate` frames a second: itself, or its smallest multiple that is not below
/// [`LEAST`].
pub(super) fn rate_for(frame_rate: u32) -> u32 {
    let frame_rate = frame_rate.max(1);
    frame_rate * LEAST.div_ceil(frame_rate)
}

/// Has `display` refresh `rate` times a second.
///
/// # Errors
/// A sentence, when the server cannot be reached or refuses. The display then refreshes as it did before.
pub(super) async fn set(
    display: Display,
    cookie: Option<&Cookie>,
    size: Resolution,
    rate: u32,
) -> Result<Mode, String> {
    let cookie = cookie.cloned();
    let setting =
        tokio::task::spawn_blocking(move || set_mode(display, cookie.as_ref(), size, rate));
    let refused =
        |cause: String| format!("the display does not refresh {rate} times a second: {cause}");
    match tokio::time::timeout(SET, setting).await {
        Ok(Ok(Ok(mode))) => Ok(mode),
        Ok(Ok(Err(cause))) => Err(refused(cause)),
        Ok(Err(cause)) => Err(refused(cause.to_string())),
        Err(_) => Err(refused(format!("Xvfb did not answer within {SET:?}"))),
    }
}

fn set_mode(
    display: Display,
    cookie: Option<&Cookie>,
    size: Resolution,
    rate: u32,
) -> Result<Mode, String> {
    let clock = size.width.checked_mul(size.height);
    if clock.and_then(|pixels| pixels.checked_mul(rate)).is_none() {
        return Err(format!("no mode of {size} can have that rate"));
    }
    let connection = connect(display, cookie)?;
    let root = connection.setup().roots[SCREEN].root;
    match apply(&connection, root, size, rate) {
        Ok(SetConfig::SUCCESS) => Ok(Mode {
            _connection: connection,
        }),
        Ok(status) => Err(format!("Xvfb answers {status:?}")),
        Err(cause) => Err(cause.to_string()),
    }
}

fn connect(display: Display, cookie: Option<&Cookie>) -> Result<RustConnection, String> {
    let path = number::socket(display.number());
    let stream = UnixStream::connect(&path).or_else(|_| {
        // Xvfb has no other where it may not create the file.
        let name = SocketAddr::from_abstract_name(path.as_os_str().as_bytes())?;
        UnixStream::connect_addr(&name)
    });
    let stream = stream.and_then(DefaultStream::from_unix_stream);
    let (stream, _) = stream.map_err(|cause| format!("{}: {cause}", path.display()))?;
    let (name, data) = cookie.map(Cookie::authorization).unwrap_or_default();
    RustConnection::connect_to_stream_with_auth_info(stream, SCREEN, name, data)
        .map_err(|cause| cause.to_string())
}

fn apply(
    connection: &RustConnection,
    root: u32,
    size: Resolution,
    rate: u32,
) -> Result<SetConfig, ReplyOrIdError> {
    let resources = connection
        .randr_get_screen_resources_current(root)?
        .reply()?;
    let (Some(crtc), Some(output)) = (resources.crtcs.first(), resources.outputs.first()) else {
        return Ok(SetConfig::FAILED);
    };
    let name = format!("{size}_{rate}");
    let info = mode_info(size, rate, &name);
    let mode = connection
        .randr_create_mode(root, info, name.as_bytes())?
        .reply()?
        .mode;
    connection.randr_add_output_mode(*output, mode)?.check()?;
    let set = connection.randr_set_crtc_config(
        *crtc,
        x11rb::CURRENT_TIME,
        resources.config_timestamp,
        0,
        0,
        mode,
        Rotation::ROTATE0,
        &[*output],
    )?;
    Ok(set.reply()?.status)
}

/// A mode without any time outside the picture, whose clock gives `rate` pictures a second.
fn mode_info(size: Resolution, rate: u32, name: &str) -> ModeInfo {
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    let (width, height) = (side(size.width), side(size.height));
    ModeInfo {
        width,
        height,
        dot_clock: size.width * size.height * rate,
        hsync_start: width,
        hsync_end: width,
        htotal: width,
        vsync_start: height,
        vsync_end: height,
        vtotal: height,
        name_len: u16::try_from(name.len()).unwrap_or(u16::MAX),
        ..ModeInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_recordings_own_or_a_multiple_that_chromium_follows() {
        for (frames, rate) in [
            (25, 25),
            (30, 30),
            (60, 60),
            (20, 20),
            (15, 30),
            (10, 20),
            (1, 20),
            (7, 21),
        ] {
            assert_eq!(rate_for(frames), rate, "{frames} frames a second");
        }
    }
}
