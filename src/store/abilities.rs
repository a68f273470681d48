//! What S3-compatible stores do not all do. It is assumed of each until an answer shows otherwise, then done another way for
//! as long as the process lives.

use log::info;
use std::sync::atomic::{AtomicBool, Ordering};

/// One thing that a store may be unable to do.
#[derive(Debug)]
pub(super) struct Ability {
    there: AtomicBool,
    /// The store without it, after "the store".
    without: &'static str,
}

impl Ability {
    const fn assumed(without: &'static str) -> Self {
        Self {
            there: AtomicBool::new(true),
            without,
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// The store was seen without it.
    pub(super) fn is_missing(&self) {
        if self.there.swap(false, Ordering::Relaxed) {
            info!("the store {}", self.without);
        }
    }
}

/// All of them, of one store.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Deletes many objects by one request.
    pub(super) batch_deletes: Ability,
    /// Takes an object in parts.
    pub(super) parts: Ability,
    /// Lists as the second version of the protocol does.
    pub(super) second_lists: Ability,
    /// An ETag that looks like an MD5 is one.
    pub(super) md5_etags: Ability,
}

impl Abilities {
    pub(super) const fn assumed() -> Self {
        Self {
            batch_deletes: Ability::assumed(
                "does not delete many objects by one request; they are deleted one by one",
            ),
            parts: Ability::assumed("takes no objects in parts; they are stored whole"),
            second_lists: Ability::assumed(
                "knows only the first version of lists; it is asked for those",
            ),
            md5_etags: Ability::assumed(
                "names no MD5s as ETags; what is stored is guarded by Content-MD5 alone",
            ),
        }
    }
}
