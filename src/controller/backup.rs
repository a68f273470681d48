//! The controller's state as one text, for the operator's backup: nobody else can read the database while it is at work.

use super::Controller;
use crate::db::DbError;

impl Controller {
    /// Everything in the database, sessions as they stand at this moment included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn export(&self) -> Result<Vec<u8>, DbError> {
        self.save();
        self.0.db.durable().await?;
        let db = self.0.db.clone();
        let work = move || {
            let mut text = Vec::new();
            db.export(&mut text).map(|_| text)
        };
        let done = self.0.tasks.spawn_blocking("backup", work).await;
        done.unwrap_or_else(|cause| {
            Err(DbError::Failed {
                act: "read everything",
                cause: cause.to_string(),
            })
        })
    }
}
