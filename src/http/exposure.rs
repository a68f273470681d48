//! Whether OpenVidu serves the recorders' settings to everyone. Found out now and then by asking it as everyone may.

use super::Shared;
use crate::controller::Inquiry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often OpenVidu is asked: an operator changes this seldom.
const EVERY: Duration = Duration::from_secs(300);

/// Asks now, and from time to time.
pub(super) fn start(shared: &Arc<Shared>) {
    let Ok(Some(inquiry)) = Inquiry::of(&shared.settings) else {
        return;
    };
    let (shared, ended) = (Arc::clone(shared), shared.tasks.token());
    let tasks = shared.tasks.clone();
    tasks.spawn("look whether settings are served", async move {
        let looking = async {
            loop {
                let is_served = inquiry.serves_settings_to_everyone().await;
                let was = shared.exposed.swap(is_served, Ordering::Relaxed);
                if is_served && !was {
                    log::error!("{WARNING}");
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        ended.run_until_cancelled(looking).await;
    });
}

/// What health says then.
pub(super) const WARNING: &str = "OpenVidu serves the recorders' .env, with its secrets, to everyone; set \
     OPENVIDU_RECORDING_PUBLIC_ACCESS=false, restart OpenVidu, and change what is secret in it";
