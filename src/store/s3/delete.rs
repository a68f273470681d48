//! Deletions from a bucket: many objects by one request where the store can, else one by one.

use super::super::{Object, StoreError};
use super::S3Store;
use super::faults::{fault, judge};
use futures_util::{StreamExt, TryStreamExt, stream};
use rusoto_core::RusotoError;
use rusoto_s3::{Delete, DeleteObjectRequest, DeleteObjectsRequest, ObjectIdentifier, S3};
use std::collections::BTreeSet;

/// Single deletions on their way at once.
const ABREAST: usize = 8;

impl S3Store {
    /// Deletes `batch`, which is not more than the store takes by one request.
    pub(super) async fn delete_batch(&self, batch: &[Object]) -> Result<(), StoreError> {
        let keys: Vec<_> = batch
            .iter()
            .map(|object| format!("{}{}", self.prefix, object.key))
            .collect();
        if !self.abilities.batch_deletes.is_there() {
            return self.delete_one_by_one(&keys).await;
        }
        let gone = match self.persist(|| self.delete_at_once(&keys)).await {
            Ok(gone) => gone,
            // Not every store has this request, and each refuses it in its own words.
            Err(StoreError::Invalid { .. }) => BTreeSet::new(),
            Err(cause) => return Err(cause),
        };
        let left: Vec<_> = keys.into_iter().filter(|key| !gone.contains(key)).collect();
        self.delete_one_by_one(&left).await?;
        if gone.is_empty() && !left.is_empty() {
            self.abilities.batch_deletes.is_missing();
        }
        Ok(())
    }

    /// Deletes by one request and answers what the store says is gone.
    async fn delete_at_once(&self, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let objects = keys.iter().map(|key| ObjectIdentifier {
            key: key.clone(),
            version_id: None,
        });
        let request = DeleteObjectsRequest {
            bucket: self.bucket.clone(),
            delete: Delete {
                objects: objects.collect(),
                quiet: None,
            },
            ..DeleteObjectsRequest::default()
        };
        let act = || format!("delete {} objects", keys.len());
        let done = self.client.delete_objects(request).await;
        let done = done.map_err(|cause| fault(act(), cause))?;
        if let Some(first) = done.errors.unwrap_or_default().into_iter().next() {
            let code = first.code.unwrap_or_default();
            let said = first.message.unwrap_or_default();
            return Err(judge(act(), 0, &code, &said));
        }
        let gone = done.deleted.unwrap_or_default();
        Ok(gone.into_iter().filter_map(|object| object.key).collect())
    }

    async fn delete_one_by_one(&self, keys: &[String]) -> Result<(), StoreError> {
        let all = stream::iter(keys.to_vec()).map(|key| self.delete_one(key));
        let all = all.buffer_unordered(ABREAST);
        all.try_for_each(|()| async { Ok(()) }).await
    }

    async fn delete_one(&self, key: String) -> Result<(), StoreError> {
        self.persist(|| self.try_delete(&key)).await
    }

    async fn try_delete(&self, key: &str) -> Result<(), StoreError> {
        let request = DeleteObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            ..DeleteObjectRequest::default()
        };
        match self.client.delete_object(request).await {
            Ok(_) => Ok(()),
            // It is gone, which is what is wanted.
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => Ok(()),
            Err(cause) => Err(fault(format!("delete {key}"), cause)),
        }
    }
}
