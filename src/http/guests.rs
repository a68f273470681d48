//! How many connections each address has, so that nobody takes all of them: a connection beyond its address's share is
//! closed unread, and everybody else finds the door as ever.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that one address may have at one time: those of a machine with hundreds of recorders, or of an office behind
/// one address. It is a small part of the files that the service may have open.
pub(super) const SHARE: usize = 1_024;

/// Who has connections, and how many.
#[derive(Clone, Default)]
pub(super) struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    address: IpAddr,
    all: Guests,
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Guests").field(&self.all().len()).finish()
    }
}

impl Guests {
    /// Counts one more connection of `address`; `None` where it has its share.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Guest> {
        let mut all = self.all();
        let held = all.entry(address).or_default();
        if *held >= SHARE {
            return None;
        }
        *held += 1;
        Some(Guest {
            address,
            all: self.clone(),
        })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut all = self.all.all();
        if let Some(held) = all.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                all.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_of_connections_and_keeps_nobody_else_from_theirs() {
        let guests = Guests::default();
        let flood: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let mut held: Vec<_> = (0..SHARE).map(|_| guests.enter(flood).unwrap()).collect();
        assert!(guests.enter(flood).is_none());
        assert!(guests.enter(other).is_some());
        held.pop();
        assert!(guests.enter(flood).is_some());
        drop(held);
        assert!(guests.all().is_empty(), "nothing is remembered of who left");
    }
}
