//! The service manager's side of `serve`: it hears that the service is ready, then signs of life, and none from one that
//! hangs. What systemd does then is tried in `package`.

use crate::support::controller::free_port;
use crate::support::docker::signal_process;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// What the manager asks for; a sign of life comes three times as often.
const LIMIT: Duration = Duration::from_millis(600);
const SOON: Duration = Duration::from_secs(20);

struct Manager {
    socket: UnixDatagram,
    service: Child,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("notify");
        let socket = UnixDatagram::bind(&place).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        for setting in ov2_ha_recorder::config::TABLE {
            command.env_remove(setting.name);
        }
        let service = command
            .args(["serve", "--env-file", "/dev/null", "--data-dir"])
            .arg(folder.path().join("data"))
            .env("NOTIFY_SOCKET", &place)
            .env("WATCHDOG_USEC", LIMIT.as_micros().to_string())
            .env("HA_RUNTIME", "process")
            .env("HA_LISTEN_ADDRESS", "127.0.0.1")
            .env("HA_CONTROLLER_PORT", free_port().to_string())
            .env("HA_CONTROLLER_USERNAME", "recorder")
            .env("HA_CONTROLLER_PASSWORD", "a password for nobody")
            .env("OPENVIDU_RECORDING_PATH", folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            socket,
            service,
            _folder: folder,
        }
    }

    /// What the service says next, if it says anything within `patience`.
    async fn hear(&self, patience: Duration) -> Option<String> {
        let mut message = [0; 256];
        let length = timeout(patience, self.socket.recv(&mut message))
            .await
            .ok()?;
        Some(String::from_utf8_lossy(&message[..length.unwrap()]).into_owned())
    }

    async fn hears(&self, wanted: &str) {
        while !self.hear(SOON).await.expect(wanted).contains(wanted) {}
    }

    /// Whether the signs of life end, for three times as long as the manager waits for one.
    async fn falls_silent(&self) -> bool {
        for _ in 0..10 {
            if self.hear(3 * LIMIT).await.is_none() {
                return true;
            }
        }
        false
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[tokio::test]
async fn a_service_that_hangs_gives_no_sign_of_life() {
    // The controller's own lock, and its database.
    for switch in ["USR1", "USR2"] {
        let mut manager = Manager::start();
        manager.hears("READY=1").await;
        for _ in 0..3 {
            manager.hears("WATCHDOG=1").await;
        }
        signal_process(manager.service.id(), switch);
        assert!(manager.falls_silent().await, "{switch}: it still says so");
        let ended = manager.service.try_wait().unwrap();
        assert!(ended.is_none(), "{switch}: it ended instead: {ended:?}");
    }
}
