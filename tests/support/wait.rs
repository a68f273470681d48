//! Waiting for something to become true, with a bound and a message when it does not.

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks `seen` again and again until it answers; how long it took and the answer.
///
/// # Panics
/// When it has not after `bound`.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    bound: Duration,
    mut seen: impl FnMut() -> F,
) -> (Duration, T) {
    let begin = Instant::now();
    loop {
        if let Some(answer) = seen().await {
            return (begin.elapsed(), answer);
        }
        assert!(
            begin.elapsed() < bound,
            "{what} did not happen within {bound:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same for a plain condition.
///
/// # Panics
/// When it is not true after `bound`.
pub async fn until_true(what: &str, bound: Duration, mut seen: impl FnMut() -> bool) -> Duration {
    until(what, bound, || {
        let yes = seen().then_some(());
        async move { yes }
    })
    .await
    .0
}
