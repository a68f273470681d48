//! A backup's container: made from what OpenVidu's own was made with, in place of an earlier one of its name.

use super::{BACKUP_IMAGE, DockerRuntime};
use crate::model::ids::ContainerId;
use crate::runtime::{BackupSpec, RECORDING, Runtime, RuntimeError, made_by_us};
use bollard::models::{ContainerCreateBody, HostConfig, RestartPolicy, RestartPolicyNameEnum};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use log::warn;

impl DockerRuntime {
    /// Makes and starts a backup with these options of the host.
    pub(super) async fn make_backup(
        &self,
        spec: &BackupSpec,
        host: HostConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let act = format!("start a backup recorder for session {}", spec.recording);
        let options = CreateContainerOptionsBuilder::default()
            .name(&spec.name)
            .build();
        let body = backup_body(spec, format!("{BACKUP_IMAGE}:{}", self.image_tag), host);
        let docker = self.docker().await?;
        let created = docker.create_container(Some(options), body).await;
        let created = created.map_err(|cause| self.failed(&act, cause))?;
        let id = ContainerId::parse(created.id).map_err(|cause| RuntimeError::Failed {
            act,
            cause: cause.to_string(),
        })?;
        match self.start(&id).await {
            Ok(()) => Ok(id),
            Err(cause) => {
                // What could not be started is of no use; that it cannot be removed either changes nothing.
                let _ = self.remove(&id).await;
                Err(cause)
            }
        }
    }

    /// Ends and removes an earlier backup of the recording, in one call: between two, Docker or another controller of this
    /// machine may start it again. What bears the name without being one is left alone: the new one cannot be made then.
    pub(super) async fn clear_earlier(&self, spec: &BackupSpec) -> Result<(), RuntimeError> {
        let Some(found) = self.read(&spec.name).await? else {
            return Ok(());
        };
        let labels = found.config.and_then(|config| config.labels);
        let labels = labels.unwrap_or_default();
        if !made_by_us(|name| labels.get(name))
            || labels.get(RECORDING) != spec.labels.get(RECORDING)
        {
            return Ok(());
        }
        match ContainerId::parse(found.id.unwrap_or_default()) {
            Ok(id) => self.take_away(&id, true).await,
            Err(_) => Ok(()),
        }
    }
}

/// What the original has of its host, but for what is its own.
pub(super) fn host_of(spec: &BackupSpec) -> HostConfig {
    // What Docker wrote, it reads; a backup without it is better than none.
    let host = serde_json::from_value(spec.blueprint.host.0.clone()).unwrap_or_else(|_| {
        warn!(session:% = spec.recording; "what its container has of the host cannot be read: the backup gets Docker's own options");
        HostConfig::default()
    });
    HostConfig {
        restart_policy: Some(on_failure()),
        // Docker refuses it beside a restart policy, and a backup's end is looked at before it is removed.
        auto_remove: Some(false),
        // Docker writes the id into a file that must not be there yet.
        container_id_file: None,
        ..host
    }
}

/// What no recorder can do without.
pub(super) fn essentials(host: HostConfig) -> HostConfig {
    HostConfig {
        binds: host.binds,
        mounts: host.mounts,
        shm_size: host.shm_size,
        network_mode: host.network_mode,
        restart_policy: host.restart_policy,
        ..HostConfig::default()
    }
}

fn backup_body(spec: &BackupSpec, image: String, host: HostConfig) -> ContainerCreateBody {
    let variables = spec.blueprint.environment.0.iter();
    let variables = variables.map(|(name, value)| format!("{name}={value}"));
    ContainerCreateBody {
        image: Some(image),
        env: Some(variables.collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn on_failure() -> RestartPolicy {
    RestartPolicy {
        name: Some(RestartPolicyNameEnum::ON_FAILURE),
        maximum_retry_count: Some(0),
    }
}
