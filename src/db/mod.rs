//! The embedded database; the only room that knows sled.
