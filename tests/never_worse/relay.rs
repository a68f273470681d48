//! Never worse: targets that are slow, odd or away.
