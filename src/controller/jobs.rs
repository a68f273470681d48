//! The scheduled jobs: a full check for failovers and the clean-up, at the configured intervals. They back up what events
//! do at once; a job that fails is tried again at its next time, and so is one whose earlier run goes on: Docker may hang, and
//! a store be large, for longer than the interval.

use super::Controller;
use log::warn;
use std::time::Duration;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

impl Controller {
    /// Schedules the jobs; they end with the controller's tasks.
    ///
    /// # Errors
    /// When the scheduler cannot be started.
    pub async fn schedule(&self) -> Result<(), JobSchedulerError> {
        let mut scheduler = JobScheduler::new().await?;
        let check = self.0.settings.failover_check_seconds.seconds();
        scheduler.add(self.every(check, Work::Check)?).await?;
        let cleanup = self.0.settings.session_cleanup_seconds.seconds();
        scheduler.add(self.every(cleanup, Work::Cleanup)?).await?;
        scheduler.start().await?;
        let ended = self.0.tasks.token();
        self.0.tasks.spawn("scheduled jobs", async move {
            ended.cancelled().await;
            if let Err(cause) = scheduler.shutdown().await {
                warn!("the scheduler did not end: {cause}");
            }
        });
        Ok(())
    }

    fn every(&self, interval: Duration, work: Work) -> Result<Job, JobSchedulerError> {
        let controller = self.clone();
        Job::new_repeated_async(interval, move |_, _| {
            let controller = controller.clone();
            Box::pin(async move {
                match work {
                    Work::Check => {
                        controller.check_if_none_is_under_way().await;
                        controller.look_for_the_expected();
                    }
                    Work::Cleanup => {
                        controller.cleanup_if_none_is_under_way().await;
                    }
                }
            })
        })
    }
}

#[derive(Clone, Copy)]
enum Work {
    Check,
    Cleanup,
}
