//! What the product talks about, pure and synchronous: identifiers, chunks and timelines, sessions and their states,
//! failover policy, and the messages between recorder, controller and OpenVidu. Nothing here waits, opens or spawns.

pub mod ask;
pub mod chunk;
pub mod failover;
pub mod ids;
pub mod manifest;
pub mod session;
pub mod timeline;
pub mod view;
pub mod wire;
pub mod worry;
