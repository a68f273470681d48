//! Docker's socket at another place, which comes and goes as a daemon does: what connects to it speaks with the real one.

use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const REAL: &str = "/var/run/docker.sock";

/// The socket; gone when dropped, with every connection.
#[derive(Debug)]
pub struct DockerSocket {
    path: PathBuf,
    gone: CancellationToken,
    server: JoinHandle<()>,
}

impl DockerSocket {
    /// Makes the socket.
    pub fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let gone = CancellationToken::new();
        let token = gone.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let token = token.clone();
                tokio::spawn(async move {
                    let mut real = UnixStream::connect(REAL).await.unwrap();
                    let both = tokio::io::copy_bidirectional(&mut client, &mut real);
                    // Either side may end it.
                    let _ = token.run_until_cancelled(both).await;
                });
            }
        });
        Self {
            path: path.to_owned(),
            gone,
            server,
        }
    }
}

impl Drop for DockerSocket {
    fn drop(&mut self) {
        self.server.abort();
        self.gone.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}
