//! Docker's socket at another place, which comes and goes as a daemon does, and hangs when told: what connects to it speaks
//! with the real one.

use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const REAL: &str = "/var/run/docker.sock";

/// The socket; gone when dropped, with every connection.
#[derive(Debug)]
pub struct DockerSocket {
    path: PathBuf,
    hangs: watch::Sender<bool>,
    gone: CancellationToken,
    server: JoinHandle<()>,
}

impl DockerSocket {
    /// Makes the socket.
    pub fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let gone = CancellationToken::new();
        let hangs = watch::Sender::new(false);
        let (token, hanging) = (gone.clone(), hangs.subscribe());
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (token, hanging) = (token.clone(), hanging.clone());
                tokio::spawn(async move {
                    let real = UnixStream::connect(REAL).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_real, to_real) = real.into_split();
                    let both = async {
                        tokio::join!(
                            pass(from_client, to_real, hanging.clone()),
                            pass(from_real, to_client, hanging.clone()),
                        )
                    };
                    token.run_until_cancelled(both).await;
                });
            }
        });
        Self {
            path: path.to_owned(),
            hangs,
            gone,
            server,
        }
    }

    /// As a daemon that was stopped: connections are taken, and nothing is answered.
    pub fn hang(&self) {
        self.hangs.send_replace(true);
    }

    /// As a daemon that goes on.
    pub fn go_on(&self) {
        self.hangs.send_replace(false);
    }
}

/// Passes on what comes until either side ends; nothing while it hangs.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut hangs: watch::Receiver<bool>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let goes_on = hangs.wait_for(|hangs| !hangs).await.is_ok();
        if !goes_on || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

impl Drop for DockerSocket {
    fn drop(&mut self) {
        self.server.abort();
        self.gone.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}
