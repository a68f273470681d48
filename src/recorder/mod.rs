//! The recorder: displays, plays, captures, writes chunks.

pub mod upload;
