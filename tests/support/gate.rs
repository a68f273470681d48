//! A door between the recorder and its controller that a test can shut: a network that is cut, and heals.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards connections to a port of this machine while it is open.
#[derive(Debug)]
pub struct Gate {
    /// Where it listens on the loopback interface.
    pub port: u16,
    open: watch::Sender<bool>,
}

impl Gate {
    /// An open gate before `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            open: watch::Sender::new(true),
        };
        let open = gate.open.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, port, open.clone()));
            }
        });
        gate
    }

    /// Cuts every connection; new ones are taken and say nothing.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets new connections through.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn forward(mut client: TcpStream, port: u16, mut open: watch::Receiver<bool>) {
    if !*open.borrow_and_update() {
        // Whoever waits here is dropped when the gate opens, and tries again.
        let _ = open.changed().await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = open.changed() => {}
    }
}
