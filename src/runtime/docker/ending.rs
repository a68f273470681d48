//! How a container ends: it is asked to finish, killed, waited for, or taken away.

use super::{DockerRuntime, status_of};
use crate::model::ids::ContainerId;
use crate::runtime::RuntimeError;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::stream::StreamExt;
use std::time::Duration;

/// The longest that a killed container may take to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// A container that still runs after this is killed again.
const STRUCK: Duration = Duration::from_secs(1);

impl DockerRuntime {
    /// Ends the container, whatever it does, and answers when it has ended. A kill that meets Docker's own restart may
    /// strike the process before it: then the new one is killed too.
    pub(super) async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let ended = async {
            loop {
                self.strike(id).await?;
                if let Ok(ended) = tokio::time::timeout(STRUCK, self.ended(id)).await {
                    return ended;
                }
            }
        };
        match tokio::time::timeout(KILLED, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(RuntimeError::Failed {
                act: format!("kill container {id}"),
                cause: format!("it still runs {} s later", KILLED.as_secs()),
            }),
        }
    }

    async fn strike(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::default()
            .signal("SIGKILL")
            .build();
        match self
            .docker()
            .await?
            .kill_container(id.as_str(), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            // It is not running, or about to be restarted by Docker: a stop ends that too.
            Err(cause) if status_of(&cause) == Some(409) => {
                let options = StopContainerOptionsBuilder::default().t(0).build();
                let stopped = self
                    .docker()
                    .await?
                    .stop_container(id.as_str(), Some(options))
                    .await;
                stopped.map_err(|cause| self.of_container("stop", id, cause))
            }
            Err(cause) => Err(self.of_container("kill", id, cause)),
        }
    }

    /// Answers when the container does not run.
    pub(super) async fn ended(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let options = WaitContainerOptionsBuilder::default()
            .condition("not-running")
            .build();
        let mut answers = self
            .docker()
            .await?
            .wait_container(id.as_str(), Some(options));
        match answers.next().await {
            // An exit code other than 0 is an error to bollard; for us it is an end as good as any.
            None | Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(cause)) if status_of(&cause) == Some(404) => Ok(()),
            Some(Err(cause)) => Err(self.of_container("wait for", id, cause)),
        }
    }

    /// Tells the recorder to finish, as OpenVidu does.
    pub(super) async fn ask_to_finish(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let refused = |cause| self.of_container("write to", id, cause);
        let docker = self.docker().await?;
        let exec = CreateExecOptions {
            cmd: Some(vec!["bash", "-c", "echo 'q' > stop"]),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(id.as_str(), exec).await;
        let exec = exec.map_err(refused)?;
        let start = StartExecOptions {
            detach: true,
            ..StartExecOptions::default()
        };
        let started = docker.start_exec(&exec.id, Some(start)).await;
        started.map(drop).map_err(refused)
    }

    /// Removes a container; by force also one that runs. Harmless when it is gone.
    pub(super) async fn take_away(
        &self,
        id: &ContainerId,
        force: bool,
    ) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default()
            .v(true)
            .force(force)
            .build();
        match self
            .docker()
            .await?
            .remove_container(id.as_str(), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            Err(cause) if matches!(status_of(&cause), Some(404)) => Ok(()),
            Err(cause) => Err(self.of_container("remove", id, cause)).or_else(gone_is_well),
        }
    }
}

fn gone_is_well(cause: RuntimeError) -> Result<(), RuntimeError> {
    match cause {
        RuntimeError::NotFound(_) => Ok(()),
        other => Err(other),
    }
}
