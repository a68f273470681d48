//! What OpenVidu's webhooks report. Whoever reaches the door can post one: a report is a hint to look into OpenVidu's own
//! file, and changes nothing by itself.

use super::{Controller, differs};
use crate::model::session::{Particulars, Session};
use crate::model::wire::RecordingStatusChanged;
use crate::tasks;
use log::{info, warn};

impl Controller {
    /// OpenVidu, or whoever can post a webhook, reports a new session. It is believed where webhooks need a token.
    pub fn openvidu_made_a_session(&self, session: &str, unique: &str) {
        if self.0.settings.webhook_token.is_some() {
            tasks::block(|| self.session_created(session, unique));
        }
    }

    /// OpenVidu, or whoever can post a webhook, reports a recording's new status: a hint to look into OpenVidu's own file,
    /// which alone is believed. Unknown recordings and repeated or late reports change nothing.
    pub fn recording_status_changed(&self, news: &RecordingStatusChanged) {
        self.expect(news);
        let Some(session) = self.session(&news.id) else {
            return;
        };
        if of_another_take(news, &session, &self.particulars(&news.id)) {
            return;
        }
        if !matches!(news.status.as_str(), "stopped" | "ready" | "failed") {
            return;
        }
        match tasks::block(|| self.believe_file(&news.id)) {
            Some(Ok(())) => {}
            Some(Err(refused)) => {
                info!(session:% = news.id, status = news.status.as_str(); "OpenVidu's report changes nothing: {refused}");
            }
            None => {
                warn!(session:% = news.id, status = news.status.as_str();
                    "a webhook reports the end of a recording, and OpenVidu's own file does not, or cannot be read; the \
                     recording goes on, and the file is read again at the next check; if OpenVidu did end it, check \
                     OPENVIDU_RECORDING_PATH and that this user can read .recording.{}", news.id);
            }
        }
    }
}

/// Whether OpenVidu speaks of another recording that has, or had, the same id.
fn of_another_take(
    news: &RecordingStatusChanged,
    session: &Session,
    particulars: &Particulars,
) -> bool {
    let take = session.take.as_ref().and_then(|t| t.as_str().parse().ok());
    let earlier =
        matches!((news.start_time, take), (Some(start), Some::<i64>(take)) if start < take);
    earlier || differs(&news.unique_session_id, &particulars.unique_session_id)
}
