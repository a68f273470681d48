//! What strangers reach: other users and containers of the host, and whoever breaks out of the recorded page.

use crate::record;
use crate::support::docker::{Container, OwnImage, docker, recording_image};
use crate::support::frames::Footage;
use crate::support::openvidu::{OpenVidu, Order, environment};
use crate::support::page::{Page, SECRET};
use crate::support::stage::{leave_out, seconds_now};
use crate::support::vessel::Ground;
use crate::support::wait::until_true;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Chrome's user in the image.
const USER: &str = "ov2-chrome";
/// Its number.
const UID: &str = "47047";
/// What the processes of Chromium and Chrome are called.
const CHROME: [&str; 2] = ["chromium", "chrome"];
/// What a recorder reads beside OpenVidu's order.
const SETTINGS: &str = "HA_CONTROLLER_PASSWORD=in-the-file-of-settings";

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_display_is_for_the_recorders_own_only() {
    let stage = record::Stage::set("ses_display").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let display = Display::of(&recorder);
    // Nobody answers on the host's network, and no stranger can do so in the display's place.
    let name = SocketAddr::from_abstract_name(display.socket.as_os_str().as_bytes()).unwrap();
    let refused = UnixStream::connect_addr(&name).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let taken = UnixListener::bind_addr(&name).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let mode = display.cookie.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!display.lets_in(b""));
    assert!(!display.lets_in(&[7; 16]));
    let file = fs::read(&display.cookie).unwrap();
    assert!(display.lets_in(&file[file.len() - 16..]));
    assert!(!stage.log().contains("does not refresh"), "{}", stage.log());

    // What a recorder leaves that is killed, the next one clears away once it is old enough.
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    assert!(display.socket.exists());
    let left = File::open(display.cookie.parent().unwrap()).unwrap();
    left.set_modified(SystemTime::now() - Duration::from_secs(60))
        .unwrap();
    let mut second = stage.start().await;
    assert!(!display.socket.exists());
    second.grows_for(Duration::from_secs(2)).await;
    let display = Display::of(&second);
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(!display.socket.exists() && !display.cookie.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_xvfb_takes_no_cookie_it_is_recorded_without() {
    let mut stage = record::Stage::set("ses_plain_display").await;
    let bin = stage.folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = "#!/bin/sh\ncase \"$*\" in *-auth*) exit 1;; esac\nexec /usr/bin/Xvfb \"$@\"\n";
    fs::write(bin.join("Xvfb"), script).unwrap();
    fs::set_permissions(bin.join("Xvfb"), Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    stage
        .settings
        .push(("PATH", format!("{}:{path}", bin.display())));
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(stage.log().contains("Xvfb did not start with a cookie"));
    assert!(!stage.log().contains("does not refresh"), "{}", stage.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_cookie_can_be_written_it_is_recorded_without() {
    let mut stage = record::Stage::set("ses_no_cookie").await;
    let temporary = stage.folder.path().join("tmp");
    let disk = match record::Disk::in_memory_at(&stage, temporary.clone(), "size=400m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("where_no_cookie_can_be_written", &why),
    };
    let filler = temporary.join("filler");
    // It ends for want of space.
    let _ = fs::write(&filler, vec![1; 401 << 20]);
    stage
        .settings
        .push(("TMPDIR", temporary.display().to_string()));
    let mut recorder = stage.spawn();
    until_true("the warning", SOON, || {
        stage.log().contains("cookie cannot be written")
    })
    .await;
    fs::remove_file(&filler).unwrap();
    until_true("the video", SOON, || stage.video().exists()).await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn chrome_is_a_user_of_its_own_who_reaches_neither_settings_nor_recording() {
    let test = "chrome_is_a_user_of_its_own";
    let image = match recording_image() {
        Ok(image) => OwnImage::of(&image),
        Err(why) => return leave_out(test, &why),
    };
    let (folder, page) = (tempfile::tempdir().unwrap(), Page::serve().await);
    let recordings = folder.path().join("recordings");
    let ground = Ground::Docker {
        image: image.full(),
    };
    let openvidu = OpenVidu::new(&recordings, ground, None);
    let settings = recordings.join(".env");
    fs::write(&settings, SETTINGS).unwrap();
    fs::set_permissions(&settings, Permissions::from_mode(0o644)).unwrap();
    let id = format!("ses_user_{}", ov2_ha_recorder::random::hex::<4>());
    let recording = openvidu.start(Order::of(&id, &page.url())).await.unwrap();
    let container = recording.vessel.container();
    recording.grows(300_000, SOON).await;
    let first = chrome_of(container);
    assert!(
        !first.is_empty() && first.iter().all(|it| it.uid == UID),
        "{first:?}"
    );

    let video = format!("/recordings/{id}/{id}.mp4");
    let chunks = format!("/recordings/{id}/chunks");
    for path in ["/proc/1/environ", "/recordings/.env", &video, &chunks] {
        let look = format!("if [ -d {path} ]; then ls {path}; else head -c 1 {path}; fi");
        assert!(in_container(container, "root", &look).is_ok(), "{path}");
        let refused = in_container(container, USER, &look).unwrap_err();
        assert!(refused.contains("Permission denied"), "{path}: {refused}");
    }
    // Docker gives the container's environment to what it runs there: only Chrome's own processes are looked at.
    let said = of_chrome(container, "cat $it/environ $it/cmdline");
    assert!(said.contains("DISPLAY="), "{said}");
    for secret in [SECRET, "in-the-file-of-settings"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    let rights = of_chrome(container, "grep -h 'NoNewPrivs\\|CapEff' $it/status");
    let expected = "CapEff:\t0000000000000000\nNoNewPrivs:\t1";
    assert!(rights.starts_with(expected), "{rights}");

    // One that has broken out leaves something behind that keeps writing where Chrome is at home; not until the end, for it
    // takes a processor of its own.
    let home = home_of_chrome(container);
    let littering = format!("while :; do : > {home}/$(date +%N); done");
    let detached = ["exec", "-d", "-u", USER, &container.0, "setsid"];
    let for_a_while = ["timeout", "5", "sh", "-c", &littering];
    docker(&[&detached[..], &for_a_while].concat()).unwrap();
    assert!(kill_chrome(container) > 0);
    let is_back = || {
        let now = chrome_of(container);
        !now.is_empty() && now.iter().all(|it| it.uid == UID && !first.contains(it))
    };
    until_true("the next Chrome", SOON, is_back).await;
    recording.grows(500_000, SOON).await;
    assert_ne!(home_of_chrome(container), home);
    let sealed = openvidu.stop(&recording).await.unwrap();
    let footage = Footage::read(&sealed.video);
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let old = seconds_now() - footage.last_clock();
    assert!(old < 5.0, "the page is not shown: {old} s");
    println!(
        "sound comes later than the picture by {:?}",
        footage.sound_offsets()
    );
    assert!((-0.12..0.1).contains(&footage.sound_offset()));
    let silent = footage.silent_seconds();
    assert!(silent.is_empty(), "no beep at {silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_chrome_cannot_be_another_user_it_is_recorded_all_the_same() {
    let test = "where_chrome_cannot_be_another_user";
    let image = match recording_image() {
        Ok(image) => OwnImage::of(&image),
        Err(why) => return leave_out(test, &why),
    };
    let (folder, page) = (tempfile::tempdir().unwrap(), Page::serve().await);
    let script = folder.path().join("chrome");
    fs::write(&script, "#!/bin/sh\nexec chromium \"$@\"\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let of_root_only = format!(
        "{}:/usr/local/bin/google-chrome-stable:ro",
        script.display()
    );
    let none = folder.path().join("passwd");
    fs::write(&none, "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    let no_user = format!("{}:/etc/passwd:ro", none.display());
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let private = format!("{}:/tmp", closed.display());
    for (option, value, why) in [
        ("--volume", of_root_only.as_str(), "did not start as"),
        ("--volume", &no_user, "there is no user"),
        ("--cap-drop", "KILL", "lacks CAP_KILL"),
        ("--cap-drop", "ALL", "lacks CAP_CHOWN"),
        ("--ulimit", "nproc=2000:4000", "limited to 4000"),
        ("--volume", &private, "/tmp is not for everybody"),
    ] {
        let recorder = Recorder::start(&image.full(), folder.path(), &page.url(), [option, value]);
        recorder.shows_chrome_of("0").await;
        let logs = recorder.container.logs();
        let lines = logs
            .lines()
            .filter(|line| line.contains("the recorder's own user"));
        let lines: Vec<&str> = lines.collect();
        assert!(
            lines.len() == 1 && lines[0].contains(why),
            "{why}: {lines:?}"
        );
    }
    // The limit of the first process is raised as far as it may be.
    let enough = ["--ulimit", "nproc=2000:20000"];
    let recorder = Recorder::start(&image.full(), folder.path(), &page.url(), enough);
    recorder.shows_chrome_of(UID).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_room_for_root_only_costs_no_recording_its_chrome() {
    let test = "a_disk_with_room_for_root_only";
    let image = match recording_image() {
        Ok(image) => OwnImage::of(&image),
        Err(why) => return leave_out(test, &why),
    };
    let stage = record::Stage::set("ses_reserve").await;
    let mounted = stage.folder.path().join("tmp");
    // Nearly half of it is kept for root.
    let disk = match record::Disk::ext4(&stage, mounted.clone(), 800 << 20, &["-m", "45"]) {
        Ok(disk) => disk,
        Err(why) => return leave_out(test, &why),
    };
    let volume = format!("{}:/tmp", mounted.display());
    let start = || {
        let folder = stage.folder.path();
        Recorder::start(
            &image.full(),
            folder,
            &stage.order.url,
            ["--volume", &volume],
        )
    };
    let recorder = start();
    recorder.shows_chrome_of(UID).await;
    let before = home_of_chrome(&recorder.container);
    assert!(before.starts_with("/tmp/"), "{before}");
    fs::write(mounted.join("filler"), vec![1; 250 << 20]).unwrap();
    assert!(kill_chrome(&recorder.container) > 0);
    until_true("the next Chrome", SOON, || {
        !chrome_of(&recorder.container).is_empty()
    })
    .await;
    recorder.shows_chrome_of(UID).await;
    let now = home_of_chrome(&recorder.container);
    assert!(now.starts_with("/dev/shm/"), "{now}");
    drop(recorder);
    // A new one has it as OpenVidu's own.
    let recorder = start();
    recorder.shows_chrome_of("0").await;
    let logs = recorder.container.logs();
    assert!(logs.contains("the disk has room for root only"), "{logs}");
    drop(recorder);
    drop(disk);
}

/// A recorder's display.
struct Display {
    socket: PathBuf,
    cookie: PathBuf,
}

impl Display {
    fn of(recorder: &record::Recorder) -> Self {
        let xvfb = recorder.children("Xvfb", "");
        let line = fs::read_to_string(format!("/proc/{}/cmdline", xvfb[0])).unwrap();
        let mut arguments = line.split('\0');
        let cookie = arguments.clone().skip_while(|it| *it != "-auth").nth(1);
        let number = arguments.find_map(|it| it.strip_prefix(':'));
        Self {
            socket: format!("/tmp/.X11-unix/X{}", number.unwrap()).into(),
            cookie: cookie.unwrap().into(),
        }
    }

    /// Whether a client with this cookie, or with none, is taken.
    fn lets_in(&self, cookie: &[u8]) -> bool {
        const PROTOCOL: &[u8; 20] = b"MIT-MAGIC-COOKIE-1\0\0";
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let name = if cookie.is_empty() { 0 } else { 18 };
        let mut setup = b"l\0\x0b\0\0\0".to_vec();
        for length in [name, cookie.len() as u16, 0] {
            setup.extend(length.to_le_bytes());
        }
        if !cookie.is_empty() {
            setup.extend(PROTOCOL.iter().chain(cookie));
        }
        stream.write_all(&setup).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        answer[0] == 1
    }
}

/// A recorder whose container has one option more than OpenVidu gives.
struct Recorder {
    container: Container,
    video: PathBuf,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.container.remove();
    }
}

impl Recorder {
    fn start(image: &str, folder: &Path, url: &str, option: [&str; 2]) -> Self {
        let id = format!("ses_as_{}", ov2_ha_recorder::random::hex::<4>());
        let recordings = folder.join(&id);
        fs::create_dir(&recordings).unwrap();
        let bind = format!("{}:/recordings", recordings.display());
        let fixed = [
            "run",
            "-d",
            "--network=host",
            "--shm-size=512m",
            "-v",
            &bind,
        ];
        let mut arguments: Vec<String> = fixed
            .iter()
            .chain(&option)
            .map(|it| (*it).to_owned())
            .collect();
        for (name, value) in environment(&Order::of(&id, url), 1) {
            arguments.extend(["-e".into(), format!("{name}={value}")]);
        }
        arguments.push(image.to_owned());
        Self {
            container: Container(docker(&arguments).unwrap()),
            video: recordings.join(&id).join(format!("{id}.mp4")),
        }
    }

    /// Waits until the video grows and Chrome runs, and holds its user against `uid`.
    async fn shows_chrome_of(&self, uid: &str) {
        let size = || self.video.metadata().map_or(0, |data| data.len());
        let before = size();
        until_true("the video", SOON, || size() > before).await;
        let is_there = || !chrome_of(&self.container).is_empty();
        until_true("Chrome", SOON, is_there).await;
        let chrome = chrome_of(&self.container);
        assert!(chrome.iter().all(|it| it.uid == uid), "{chrome:?}");
    }
}

/// A process as the host sees it.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    uid: String,
    pid: String,
}

/// The processes of Chrome.
fn chrome_of(container: &Container) -> Vec<Process> {
    let table = docker(&["top", &container.0, "-eo", "uid,pid,comm"]).unwrap_or_default();
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let chrome = rows.filter(|row| row.len() == 3 && CHROME.contains(&row[2]));
    chrome
        .map(|row| Process {
            uid: row[0].to_owned(),
            pid: row[1].to_owned(),
        })
        .collect()
}

fn kill_chrome(container: &Container) -> usize {
    let killed = CHROME.map(|name| container.signal_processes(name, "KILL"));
    killed.iter().sum()
}

/// What a shell prints that `user` runs in the container.
fn in_container(container: &Container, user: &str, script: &str) -> Result<String, String> {
    docker(&["exec", "-u", user, &container.0, "sh", "-c", script])
}

/// What Chrome's user is told by `look`, which is run for each process of Chrome as `$it`.
fn of_chrome(container: &Container, look: &str) -> String {
    let names = CHROME.join("\\|");
    let script = format!(
        "for comm in $(grep -lx '{names}' /proc/[0-9]*/comm); do it=${{comm%/comm}}; {look}; done 2>/dev/null || true"
    );
    in_container(container, USER, &script).unwrap()
}

fn home_of_chrome(container: &Container) -> String {
    let homes = of_chrome(
        container,
        "tr '\\0' '\\n' < $it/environ | sed -n 's/^HOME=//p'",
    );
    homes.lines().next().unwrap_or_default().to_owned()
}
