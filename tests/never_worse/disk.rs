//! Never worse: disks that are full, swept or gone.
