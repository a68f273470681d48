//! The recorder: displays, plays, captures, writes chunks.
