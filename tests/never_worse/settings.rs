//! Never worse: settings as people write them.
