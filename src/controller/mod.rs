//! The controller: watches, decides, relays, cleans up.
