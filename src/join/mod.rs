//! Fragments, the growing file and the joined video.
