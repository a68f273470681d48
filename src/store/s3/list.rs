//! Lists of a bucket, whole or not at all: over pages, as the second version of the protocol has them or the first, and never
//! a part taken for the whole.

use super::super::{Object, StoreError, check_key};
use super::S3Store;
use super::faults::fault;
use rusoto_core::RusotoError;
use rusoto_s3::{
    ListObjectsError, ListObjectsRequest, ListObjectsV2Error, ListObjectsV2Request,
    Object as Listed, S3,
};
use std::collections::BTreeMap;

/// Where a page of a list begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    Start,
    /// Where the store said that it goes on, in the second version's way.
    Token(String),
    /// Behind this key, in the first version's way, which every store knows.
    Behind(String),
}

/// A page, and where the next one begins.
struct Page {
    objects: Vec<Listed>,
    next: Option<Position>,
}

impl S3Store {
    /// Every object below `prefix`, in order.
    pub(super) async fn list_full(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let folder = match prefix {
            "" => self.prefix.clone(),
            prefix => format!("{}{prefix}/", self.prefix),
        };
        let mut found = BTreeMap::new();
        let mut position = Position::Start;
        loop {
            let page = self.persist(|| self.page(&folder, &position)).await?;
            // A store that does not know the prefix would name what is not asked for.
            let asked_for = page.objects.into_iter().filter_map(|object| {
                let full = object.key.filter(|key| key.starts_with(&folder))?;
                // Markers of folders, which other tools make, are no chunks.
                let key = check_key(full.strip_prefix(&self.prefix)?).ok()?;
                let bytes = object.size.and_then(|n| u64::try_from(n).ok());
                Some((key, bytes.unwrap_or(0)))
            });
            found.extend(asked_for);
            match page.next {
                None => break,
                Some(next) if next == position => return Err(self.cut_short(&folder)),
                Some(next) => position = next,
            }
        }
        let objects = found.into_iter().map(|(key, bytes)| Object { key, bytes });
        Ok(objects.collect())
    }

    /// Tries whether the bucket can be listed.
    pub(super) async fn list_nothing(&self) -> Result<(), StoreError> {
        let folder = format!("{}.probe/", self.prefix);
        self.page(&folder, &Position::Start).await.map(drop)
    }

    async fn page(&self, folder: &str, position: &Position) -> Result<Page, StoreError> {
        let token = match position {
            Position::Behind(key) => return self.first_version(folder, Some(key)).await,
            Position::Token(token) => Some(token.clone()),
            Position::Start if !self.abilities.second_lists.is_there() => {
                return self.first_version(folder, None).await;
            }
            Position::Start => None,
        };
        match self.second_version(folder, token).await {
            Err(StoreError::Invalid { .. }) if *position == Position::Start => {
                let page = self.first_version(folder, None).await?;
                self.abilities.second_lists.is_missing();
                Ok(page)
            }
            page => page,
        }
    }

    async fn second_version(
        &self,
        folder: &str,
        token: Option<String>,
    ) -> Result<Page, StoreError> {
        let request = ListObjectsV2Request {
            bucket: self.bucket.clone(),
            prefix: Some(folder.to_owned()).filter(|folder| !folder.is_empty()),
            continuation_token: token,
            ..ListObjectsV2Request::default()
        };
        let page = self.client.list_objects_v2(request).await;
        let page = page.map_err(|cause| match cause {
            RusotoError::Service(ListObjectsV2Error::NoSuchBucket(_)) => self.no_bucket(folder),
            cause => fault(self.listing(folder), cause),
        })?;
        if page.is_truncated.is_none() && page.name.is_none() && page.contents.is_none() {
            return Err(self.no_list(folder));
        }
        let objects = page.contents.unwrap_or_default();
        let token = page.next_continuation_token.filter(|it| !it.is_empty());
        let next = match (page.is_truncated, token) {
            (Some(false), _) | (None, None) => None,
            (_, Some(token)) => Some(Position::Token(token)),
            // The store answered in the first version's way.
            (Some(true), None) => Some(self.behind(folder, &objects)?),
        };
        Ok(Page { objects, next })
    }

    async fn first_version(&self, folder: &str, marker: Option<&str>) -> Result<Page, StoreError> {
        let request = ListObjectsRequest {
            bucket: self.bucket.clone(),
            prefix: Some(folder.to_owned()).filter(|folder| !folder.is_empty()),
            marker: marker.map(str::to_owned),
            ..ListObjectsRequest::default()
        };
        let page = self.client.list_objects(request).await;
        let page = page.map_err(|cause| match cause {
            RusotoError::Service(ListObjectsError::NoSuchBucket(_)) => self.no_bucket(folder),
            cause => fault(self.listing(folder), cause),
        })?;
        if page.is_truncated.is_none() && page.name.is_none() && page.contents.is_none() {
            return Err(self.no_list(folder));
        }
        let objects = page.contents.unwrap_or_default();
        let next = match page.next_marker.filter(|it| !it.is_empty()) {
            _ if page.is_truncated != Some(true) => None,
            Some(marker) => Some(Position::Behind(marker)),
            None => Some(self.behind(folder, &objects)?),
        };
        Ok(Page { objects, next })
    }

    /// The position behind the last of `objects`.
    fn behind(&self, folder: &str, objects: &[Listed]) -> Result<Position, StoreError> {
        let last = objects.last().and_then(|object| object.key.clone());
        last.map(Position::Behind)
            .ok_or_else(|| self.cut_short(folder))
    }

    fn listing(&self, folder: &str) -> String {
        format!("list {}/{folder}", self.bucket)
    }

    fn no_bucket(&self, folder: &str) -> StoreError {
        StoreError::Invalid {
            act: self.listing(folder),
            cause: "there is no such bucket".into(),
        }
    }

    fn no_list(&self, folder: &str) -> StoreError {
        StoreError::Unavailable {
            act: self.listing(folder),
            cause:
                "the answer is no list; is HA_AWS_S3_SERVICE_ENDPOINT the address of an S3 store?"
                    .into(),
        }
    }

    fn cut_short(&self, folder: &str) -> StoreError {
        StoreError::Invalid {
            act: self.listing(folder),
            cause: "the store says that there is more than it names, and names the same when it is asked for the rest; a part is \
                    not taken for the whole: have the store's lists mended, or use another store"
                .into(),
        }
    }
}
