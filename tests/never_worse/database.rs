//! Never worse: a database that cannot be read costs no recording.
