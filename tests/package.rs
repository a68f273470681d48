//! The Debian package under a real systemd: installed, upgraded from the commit before, killed, hung, removed and purged.
//! `packaging/build-deb` makes the package (`OV2_DEB` names it) and the one before it (`OV2_DEB_BEFORE`).

use crate::support::docker::docker;
use crate::support::stage::leave_out;
use crate::support::wait::until_true;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SYSTEMD_IMAGE: &str = "ov2-ha-recorder-systemd:bookworm";
const SOON: Duration = Duration::from_secs(60);

/// The program under test with its hang switches, by the loader it was built for: the machine's own may be older.
const SWITCHED: &str =
    "/lib/built-for/ld-linux-x86-64.so.2 --library-path /lib/built-for /opt/switched";

/// A Debian whose first process is systemd.
struct Machine(String);

impl Machine {
    async fn boot(packages: &Path) -> Self {
        let name = format!("ov2-systemd-{}", ov2_ha_recorder::random::hex::<4>());
        let folder = format!("--volume={}:/packages:ro", packages.display());
        let program = concat!(
            "--volume=",
            env!("CARGO_BIN_EXE_ov2-ha-recorder"),
            ":/opt/switched:ro"
        );
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--cap-add=SYS_ADMIN",
            "--security-opt=seccomp=unconfined",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
            "--cgroupns=host",
            "--tmpfs=/run",
            "--tmpfs=/run/lock",
            "--network=none",
            "--volume=/lib/x86_64-linux-gnu:/lib/built-for:ro",
            program,
            &folder,
            SYSTEMD_IMAGE,
        ])
        .unwrap();
        let machine = Self(name);
        until_true("a running systemd", SOON, || {
            machine
                .sh("systemctl is-system-running")
                .is_ok_and(|state| state == "running")
        })
        .await;
        machine
    }

    fn sh(&self, command: &str) -> Result<String, String> {
        docker(&["exec", &self.0, "sh", "-c", command])
    }

    fn do_(&self, command: &str) -> String {
        self.sh(command).unwrap_or_else(|cause| {
            let log = self
                .sh("journalctl --no-pager -n 40 -u ov2-ha-recorder")
                .unwrap_or_default();
            panic!("{command}: {cause}\n{log}")
        })
    }

    fn show(&self, property: &str) -> String {
        self.do_(&format!(
            "systemctl show ov2-ha-recorder -p {property} --value"
        ))
    }

    async fn healthy(&self, what: &str) {
        until_true(what, SOON, || {
            self.sh("ov2-ha-recorder health --json")
                .is_ok_and(|said| said.contains("\"good\""))
        })
        .await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.0]);
    }
}

/// The package under trial and the one before it, in a folder that the machine sees.
struct Packages {
    folder: tempfile::TempDir,
    version: String,
}

impl Packages {
    fn find() -> Result<Self, String> {
        let deb = shipped_package()?;
        docker(&["image", "inspect", SYSTEMD_IMAGE]).map_err(|_| {
            format!(
                "the image {SYSTEMD_IMAGE} is not there; packaging/docker/build-systemd makes it"
            )
        })?;
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new.deb"), folder.path().join("old.deb"));
        std::fs::copy(&deb, &new).unwrap();
        let version = run(
            "dpkg-deb",
            &["-f".as_ref(), new.as_os_str(), "Version".as_ref()],
        );
        match named("OV2_DEB_BEFORE") {
            Some(before) => drop(std::fs::copy(before, old).unwrap()),
            None => {
                println!(
                    "no package of the commit before (OV2_DEB_BEFORE): the upgrade is from this one's copy"
                );
                let made = repack(folder.path(), &version, "~previous");
                std::fs::rename(made, old).unwrap();
            }
        }
        repack(folder.path(), &version, "+next");
        Ok(Self { folder, version })
    }
}

fn named(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

fn shipped_package() -> Result<PathBuf, String> {
    named("OV2_DEB").ok_or_else(|| "OV2_DEB names no package; packaging/build-deb makes one".into())
}

/// The program of the package, unpacked below `folder`; why there is none.
pub fn shipped_program(folder: &Path) -> Result<PathBuf, String> {
    let (unpacked, deb) = (folder.join("unpacked"), shipped_package()?);
    run(
        "dpkg-deb",
        &["-x".as_ref(), deb.as_os_str(), unpacked.as_os_str()],
    );
    Ok(unpacked.join("usr/bin/ov2-ha-recorder"))
}

/// The package again under `version` with something `added` to it, and with other settings by default.
fn repack(folder: &Path, version: &str, added: &str) -> PathBuf {
    let (new, tree) = (folder.join("new.deb"), folder.join(added));
    let paths = [new.as_os_str(), tree.as_os_str()];
    run("dpkg-deb", &[&["-R".as_ref()], &paths[..]].concat());
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let line = format!("Version: {version}");
    std::fs::write(&control, text.replace(&line, &format!("{line}{added}"))).unwrap();
    let settings = tree.join("etc/ov2-ha-recorder/ov2-ha-recorder.env");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}# {added}\n")).unwrap();
    let made = folder.join(format!("{added}.deb"));
    let build = ["--root-owner-group", "-Zgzip", "-z1", "-b"].map(OsStr::new);
    let paths = [tree.as_os_str(), made.as_os_str()];
    run("dpkg-deb", &[&build[..], &paths[..]].concat());
    made
}

fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {fault}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_installs_starts_comes_back_upgrades_and_goes_under_a_real_systemd() {
    let packages = match Packages::find() {
        Ok(found) => found,
        Err(why) => return leave_out("the package under a real systemd", &why),
    };
    let machine = Machine::boot(packages.folder.path()).await;
    machine.do_("dpkg -i /packages/new.deb");
    is_laid_out_well(&machine);
    goes_without_a_trace(&machine);

    machine.do_("dpkg -i /packages/old.deb");
    // Without Docker the service waits for it by itself; here recorders are processes.
    machine.do_("echo HA_RUNTIME=process >> /etc/ov2-ha-recorder/ov2-ha-recorder.env");
    machine.do_("mkdir -p /opt/openvidu/recordings && systemctl restart ov2-ha-recorder");
    machine.healthy("a healthy service").await;
    let still_there = upgrades(&machine, &packages.version).await;
    is_locked_in(&machine);
    tells_the_journal_its_levels(&machine);
    comes_back_from_a_kill(&machine).await;
    comes_back_from_a_hang(&machine).await;
    is_left_alone_with_wrong_settings(&machine).await;
    reads_again(&machine).await;
    goes_beside_an_openvidu(&machine).await;
    writes_recordings_in_a_home(&machine).await;
    serves_its_operator(&machine).await;
    updates_itself(&machine, &packages.version).await;
    machine.do_(&still_there);

    gives_openvidu_back_when_it_is_removed(&machine);
    assert!(machine.sh("systemctl is-active ov2-ha-recorder").is_err());
    machine.do_("test -d /var/lib/ov2-ha-recorder/db && test -f /etc/ov2-ha-recorder/password");
    keeps_recordings_when_it_is_purged(&machine);
    machine.do_("! test -e /etc/ov2-ha-recorder");
    assert_eq!(
        machine.do_("systemctl is-system-running || true"),
        "running"
    );
}

fn is_laid_out_well(machine: &Machine) {
    machine.do_("systemctl is-enabled ov2-ha-recorder");
    machine.do_("id -nG ov2-ha-recorder | grep -qw docker");
    for (path, mode) in [
        (
            "/etc/ov2-ha-recorder/ov2-ha-recorder.env",
            "640 root ov2-ha-recorder",
        ),
        ("/etc/ov2-ha-recorder/password", "640 root ov2-ha-recorder"),
        (
            "/var/lib/ov2-ha-recorder",
            "750 ov2-ha-recorder ov2-ha-recorder",
        ),
        (
            "/usr/share/ov2-ha-recorder/packaging/docker/build-recorder",
            "755 root root",
        ),
        ("/usr/share/man/man1/ov2-ha-recorder.1.gz", "644 root root"),
        (
            "/usr/share/bash-completion/completions/ov2-ha-recorder",
            "644 root root",
        ),
        (
            "/usr/share/zsh/vendor-completions/_ov2-ha-recorder",
            "644 root root",
        ),
        (
            "/usr/share/fish/vendor_completions.d/ov2-ha-recorder.fish",
            "644 root root",
        ),
    ] {
        assert_eq!(
            machine.do_(&format!("stat -c '%a %U %G' {path}")),
            mode,
            "{path}"
        );
    }
    machine.do_("! test -e /usr/share/ov2-ha-recorder/packaging/lib.sh && ! grep -r apt-get /usr/share/ov2-ha-recorder");
    let settings = machine.do_("dpkg-query -W -f '${Conffiles}' ov2-ha-recorder");
    assert!(
        settings.contains("/etc/ov2-ha-recorder/ov2-ha-recorder.env "),
        "{settings}"
    );
    let password = machine.do_("cat /etc/ov2-ha-recorder/password").len();
    assert!(password >= 32, "a random password of {password} characters");
}

/// The settings stay, as Debian has it; what belongs to OpenVidu is as before.
fn gives_openvidu_back_when_it_is_removed(machine: &Machine) {
    let openvidu = "cat /srv/openvidu/.env";
    let before = machine.do_(openvidu);
    machine.do_("ov2-ha-recorder install --auto --without-image /srv/openvidu");
    machine.do_("ov2-ha-recorder reconfigure /srv/openvidu");
    assert_ne!(machine.do_(openvidu), before);
    let settings = "cat /etc/ov2-ha-recorder/ov2-ha-recorder.env";
    let ours = machine.do_(settings);
    machine.do_("dpkg -r ov2-ha-recorder");
    assert_eq!(machine.do_(openvidu), before);
    assert_eq!(machine.do_(settings), ours);
    machine.do_("! test -e /srv/recordings/.env && ! test -e /etc/ov2-ha-recorder/recorders.env");
}

/// What the built-in store has of recordings, and the record of what could not be put back, are kept, and their owner with
/// them.
fn keeps_recordings_when_it_is_purged(machine: &Machine) {
    let state = "/var/lib/ov2-ha-recorder";
    machine.do_(&format!(
        "mkdir -p {state}/s3/b/objects/ses_A && echo chunk >{state}/s3/b/objects/ses_A/0001.mp4"
    ));
    machine.do_(&format!("echo '{{}}' >{state}/install.json"));
    let said = machine.do_("dpkg -P ov2-ha-recorder 2>&1");
    assert!(
        said.contains("recorded chunks") && said.contains("install.json"),
        "{said}"
    );
    machine.do_(&format!("test -s {state}/s3/b/objects/ses_A/0001.mp4 && test -e {state}/install.json && ! test -e {state}/db"));
    assert_eq!(
        machine.do_(&format!("stat -c %U {state}")),
        "ov2-ha-recorder"
    );
    machine.do_(&format!("rm -r {state}"));
}

fn goes_without_a_trace(machine: &Machine) {
    machine.do_("dpkg -P ov2-ha-recorder");
    machine.do_("! test -e /var/lib/ov2-ha-recorder && ! test -e /etc/ov2-ha-recorder && ! getent passwd ov2-ha-recorder");
}

/// Settings, password and state are what they were. Answers the command that succeeds while the session of before is known.
async fn upgrades(machine: &Machine, version: &str) -> String {
    let account = "curl -sf -u recorder:$(cat /etc/ov2-ha-recorder/password) http://127.0.0.1:15443/api/sessions";
    machine.do_(&format!("{account} -H 'Content-Type: application/json' -d '{{\"sessionId\":\"kept\",\"clientId\":\"c\",\"status\":\"paused\"}}'"));
    let settings =
        machine.do_("cat /etc/ov2-ha-recorder/password /etc/ov2-ha-recorder/ov2-ha-recorder.env");
    let process = machine.show("MainPID");
    machine.do_("dpkg -i --force-confold /packages/new.deb");
    let installed = machine.do_("dpkg-query -W -f '${Version}' ov2-ha-recorder");
    assert_eq!(installed, version);
    until_true("the new program", SOON, || {
        machine.show("MainPID") != process
    })
    .await;
    machine.healthy("an upgraded service").await;
    let after =
        machine.do_("cat /etc/ov2-ha-recorder/password /etc/ov2-ha-recorder/ov2-ha-recorder.env");
    assert_eq!(after, settings);
    let still_there = format!("{account}/kept");
    machine.do_(&still_there);
    still_there
}

fn is_locked_in(machine: &Machine) {
    let security = machine.do_("systemd-analyze security ov2-ha-recorder --no-pager | tail -n 1");
    let score = security
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(score.is_some_and(|score| score <= 3.0), "{security}");
}

fn tells_the_journal_its_levels(machine: &Machine) {
    let knock = "curl -s -o /dev/null -u recorder:wrong http://127.0.0.1:15443/api/sessions";
    machine.do_(knock);
    let journal = "journalctl --no-pager -o cat -u ov2-ha-recorder -p";
    let warned = machine.do_(&format!("{journal} warning..warning"));
    assert!(warned.contains("access refused"), "{warned}");
    let told = machine.do_(&format!("{journal} info..info"));
    assert!(
        told.lines()
            .any(|line| line.starts_with("the controller is ready")),
        "{told}"
    );
}

async fn comes_back_from_a_kill(machine: &Machine) {
    let first = machine.show("MainPID");
    machine.do_("systemctl kill -s KILL ov2-ha-recorder");
    until_true("another process", SOON, || {
        machine.show("MainPID") != first && machine.show("ActiveState") == "active"
    })
    .await;
    machine.healthy("a service that came back").await;
}

/// The shipped program has no hang switch: the debug build takes its place in the unit, whose half minute is cut for the test.
async fn comes_back_from_a_hang(machine: &Machine) {
    let folder = "/run/systemd/system/ov2-ha-recorder.service.d";
    let unit = format!(
        "[Service]\\nExecStart=\\nExecStart={SWITCHED} serve\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n"
    );
    let anew = "systemctl daemon-reload && systemctl restart ov2-ha-recorder";
    machine.do_(&format!(
        "mkdir -p {folder} && printf '{unit}' > {folder}/hang.conf && {anew}"
    ));
    machine.healthy("a service with a short watchdog").await;
    // The controller's own lock, and its database.
    for switch in ["USR1", "USR2"] {
        let hung = machine.show("InvocationID");
        machine.do_(&format!(
            "systemctl kill -s {switch} --kill-whom=main ov2-ha-recorder"
        ));
        until_true("another process after a hang", SOON, || {
            machine.show("InvocationID") != hung && machine.show("ActiveState") == "active"
        })
        .await;
        let end = machine.do_(&format!(
            "journalctl --no-pager -o cat INVOCATION_ID={hung} | grep 'Failed with result'"
        ));
        assert!(end.contains("'watchdog'"), "{switch}: {end}");
        machine.healthy("a service that was freed").await;
    }
    machine.do_(&format!("rm -r {folder} && {anew}"));
    machine.healthy("a service as packaged").await;
}

async fn is_left_alone_with_wrong_settings(machine: &Machine) {
    let settings = "/etc/ov2-ha-recorder/ov2-ha-recorder.env";
    machine.do_(&format!("echo CHUNK_TIME_SIZE=0 >> {settings}"));
    let refused = machine.sh("systemctl restart ov2-ha-recorder");
    assert!(refused.is_err(), "{refused:?}");
    let end = ["ActiveState", "ExecMainStatus", "NRestarts"].map(|name| machine.show(name));
    assert_eq!(end, ["failed", "78", "0"]);
    machine.do_(&format!(
        "sed -i '$d' {settings} && systemctl restart ov2-ha-recorder"
    ));
    machine.healthy("a service with right settings").await;
}

async fn reads_again(machine: &Machine) {
    let settings = "/etc/ov2-ha-recorder/ov2-ha-recorder.env";
    let reload = "systemctl reload ov2-ha-recorder";
    let process = machine.show("MainPID");
    machine.do_(&format!("echo DEBUG_MODE=true >> {settings} && {reload}"));
    until_true("a line for debugging", SOON, || {
        let journal = "journalctl --no-pager -o cat -u ov2-ha-recorder -p debug..debug";
        let request = "curl -s -o /dev/null http://127.0.0.1:15443/actuator/health";
        machine
            .do_(&format!("{request}; {journal}"))
            .contains("answered")
    })
    .await;
    machine.do_(&format!("sed -i '$d' {settings} && {reload}"));
    assert_eq!(machine.show("MainPID"), process);
}

/// The recordings lie where the unit as it is packaged may not write.
async fn goes_beside_an_openvidu(machine: &Machine) {
    let settings = "/etc/ov2-ha-recorder/ov2-ha-recorder.env";
    let before = machine.do_(&format!("cat {settings}"));
    machine.do_("mkdir -p /srv/openvidu /srv/recordings");
    machine.do_("printf 'services:\n  openvidu-server:\n    image: openvidu/openvidu-server:2.32.2\n' > /srv/openvidu/docker-compose.yml");
    machine.do_("printf 'OPENVIDU_RECORDING=true\nOPENVIDU_RECORDING_PATH=/srv/recordings\n' > /srv/openvidu/.env");
    let install = "ov2-ha-recorder install --auto --without-image /srv/openvidu --json";
    let process = machine.show("MainPID");
    machine.do_(install);
    assert_ne!(machine.show("MainPID"), process, "it was not restarted");
    machine.healthy("a service with other recordings").await;
    machine.do_("ov2-ha-recorder test-s3 && test -f /srv/recordings/.env");
    let writable = machine.show("ReadWritePaths");
    assert!(writable.contains("/srv/recordings"), "{writable}");
    let again = machine.do_(install);
    assert!(!again.contains("\"changed\": true"), "{again}");

    machine
        .do_("ov2-ha-recorder uninstall --without-image && ! systemctl is-active ov2-ha-recorder");
    machine.do_("! test -e /srv/recordings/.env && ! systemctl show ov2-ha-recorder -p ReadWritePaths | grep /srv");
    assert_eq!(machine.do_(&format!("cat {settings}")), before);
    machine.do_("ov2-ha-recorder start");
    machine.healthy("a service as it was before").await;
}

/// The unit as it is packaged sees nothing of people's homes.
async fn writes_recordings_in_a_home(machine: &Machine) {
    let place = "/home/openvidu";
    machine.do_(&format!(
        "mkdir -p {place}/recordings && cp /srv/openvidu/docker-compose.yml {place}/"
    ));
    machine.do_(&format!("printf 'OPENVIDU_RECORDING=true\nOPENVIDU_RECORDING_PATH={place}/recordings\n' > {place}/.env"));
    machine.do_(&format!(
        "ov2-ha-recorder install --auto --without-image {place}"
    ));
    machine
        .healthy("a service whose recordings are in a home")
        .await;
    let recording = format!("{place}/recordings/ses_H");
    machine.do_(&format!("mkdir {recording} && echo '{{\"id\":\"ses_H\",\"status\":\"ready\"}}' >{recording}/.recording.ses_H"));
    let account = "curl -sf -u recorder:$(cat /etc/ov2-ha-recorder/password)";
    let listed = machine.do_(&format!("{account} http://127.0.0.1:15443/api/recordings"));
    assert!(listed.contains("ses_H"), "{listed}");
    let health = machine.do_("curl -s http://127.0.0.1:15443/actuator/health/store");
    assert!(health.contains("UP"), "{health}");
    machine.do_("ov2-ha-recorder uninstall --without-image && ov2-ha-recorder start");
    machine.healthy("a service as it was before").await;
}

/// The settings that a person changed stay, without a question, although those of the package changed too.
async fn updates_itself(machine: &Machine, version: &str) {
    let settings = "cat /etc/ov2-ha-recorder/ov2-ha-recorder.env";
    let before = machine.do_(settings);
    let said = machine.do_("ov2-ha-recorder update --without-image /packages/+next.deb");
    assert!(
        said.contains(&format!("{version} → {version}+next")),
        "{said}"
    );
    assert_eq!(machine.do_(settings), before);
    machine.healthy("an updated service").await;
}

async fn serves_its_operator(machine: &Machine) {
    for command in [
        "status",
        "config",
        "test-api",
        "logs -n 5",
        "monitor --json",
        "backup -o /tmp/b.tar.gz",
        "clean",
    ] {
        machine.do_(&format!("ov2-ha-recorder {command}"));
    }
    machine.do_("systemctl reload ov2-ha-recorder && ov2-ha-recorder restart && ov2-ha-recorder stop && ov2-ha-recorder restore /tmp/b.tar.gz && ov2-ha-recorder start");
    machine.healthy("a restored service").await;
}
