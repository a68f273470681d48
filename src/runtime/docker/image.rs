//! The recording image: whether it is there, whether it is ours, and how it is had when it is missing.

use super::{DockerRuntime, status_of};
use crate::runtime::{Image, ImageState, RuntimeError};
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::stream::StreamExt;
use log::{error, info, warn};

/// The label `created.by` of our recording image, which has the name of OpenVidu's own.
const IMAGE_MADE_BY: &str = "ov2-ha-recorder";

impl DockerRuntime {
    /// Sees to it that the recording image is there: pulled when it is missing and a registry answers. That it is OpenVidu's
    /// own is told: a registry may have that one only.
    ///
    /// # Errors
    /// [`RuntimeError::NoImage`] when it cannot be had.
    pub async fn prepare(&self) -> Result<(), RuntimeError> {
        if !self.has_image().await? {
            self.pull().await?;
        }
        let image = self.look_at_image().await?;
        if let Some((fault, _)) = image.fault() {
            error!(
                "image {fault}; build ours under the same name with \"ov2-ha-recorder install\" or \
                 packaging/docker/build-recorder"
            );
        }
        Ok(())
    }

    /// The recording image, and whether it is ours.
    pub(super) async fn look_at_image(&self) -> Result<Image, RuntimeError> {
        let state = match self.find_image().await? {
            None => ImageState::Missing,
            Some(found) => {
                let labels = found.config.and_then(|config| config.labels);
                let maker = labels.and_then(|mut labels| labels.remove("created.by"));
                match maker.as_deref() == Some(IMAGE_MADE_BY) {
                    true => ImageState::Ours,
                    false => ImageState::Foreign,
                }
            }
        };
        Ok(Image {
            name: self.image(),
            state,
        })
    }

    async fn pull(&self) -> Result<(), RuntimeError> {
        info!(image = self.image().as_str(); "the recording image is missing and is pulled");
        let options = CreateImageOptionsBuilder::default()
            .from_image(&self.image_name)
            .tag(&self.image_tag)
            .build();
        let mut steps = self.docker().await?.create_image(Some(options), None, None);
        while let Some(step) = steps.next().await {
            if let Err(cause) = step {
                warn!(image = self.image().as_str(); "the recording image cannot be pulled: {cause}");
                return Err(self.no_image());
            }
        }
        Ok(())
    }

    pub(super) fn image(&self) -> String {
        format!("{}:{}", self.image_name, self.image_tag)
    }

    pub(super) fn no_image(&self) -> RuntimeError {
        RuntimeError::NoImage {
            image: self.image(),
        }
    }

    async fn has_image(&self) -> Result<bool, RuntimeError> {
        Ok(self.find_image().await?.is_some())
    }

    async fn find_image(&self) -> Result<Option<ImageInspect>, RuntimeError> {
        match self.docker().await?.inspect_image(&self.image()).await {
            Ok(found) => Ok(Some(found)),
            Err(cause) if status_of(&cause) == Some(404) => Ok(None),
            Err(cause) => Err(self.failed("inspect the recording image", cause)),
        }
    }
}
