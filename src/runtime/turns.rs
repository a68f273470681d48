//! Turns: so many at a time, in the order in which they were asked for. One that takes too long lets the next one begin, so that
//! what never ends holds up nobody for long.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Clones share their turns.
#[derive(Clone)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    patience: Duration,
}

impl Turns {
    /// `at_once` of them, each kept for `patience` at most.
    pub(super) fn new(at_once: usize, patience: Duration) -> Self {
        Self {
            free: Arc::new(Semaphore::new(at_once)),
            patience,
        }
    }

    /// Does `work` when its turn has come, and waits for its end.
    pub(super) async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        // It is never closed.
        let turn = self.free.acquire().await;
        let mut work = pin!(work);
        match tokio::time::timeout(self.patience, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                drop(turn);
                work.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{join, join_all, pending};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::yield_now;

    #[tokio::test]
    async fn so_many_at_a_time_in_the_order_in_which_they_came() {
        let turns = Turns::new(2, Duration::from_secs(60));
        let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = async |number: usize| {
            assert_eq!(begun.fetch_add(1, Ordering::SeqCst), number);
            assert!(number - ended.load(Ordering::SeqCst) < 2);
            for _ in 0..number {
                yield_now().await;
            }
            ended.fetch_add(1, Ordering::SeqCst);
        };
        join_all((0..9).map(|number| turns.take(work(number)))).await;
        assert_eq!(ended.into_inner(), 9);
    }

    #[tokio::test]
    async fn what_does_not_end_holds_up_the_next_for_its_patience_only() {
        let turns = Turns::new(2, Duration::from_millis(20));
        let stuck = join(turns.take(pending::<()>()), turns.take(pending::<()>()));
        tokio::select! {
            biased;
            _ = stuck => unreachable!(),
            () = turns.take(async {}) => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("its turn did not come"),
        }
    }
}
