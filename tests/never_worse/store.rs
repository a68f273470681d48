//! Never worse: stores that are odd.
