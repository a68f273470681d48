//! Never worse: strangers and accounts: who may end a recording, and who is let in.
