//! Never worse: a controller that is lost, locked out or without Docker costs no recording.
