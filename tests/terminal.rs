//! The commands in a real terminal, as tmux gives one: what a person sees, held against what was seen before. After an
//! intended change `OV2_KEEP=1 cargo test --test integration terminal` keeps the new sight.

use crate::operator::openvidu;
use crate::support::controller::Controller;
use crate::support::secrets;
use crate::support::stage::leave_out;
use crate::support::wait::until;
use reqwest::Method;
use serde_json::json;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");
const SOON: Duration = Duration::from_secs(30);
/// Rows of a terminal that holds all of a command's output.
const LONG: &str = "-y2000";

/// A terminal of 100 columns with a shell in it.
struct Terminal {
    socket: PathBuf,
    runs: Cell<u32>,
}

impl Terminal {
    fn open(folder: &Path, rows: &str) -> Option<Self> {
        let terminal = Self {
            socket: folder.join(format!("tmux{rows}")),
            runs: Cell::new(0),
        };
        let opened = terminal.tmux(&["-f/dev/null", "new-session", "-d", "-x100", rows, "sh"]);
        opened.ok().filter(|output| output.status.success())?;
        terminal.type_in("PS1=; clear");
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("tmux");
        for setting in ov2_ha_recorder::config::TABLE {
            command.env_remove(setting.name);
        }
        command.arg("-S").arg(&self.socket).args(arguments).output()
    }

    fn type_in(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]).unwrap();
        self.tmux(&["send-keys", "Enter"]).unwrap();
    }

    /// What stands there, with its colours; a line that the terminal had to fold is one line.
    fn sight(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p", "-e", "-J"]).unwrap();
        secrets::said(&shown)
    }

    /// Types `line`, and behind it what marks its end; the mark.
    fn begin(&self, line: &str) -> String {
        self.runs.set(self.runs.get() + 1);
        let mark = format!("run {} ended with", self.runs.get());
        self.type_in(&format!("clear; {line}; code=$?; echo {mark} $code"));
        mark
    }

    /// Waits for the mark; what is shown then, with its colours, and the exit code.
    async fn end(&self, mark: &str) -> (String, i32) {
        let (_, seen) = until(mark, SOON, || async {
            let sight = self.sight();
            let text = plain(&sight);
            let (shown, end) = text.rsplit_once(&format!("{mark} "))?;
            // The line itself is echoed by the terminal before it is cleared.
            let over = !shown.contains(mark);
            let code = end.split_whitespace().next()?;
            over.then_some((sight, code.parse().ok()?))
        })
        .await;
        seen
    }

    /// Runs `line` to its end.
    async fn run(&self, line: &str) -> (String, i32) {
        self.end(&self.begin(line)).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The names of all commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, list) = help.split_once("Commands:\n").unwrap();
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Without colours and the terminal's padding.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out += before;
        rest = after
            .split_once(|c: char| c.is_ascii_alphabetic())
            .map_or("", |(_, it)| it);
    }
    out += rest;
    let lines = out.lines().map(str::trim_end).collect::<Vec<_>>();
    lines.join("\n").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_teaches_its_use() {
    let folder = tempfile::tempdir().unwrap();
    let Some(terminal) = Terminal::open(folder.path(), LONG) else {
        return leave_out("every_command_teaches_its_use", "tmux is missing");
    };
    let mut all = String::new();
    for command in commands() {
        let (shown, code) = terminal.run(&format!("{PROGRAM} {command} --help")).await;
        assert_eq!(code, 0, "{command}: {shown}");
        let shown = plain(&shown);
        let (shown, _mark) = shown.rsplit_once('\n').unwrap();
        all += &format!(
            "$ ov2-ha-recorder {command} --help\n{}\n\n",
            shown.trim_end()
        );
    }
    keep("help.txt", &all);
}

/// Every command as it is tried beside a service that records nothing, on a machine that has neither Docker nor systemd:
/// what cannot be done there is said in a sentence. `{}` is the test's folder.
const TRIED: &[&str] = &[
    "serve",
    "record",
    "ask",
    "start",
    "stop",
    "restart",
    "status",
    "logs",
    "health",
    "failovers",
    "failovers ses_none",
    "validate",
    "doctor -o {}/doctor.tar.gz",
    "config HA_CONTROLLER_PASSWORD CHUNK_TIME_SIZE",
    "test-api",
    "test-s3",
    "test-recording",
    "test-failover",
    "recover",
    "join {}/none -o {}/joined.mp4",
    "timeline ses_none",
    "monitor --json | head -n 1",
    "clean",
    "backup -o {}/backup.tar.gz",
    "restore --check {}/backup.tar.gz",
    "restore {}/backup.tar.gz",
    "reset",
    "update",
    "install --auto --dry-run --without-image --without-service {}/openvidu",
    "reconfigure --dry-run --without-service {}/openvidu",
    "uninstall --without-image --without-service",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_says_what_it_said_before() {
    let name = "every_command_says_what_it_said_before";
    let folder = tempfile::tempdir().unwrap();
    let Some(terminal) = Terminal::open(folder.path(), LONG) else {
        return leave_out(name, "tmux is missing");
    };
    let recordings = folder.path().join("recordings");
    let settings = [("HA_RUNTIME", "process")];
    let controller =
        Controller::start(Path::new(PROGRAM), folder.path(), &recordings, &settings).await;
    openvidu(
        folder.path(),
        "openvidu/openvidu-server:2.32.2",
        "OPENVIDU_WEBHOOK=false",
    );
    let place = folder.path().to_str().unwrap();
    let mut all = String::new();
    for line in TRIED {
        let command = line.split(' ').next().unwrap();
        let data = match takes_data_dir(command) {
            true => format!(" --data-dir {place}/data"),
            false => String::new(),
        };
        let options = format!("{command} --env-file {place}/controller.env{data}");
        let typed = line
            .replacen(command, &options, 1)
            .replace("{}", place)
            .replace("| head", "| /usr/bin/head");
        let (shown, code) = terminal
            .run(&format!("PATH={place}/empty {PROGRAM} {typed}"))
            .await;
        let shown = plain(&shown);
        let shown = shown.rsplit_once('\n').map_or("", |(shown, _mark)| shown);
        let shown = shown.replace(place, "{}").replace(&place[1..], "{}");
        let shown = steady(&shown);
        all += &format!("$ ov2-ha-recorder {line}\n{shown}\n(exit code {code})\n\n");
    }
    assert!(!all.contains(&controller.password), "{all}");
    let tried = TRIED.iter().map(|line| line.split(' ').next().unwrap());
    let tried = tried.collect::<std::collections::BTreeSet<_>>();
    let all_commands = commands();
    assert_eq!(tried, all_commands.iter().map(String::as_str).collect());
    keep("commands.txt", &all);
}

fn takes_data_dir(command: &str) -> bool {
    let help = Command::new(PROGRAM).args([command, "--help"]).output();
    String::from_utf8(help.unwrap().stdout)
        .unwrap()
        .contains("--data-dir")
}

/// Without what differs from run to run: numbers and the test session's id, the width of columns, how full the disk is.
fn steady(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().map(steady_word);
        words.collect::<Vec<_>>().join(" ")
    });
    let lines = lines.filter(|line| !line.contains(" disk "));
    lines.collect::<Vec<_>>().join("\n")
}

fn steady_word(word: &str) -> String {
    let mut seen = String::new();
    for letter in word.chars() {
        match letter {
            '0'..='9' if seen.ends_with('N') => {}
            // A digit of a name, as in s3, stays.
            '0'..='9' if !seen.ends_with(|c: char| c.is_ascii_lowercase()) => seen.push('N'),
            other => seen.push(other),
        }
    }
    let seen = seen.replace("N.N", "N");
    match seen.split_once("ov2-test-") {
        Some((before, id)) => {
            let after = id.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            format!("{before}ov2-test-ID{after}")
        }
        None => seen,
    }
}

/// Holds `seen` against what was seen before.
fn keep(name: &str, seen: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    if std::env::var_os("OV2_KEEP").is_some() {
        fs::write(&kept, seen).unwrap();
    }
    assert_eq!(seen, fs::read_to_string(kept).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn install_asks_for_address_and_port_and_takes_the_answers() {
    let name = "install_asks_for_address_and_port_and_takes_the_answers";
    let folder = tempfile::tempdir().unwrap();
    let Some(terminal) = Terminal::open(folder.path(), LONG) else {
        return leave_out(name, "tmux is missing");
    };
    openvidu(
        folder.path(),
        "openvidu/openvidu-server:2.32.2",
        "OPENVIDU_WEBHOOK=false",
    );
    let place = folder.path().display();
    let mark = terminal.begin(&format!(
        "{PROGRAM} install --env-file {place}/own.env --data-dir {place}/data --without-image --without-service {place}/openvidu"
    ));
    for (question, answer) in [
        ("address of this machine", "http://10.1.2.3"),
        ("HA_CONTROLLER_HOST=http://10.1.2.3: expected", "10.1.2.3"),
        ("port of the controller [15443]:", "15999"),
    ] {
        until(question, SOON, || async {
            plain(&terminal.sight()).contains(question).then_some(())
        })
        .await;
        terminal.type_in(answer);
    }
    let (shown, code) = terminal.end(&mark).await;
    assert_eq!(code, 0, "{shown}");
    let env = fs::read_to_string(folder.path().join("own.env")).unwrap();
    assert!(env.contains("HA_CONTROLLER_HOST=10.1.2.3\n"), "{env}");
    assert!(env.contains("HA_CONTROLLER_PORT=15999\n"), "{env}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_a_running_service() {
    let folder = tempfile::tempdir().unwrap();
    let Some(terminal) = Terminal::open(folder.path(), LONG) else {
        return leave_out("the_commands_show_a_running_service", "tmux is missing");
    };
    let settings = [("HA_RUNTIME", "process")];
    let recordings = folder.path().join("recordings");
    let controller =
        Controller::start(Path::new(PROGRAM), folder.path(), &recordings, &settings).await;
    let env = folder.path().join("controller.env");
    let line = |command: &str| format!("{PROGRAM} {command} --env-file {}", env.display());

    let (shown, code) = terminal.run(&line("health")).await;
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains('\u{1b}'),
        "a terminal shows colours: {shown}"
    );
    for part in ["store", "disk"] {
        assert!(plain(&shown).contains(part), "{shown}");
    }
    let (shown, code) = terminal.run(&line("test-api")).await;
    assert_eq!(code, 0, "{shown}");
    let (shown, code) = terminal.run(&line("failovers")).await;
    assert_eq!(code, 0, "{shown}");
    let (shown, code) = terminal.run(&line("config")).await;
    assert_eq!(code, 0, "{shown}");
    assert!(
        plain(&shown).contains("HA_CONTROLLER_PASSWORD") && !shown.contains(&controller.password),
        "{shown}"
    );
    let (shown, code) = terminal.run(&format!("{} | cat", line("health"))).await;
    assert!(
        code == 0 && !shown.contains("\u{1b}[3"),
        "no colours in a pipe: {shown}"
    );

    let terminal = Terminal::open(folder.path(), "-y40").unwrap();
    let mark = terminal.begin(&line("monitor"));
    let shows = async |what: &str| {
        until(what, SOON, || async {
            plain(&terminal.sight()).contains(what).then_some(())
        })
        .await;
    };
    shows("All is well").await;
    let session = json!({"sessionId": "ses_A", "clientId": "a recorder"});
    let trouble =
        json!({"report": {"troubles": [{"kind": "audio", "message": "no sound arrives"}]}});
    for (method, path, body) in [
        (Method::POST, "/api/sessions", session),
        (Method::PUT, "/api/sessions/ses_A/heartbeat", trouble),
    ] {
        controller.ask(method, path, Some(&body)).await;
    }
    shows("1 thing is worth a look").await;
    shows("ses_A: no sound arrives").await;
    terminal.tmux(&["send-keys", "q"]).unwrap();
    let (_, code) = terminal.end(&mark).await;
    assert_eq!(code, 0);
    let (shown, code) = terminal.run(&line("health")).await;
    assert!(
        code == 0 && plain(&shown).contains("ses_A: no sound arrives"),
        "{shown}"
    );
}
