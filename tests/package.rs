//! The Debian package under a real systemd, and the controller's container: installed, started, killed, hung, upgraded,
//! removed and purged. The package is the one that `packaging/build-deb` made (`OV2_DEB` names it).

use crate::support::docker::docker;
use crate::support::stage::leave_out;
use crate::support::wait::until_true;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SYSTEMD_IMAGE: &str = "ov2-ha-recorder-systemd:bookworm";
const SOON: Duration = Duration::from_secs(60);

/// A Debian whose first process is systemd.
struct Machine(String);

impl Machine {
    async fn boot(packages: &Path) -> Self {
        let name = format!("ov2-systemd-{}", ov2_ha_recorder::random::hex::<4>());
        let folder = format!("--volume={}:/packages:ro", packages.display());
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

/// The package, and the same one with a higher version; the second is made here by repacking.
fn packages() -> Result<(tempfile::TempDir, String), String> {
    let deb = std::env::var_os("OV2_DEB")
        .map(PathBuf::from)
        .ok_or("OV2_DEB names no package; packaging/build-deb makes one")?;
    docker(&["image", "inspect", SYSTEMD_IMAGE]).map_err(|_| {
        format!("the image {SYSTEMD_IMAGE} is not there; packaging/docker/build-systemd makes it")
    })?;
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::copy(&deb, folder.path().join("old.deb")).unwrap();
    run("dpkg-deb", &["-R", "old.deb", "tree"]);
    let control = folder.path().join("tree/DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .unwrap()
        .to_owned();
    let newer = format!("{version}+next");
    std::fs::write(
        &control,
        text.replace(&format!("Version: {version}"), &format!("Version: {newer}")),
    )
    .unwrap();
    run("dpkg-deb", &["--root-owner-group", "-b", "tree", "new.deb"]);
    Ok((folder, newer))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_installs_starts_comes_back_upgrades_and_goes_under_a_real_systemd() {
    let (folder, newer) = match packages() {
        Ok(found) => found,
        Err(why) => return leave_out("the package under a real systemd", &why),
    };
    let machine = Machine::boot(folder.path()).await;
    machine.do_("dpkg -i /packages/old.deb");

    // Without Docker the service waits for it by itself; here recorders are processes.
    machine.do_("systemctl is-enabled ov2-ha-recorder");
    let mode = |path: &str| machine.do_(&format!("stat -c '%a %U %G' {path}"));
    assert_eq!(
        mode("/etc/ov2-ha-recorder/ov2-ha-recorder.env"),
        "640 root ov2-ha-recorder"
    );
    assert_eq!(
        mode("/etc/ov2-ha-recorder/password"),
        "640 root ov2-ha-recorder"
    );
    assert_eq!(
        mode("/var/lib/ov2-ha-recorder"),
        "750 ov2-ha-recorder ov2-ha-recorder"
    );
    let password = machine.do_("cat /etc/ov2-ha-recorder/password");
    assert!(
        password.len() >= 32,
        "a random password of {} characters",
        password.len()
    );
    machine.do_("id -nG ov2-ha-recorder | grep -qw docker");
    machine.do_("echo HA_RUNTIME=process >> /etc/ov2-ha-recorder/ov2-ha-recorder.env");
    machine.do_("mkdir -p /opt/openvidu/recordings && systemctl restart ov2-ha-recorder");
    machine.healthy("a healthy service").await;

    let security = machine.do_("systemd-analyze security ov2-ha-recorder --no-pager | tail -n 1");
    let score = security
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(score.is_some_and(|score| score <= 3.0), "{security}");

    // Killed: comes back by itself.
    let first = machine.show("MainPID");
    machine.do_("systemctl kill -s KILL ov2-ha-recorder");
    until_true("another process", SOON, || {
        machine.show("MainPID") != first && machine.show("ActiveState") == "active"
    })
    .await;
    machine.healthy("a service that came back").await;

    // Hung: the watchdog sees it. The unit's half minute is cut for the test.
    machine.do_("mkdir -p /run/systemd/system/ov2-ha-recorder.service.d && printf '[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n' > /run/systemd/system/ov2-ha-recorder.service.d/test.conf && systemctl daemon-reload && systemctl restart ov2-ha-recorder");
    machine.healthy("a service with a short watchdog").await;
    let second = machine.show("MainPID");
    machine.do_(&format!("kill -STOP {second}"));
    until_true("a new process after a hang", SOON, || {
        machine.show("MainPID") != second && machine.show("ActiveState") == "active"
    })
    .await;
    machine.do_("journalctl --no-pager -u ov2-ha-recorder | grep -qi watchdog");
    machine.healthy("a service that was freed").await;
    machine.do_("rm -r /run/systemd/system/ov2-ha-recorder.service.d && systemctl daemon-reload && systemctl restart ov2-ha-recorder");
    machine.healthy("a service as packaged").await;

    // Upgrade keeps settings, password and state.
    let account = "curl -sf -u recorder:$(cat /etc/ov2-ha-recorder/password) http://127.0.0.1:15443/api/sessions";
    machine.do_(&format!("{account} -H 'Content-Type: application/json' -d '{{\"sessionId\":\"kept\",\"clientId\":\"c\",\"status\":\"paused\"}}'"));
    machine.do_("dpkg -i --force-confold /packages/new.deb");
    assert_eq!(
        machine.do_("dpkg-query -W -f '${Version}' ov2-ha-recorder"),
        newer
    );
    machine.healthy("an upgraded service").await;
    assert_eq!(machine.do_("cat /etc/ov2-ha-recorder/password"), password);
    machine.do_(&format!("{account}/kept"));
    for command in [
        "status",
        "config",
        "test-api",
        "logs -n 5",
        "backup -o /tmp/b.tar.gz",
    ] {
        machine.do_(&format!("ov2-ha-recorder {command}"));
    }
    machine.do_("systemctl reload ov2-ha-recorder && ov2-ha-recorder stop && ov2-ha-recorder restore /tmp/b.tar.gz && ov2-ha-recorder start");
    machine.healthy("a restored service").await;
    machine.do_(&format!("{account}/kept"));

    machine.do_("dpkg -r ov2-ha-recorder");
    assert!(machine.sh("systemctl is-active ov2-ha-recorder").is_err());
    machine.do_("test -d /var/lib/ov2-ha-recorder/db && test -f /etc/ov2-ha-recorder/password");
    machine.do_("dpkg -P ov2-ha-recorder");
    machine.do_("! test -e /var/lib/ov2-ha-recorder && ! test -e /etc/ov2-ha-recorder && ! getent passwd ov2-ha-recorder");
    assert_eq!(
        machine.do_("systemctl is-system-running || true"),
        "running"
    );
}
