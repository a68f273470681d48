//! Never worse: pages that are odd, slow, away or silent.
