//! The store as an S3 bucket. What is stored is checked: the request carries the MD5 of its body, the answer's ETag must name
//! the same where it is one, and a large object's size is asked for afterwards. Nothing here depends on conditional writes,
//! which not every store has; what else a store may lack is in [`Abilities`].

mod content;
mod delete;
mod faults;
mod list;

use super::abilities::Abilities;
use super::credentials::Credentials;
use super::dispatch::{BucketIn, Dispatcher, SILENCE};
use super::{ChunkStore, Object, StoreError, check_deletion, check_key, check_prefix};
use crate::backoff::Backoff;
use crate::config::{Addressing, Headers, Settings};
use crate::disk;
use crate::disk::Draft;
use crate::outbound::{self, OutboundError, Trust};
use crate::tasks::Tasks;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use content::{AsyncTake, Content, FileSink, Nowhere};
use faults::{fault, unavailable, unreadable};
use futures_util::{StreamExt, TryStreamExt, stream};
use log::{info, warn};
use md5::{Digest, Md5};
use rusoto_core::{Client, Region, RusotoError};
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload,
    CompletedPart, CreateBucketConfiguration, CreateBucketError, CreateBucketRequest,
    CreateMultipartUploadRequest, GetObjectError, GetObjectOutput, GetObjectRequest,
    HeadBucketError, HeadBucketRequest, HeadObjectRequest, PutObjectRequest, S3, S3Client,
    UploadPartRequest,
};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Larger files go in parts.
const WHOLE: u64 = 16 << 20;
const PART: u64 = 8 << 20;
const PARTS_ABREAST: usize = 2;
const TRIES: u32 = 4;

/// Objects in a bucket, below a prefix.
pub struct S3Store {
    client: S3Client,
    bucket: String,
    /// With a slash at its end, or empty.
    prefix: String,
    region: String,
    on_aws: bool,
    batch: usize,
    abilities: Abilities,
    ready: OnceCell<()>,
    tasks: Tasks,
}

impl S3Store {
    /// The store that the settings name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when bucket, prefix, headers, addressing or `HA_CA_FILE` cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, StoreError> {
        let (bucket, prefix) = split_bucket(&settings.s3_bucket)?;
        let headers = upload_headers(&settings.s3_headers)?;
        let endpoint = endpoint(settings);
        let place = place(settings, &bucket)?;
        let http = http(settings).map_err(|cause| StoreError::Invalid {
            act: "open the S3 store".into(),
            cause: cause.to_string(),
        })?;
        let region = settings.s3_region.clone();
        let on_aws = endpoint.is_none();
        let rusoto_region = Region::Custom {
            name: region.clone(),
            endpoint: endpoint.unwrap_or_else(|| aws_endpoint(&region)),
        };
        let credentials = Credentials::new(settings, http.clone());
        let dispatcher = Dispatcher::new(http, credentials, place, &bucket, headers);
        Ok(Self {
            client: S3Client::new_with_client(Client::new_not_signing(dispatcher), rusoto_region),
            bucket,
            prefix,
            region,
            on_aws,
            batch: settings.s3_cleanup_batch.get() as usize,
            abilities: Abilities::assumed(),
            ready: OnceCell::new(),
            tasks: Tasks::new(),
        })
    }

    /// Makes sure once that the bucket is there, and makes it where it is missing and that is allowed. For those who
    /// store: whoever only reads is told that it is missing, and a mistyped name makes none.
    async fn ready(&self) -> Result<(), StoreError> {
        self.ready
            .get_or_try_init(|| self.find_bucket())
            .await
            .map(drop)
    }

    async fn find_bucket(&self) -> Result<(), StoreError> {
        let request = HeadBucketRequest {
            bucket: self.bucket.clone(),
            ..HeadBucketRequest::default()
        };
        match self.client.head_bucket(request).await {
            Ok(()) => Ok(()),
            Err(RusotoError::Service(HeadBucketError::NoSuchBucket(_))) => self.make_bucket().await,
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => {
                self.make_bucket().await
            }
            // Whoever may read and write objects need not be allowed to ask about their bucket, and the answer to a HEAD cannot
            // say what is wrong: the next request's answer can.
            Err(RusotoError::Unknown(answer))
                if matches!(answer.status.as_u16(), 300..=499 | 501) =>
            {
                Ok(())
            }
            Err(cause) => Err(fault(format!("reach the bucket {}", self.bucket), cause)),
        }
    }

    async fn make_bucket(&self) -> Result<(), StoreError> {
        let elsewhere = self.on_aws && self.region != "us-east-1";
        let request = CreateBucketRequest {
            bucket: self.bucket.clone(),
            create_bucket_configuration: elsewhere.then(|| CreateBucketConfiguration {
                location_constraint: Some(self.region.clone()),
            }),
            ..CreateBucketRequest::default()
        };
        match self.client.create_bucket(request).await {
            Ok(_) => {
                info!(bucket = self.bucket; "the bucket was missing and has been made");
                Ok(())
            }
            Err(RusotoError::Service(CreateBucketError::BucketAlreadyOwnedByYou(_))) => Ok(()),
            Err(cause) => Err(fault(
                format!("make the missing bucket {}", self.bucket),
                cause,
            )),
        }
    }

    /// Does `work`, again a few times where that may help.
    async fn persist<T, F>(&self, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            match work().await {
                Err(StoreError::Unavailable { .. }) if backoff.attempt() + 1 < TRIES => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                done => return done,
            }
        }
    }

    fn full_key(&self, key: &str) -> Result<String, StoreError> {
        Ok(format!("{}{}", self.prefix, check_key(key)?))
    }

    async fn put_whole(&self, key: &str, content: Content) -> Result<(), StoreError> {
        let act = || format!("store {key}");
        let (digest, body) = content.open(&self.tasks, act()).await?;
        let request = PutObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            content_length: i64::try_from(content.bytes()).ok(),
            content_md5: Some(BASE64.encode(digest)),
            body: Some(body),
            ..PutObjectRequest::default()
        };
        let stored = self.client.put_object(request).await;
        let stored = stored.map_err(|cause| fault(act(), cause))?;
        let tag = Tag {
            etag: stored.e_tag.as_deref(),
            encryption: stored.server_side_encryption.as_deref(),
            customer_key: stored.sse_customer_algorithm.as_deref(),
        };
        if self.agrees(&tag, &digest) {
            return Ok(());
        }
        self.prove(key, &digest).await
    }

    async fn begin_parts(&self, key: &str) -> Result<String, StoreError> {
        let act = || format!("store {key} in parts");
        let begun = CreateMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            ..CreateMultipartUploadRequest::default()
        };
        let begun = self.client.create_multipart_upload(begun).await;
        let upload = begun.map_err(|cause| fault(act(), cause))?.upload_id;
        upload.ok_or_else(|| StoreError::Invalid {
            act: act(),
            cause: "the store gave the upload no id".into(),
        })
    }

    async fn put_in_parts(
        &self,
        key: &str,
        path: &Path,
        bytes: u64,
        upload: String,
    ) -> Result<(), StoreError> {
        let stored = self.send_parts(key, path, bytes, &upload).await;
        if stored.is_err() {
            let abort = AbortMultipartUploadRequest {
                bucket: self.bucket.clone(),
                key: key.to_owned(),
                upload_id: upload,
                ..AbortMultipartUploadRequest::default()
            };
            if let Err(cause) = self.client.abort_multipart_upload(abort).await {
                warn!("{}", fault(format!("abort the upload of {key}"), cause));
            }
        }
        stored
    }

    async fn send_parts(
        &self,
        key: &str,
        path: &Path,
        bytes: u64,
        upload: &str,
    ) -> Result<(), StoreError> {
        let act = || format!("store {key} in parts");
        let parts = stream::iter(0..bytes.div_ceil(PART)).map(|number| {
            let content = Content::File {
                path: path.to_owned(),
                from: number * PART,
                bytes: PART.min(bytes - number * PART),
            };
            self.send_part(key, upload, number as i64 + 1, content)
        });
        let parts: Vec<_> = parts.buffered(PARTS_ABREAST).try_collect().await?;
        let all_agree = parts.iter().all(|(_, agrees)| *agrees);
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        let complete = CompleteMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            multipart_upload: Some(CompletedMultipartUpload { parts: Some(parts) }),
            ..CompleteMultipartUploadRequest::default()
        };
        let done = self.client.complete_multipart_upload(complete).await;
        done.map_err(|cause| fault(act(), cause))?;
        let head = HeadObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            ..HeadObjectRequest::default()
        };
        let head = self.client.head_object(head).await;
        let stored = head.map_err(|cause| fault(act(), cause))?.content_length;
        let stored = stored.and_then(|stored| u64::try_from(stored).ok());
        if stored != Some(bytes) {
            let stored = stored.map_or("an unknown number".to_owned(), |it| it.to_string());
            let said = format!("the store has {stored} of {bytes} bytes");
            return Err(unavailable(act(), &said));
        }
        if all_agree {
            return Ok(());
        }
        let digest = Content::whole(path, bytes)
            .digest(&self.tasks, act())
            .await?;
        self.prove(key, &digest).await
    }

    /// Sends one part and says whether the answer names the same bytes.
    async fn send_part(
        &self,
        key: &str,
        upload: &str,
        number: i64,
        content: Content,
    ) -> Result<(CompletedPart, bool), StoreError> {
        let act = || format!("store part {number} of {key}");
        let (digest, body) = content.open(&self.tasks, act()).await?;
        let request = UploadPartRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            part_number: number,
            content_length: i64::try_from(content.bytes()).ok(),
            content_md5: Some(BASE64.encode(digest)),
            body: Some(body),
            ..UploadPartRequest::default()
        };
        let stored = self.client.upload_part(request).await;
        let stored = stored.map_err(|cause| fault(act(), cause))?;
        let tag = Tag {
            etag: stored.e_tag.as_deref(),
            encryption: stored.server_side_encryption.as_deref(),
            customer_key: stored.sse_customer_algorithm.as_deref(),
        };
        let agrees = self.agrees(&tag, &digest);
        let part = CompletedPart {
            e_tag: stored.e_tag,
            part_number: Some(number),
        };
        Ok((part, agrees))
    }

    /// Whether the answer names no other bytes than these.
    fn agrees(&self, tag: &Tag, digest: &[u8; 16]) -> bool {
        match tag.md5() {
            Some(md5) if self.abilities.md5_etags.is_there() => {
                md5.eq_ignore_ascii_case(&hex(digest))
            }
            _ => true,
        }
    }

    /// Reads the object back, whose ETag names other bytes than were sent. If it has the same bytes for all that, ETags are no
    /// MD5s here.
    async fn prove(&self, full: &str, digest: &[u8; 16]) -> Result<(), StoreError> {
        let found = match self.get(full, full).await {
            // Whoever may only write cannot look; Content-MD5 has guarded the way up.
            Err(StoreError::Refused { .. }) => return Ok(()),
            found => found?,
        };
        let (_, stored) = pour(full, found, Nowhere).await?;
        if stored == *digest {
            self.abilities.md5_etags.is_missing();
            return Ok(());
        }
        let act = format!("store {full}");
        Err(unavailable(act, "the store has other bytes than were sent"))
    }

    async fn get(&self, full: &str, key: &str) -> Result<GetObjectOutput, StoreError> {
        self.get_range(full, key, None).await
    }

    async fn get_range(
        &self,
        full: &str,
        key: &str,
        range: Option<String>,
    ) -> Result<GetObjectOutput, StoreError> {
        let request = GetObjectRequest {
            bucket: self.bucket.clone(),
            key: full.to_owned(),
            range,
            ..GetObjectRequest::default()
        };
        match self.client.get_object(request).await {
            Ok(found) => Ok(found),
            Err(RusotoError::Service(GetObjectError::NoSuchKey(_))) => {
                Err(StoreError::NotFound { key: key.into() })
            }
            Err(RusotoError::Unknown(answer))
                if answer.status.as_u16() == 404
                    && !answer.body_as_str().contains("NoSuchBucket") =>
            {
                Err(StoreError::NotFound { key: key.into() })
            }
            // The object ends before the range that was asked for.
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 416 => {
                Ok(GetObjectOutput {
                    content_range: Some("bytes */*".into()),
                    body: Some(Vec::new().into()),
                    ..GetObjectOutput::default()
                })
            }
            Err(cause) => Err(fault(format!("read {key}"), cause)),
        }
    }

    /// Hands the object's bytes to `take` in order, and checks that they are all and those that were stored.
    async fn receive(
        &self,
        key: &str,
        found: GetObjectOutput,
        take: impl AsyncTake,
        doubt: &Doubt,
    ) -> Result<u64, StoreError> {
        let (etag, encryption) = (found.e_tag.clone(), found.server_side_encryption.clone());
        let customer_key = found.sse_customer_algorithm.clone();
        let (bytes, digest) = pour(key, found, take).await?;
        let tag = Tag {
            etag: etag.as_deref(),
            encryption: encryption.as_deref(),
            customer_key: customer_key.as_deref(),
        };
        if self.agrees(&tag, &digest) {
            return Ok(bytes);
        }
        if doubt.is_confirmed_by(digest) {
            warn!(
                "{key}: the store's ETag names other bytes than it sends, twice the same; they are used as they are"
            );
            return Ok(bytes);
        }
        let act = format!("read {key}");
        Err(unavailable(act, "other bytes came than its ETag names"))
    }
}

/// What an answer says about an object's bytes.
struct Tag<'a> {
    etag: Option<&'a str>,
    /// By which the store encrypts, on its own account.
    encryption: Option<&'a str>,
    /// By which it encrypts with the customer's key.
    customer_key: Option<&'a str>,
}

impl Tag<'_> {
    /// The MD5 that it names. With a key management service or the customer's key an ETag is none, whatever it looks like.
    fn md5(&self) -> Option<&str> {
        let plain = self.customer_key.is_none() && matches!(self.encryption, None | Some("AES256"));
        let etag = self.etag?.trim_matches('"');
        (plain && is_md5(etag)).then_some(etag)
    }
}

/// What a read, tried again, saw before: bytes that came wrong on the way do not come the same twice.
#[derive(Default)]
struct Doubt(Mutex<Option<[u8; 16]>>);

impl Doubt {
    fn is_confirmed_by(&self, digest: [u8; 16]) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.replace(digest) == Some(digest)
    }
}

/// Hands the object's bytes to `take` in order, and checks that they are all; how many there were, and their MD5.
async fn pour(
    key: &str,
    found: GetObjectOutput,
    mut take: impl AsyncTake,
) -> Result<(u64, [u8; 16]), StoreError> {
    let act = || format!("read {key}");
    let expected = found.content_length.and_then(|n| u64::try_from(n).ok());
    let mut body = found
        .body
        .ok_or_else(|| unavailable(act(), "no body came"))?;
    let (mut bytes, mut hasher) = (0, Md5::new());
    while let Some(block) = body.next().await {
        let block = block.map_err(|cause| unavailable(act(), &cause.to_string()))?;
        bytes += block.len() as u64;
        hasher.update(&block);
        take.take(block)
            .await
            .map_err(|cause| unavailable(act(), &cause.to_string()))?;
    }
    if expected.is_some_and(|expected| expected != bytes) {
        return Err(unavailable(act(), "the answer was cut short"));
    }
    Ok((bytes, hasher.finalize().into()))
}

#[async_trait]
impl ChunkStore for S3Store {
    async fn put(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let full = self.full_key(key)?;
        self.persist(|| async {
            self.ready().await?;
            let found = tokio::fs::metadata(path).await;
            let bytes = found
                .map_err(|cause| unreadable(format!("store {key}"), path, &cause))?
                .len();
            let in_parts = bytes > WHOLE && self.abilities.parts.is_there();
            if in_parts {
                match self.begin_parts(&full).await {
                    Ok(upload) => return self.put_in_parts(&full, path, bytes, upload).await,
                    // Not every store has parts. What is wrong for another reason shows with the whole, too.
                    Err(StoreError::Invalid { .. }) => {}
                    Err(cause) => return Err(cause),
                }
            }
            self.put_whole(&full, Content::whole(path, bytes)).await?;
            if in_parts {
                self.abilities.parts.is_missing();
            }
            Ok(())
        })
        .await
    }

    async fn put_bytes(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let full = self.full_key(key)?;
        self.persist(|| async {
            self.ready().await?;
            self.put_whole(&full, Content::Memory(body.clone())).await
        })
        .await
    }

    async fn fetch(&self, key: &str, to: &Path) -> Result<u64, StoreError> {
        let full = self.full_key(key)?;
        let disk_fault = |cause: &std::io::Error| StoreError::Full {
            act: format!("fetch {key} to {}", to.display()),
            cause: cause.to_string(),
        };
        let doubt = Doubt::default();
        self.persist(|| async {
            let found = self.get(&full, key).await?;
            let folder = disk::parent(to);
            disk::make_folder(folder).map_err(|cause| disk_fault(&cause))?;
            let draft = Draft::new(folder).map_err(|cause| disk_fault(&cause))?;
            let file = draft.file.try_clone().map_err(|cause| disk_fault(&cause))?;
            let mut sink = FileSink(tokio::fs::File::from_std(file));
            let bytes = self.receive(key, found, &mut sink, &doubt).await?;
            sink.end().await.map_err(|cause| disk_fault(&cause))?;
            let name = to.to_owned();
            let publish = self
                .tasks
                .spawn_blocking("publish a fetched object", move || draft.publish(&name));
            match publish.await {
                Ok(Ok(())) => Ok(bytes),
                Ok(Err(cause)) => Err(disk_fault(&cause)),
                Err(cause) => Err(unavailable(format!("fetch {key}"), &cause.to_string())),
            }
        })
        .await
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let full = self.full_key(key)?;
        let doubt = Doubt::default();
        self.persist(|| async {
            let found = self.get(&full, key).await?;
            let mut whole = Vec::new();
            self.receive(key, found, &mut whole, &doubt).await?;
            Ok(Bytes::from(whole))
        })
        .await
    }

    async fn read_from(&self, key: &str, offset: u64) -> Result<Bytes, StoreError> {
        if offset == 0 {
            return self.read(key).await;
        }
        let full = self.full_key(key)?;
        self.persist(|| async {
            let range = Some(format!("bytes={offset}-"));
            let found = self.get_range(&full, key, range).await?;
            // Not every store knows ranges.
            let skipped = match found.content_range {
                Some(_) => 0,
                None => usize::try_from(offset).unwrap_or(usize::MAX),
            };
            let mut bytes = Vec::new();
            pour(key, found, &mut bytes).await?;
            let bytes = Bytes::from(bytes);
            let skipped = skipped.min(bytes.len());
            Ok(bytes.slice(skipped..))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = check_prefix(prefix)?;
        self.list_full(&prefix).await
    }

    async fn delete(&self, prefix: &str) -> Result<usize, StoreError> {
        let prefix = check_deletion(prefix)?;
        let found = self.list_full(&prefix).await?;
        for batch in found.chunks(self.batch) {
            self.delete_batch(batch).await?;
        }
        Ok(found.len())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.ready().await?;
        self.list_nothing().await
    }

    fn path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

/// `bucket` or `bucket/path`.
fn split_bucket(text: &str) -> Result<(String, String), StoreError> {
    let (bucket, path) = text
        .trim_matches('/')
        .split_once('/')
        .unwrap_or((text.trim_matches('/'), ""));
    let fits = (3..=63).contains(&bucket.len())
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    if !fits {
        return Err(StoreError::Invalid {
            act: format!("use HA_AWS_S3_BUCKET={text}"),
            cause: "a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens"
                .into(),
        });
    }
    let prefix = match check_prefix(path)? {
        path if path.is_empty() => path,
        path => format!("{path}/"),
    };
    Ok((bucket.to_owned(), prefix))
}

/// The configured headers, as long as they are not what signing itself sets.
fn upload_headers(headers: &Headers) -> Result<Vec<(String, String)>, StoreError> {
    const OURS: [&str; 8] = [
        "host",
        "authorization",
        "content-length",
        "content-md5",
        "transfer-encoding",
        "x-amz-date",
        "x-amz-content-sha256",
        "x-amz-security-token",
    ];
    let lower = |(name, value): &(String, String)| (name.to_ascii_lowercase(), value.clone());
    let headers: Vec<_> = headers.0.iter().map(lower).collect();
    match headers
        .iter()
        .find(|(name, _)| OURS.contains(&name.as_str()))
    {
        None => Ok(headers),
        Some((name, _)) => Err(StoreError::Invalid {
            act: format!("send the header {name} of HA_AWS_S3_HEADERS"),
            cause: "every request sets it by itself; leave it out".into(),
        }),
    }
}

fn http(settings: &Settings) -> Result<reqwest::Client, OutboundError> {
    let trust = Trust::of(settings)?;
    let builder = outbound::builder_trusting(Duration::from_secs(5), &trust)?;
    let builder = match is_built_in(settings) {
        // It is this installation's own: no proxy lies on the way to it, nor is one to see what is recorded.
        true => builder.no_proxy(),
        false => builder,
    };
    Ok(builder.read_timeout(SILENCE).build()?)
}

/// Whether chunks go to the built-in server.
fn is_built_in(settings: &Settings) -> bool {
    settings.s3_endpoint.is_none() && settings.s3_server_on()
}

/// Where requests name the bucket.
fn place(settings: &Settings, bucket: &str) -> Result<BucketIn, StoreError> {
    let built_in = is_built_in(settings);
    let endpoint = settings.s3_endpoint.as_ref().map(|url| url.expose());
    match (settings.s3_addressing, endpoint) {
        // The built-in server has one name, without buckets before it.
        _ if built_in => Ok(BucketIn::Path),
        (Addressing::Path, _) | (Addressing::Auto, Some(_)) => Ok(BucketIn::Path),
        // No certificate covers the dots.
        (Addressing::Auto, None) if bucket.contains('.') => Ok(BucketIn::Path),
        (Addressing::Host, Some(endpoint)) if !has_a_name(endpoint) => Err(StoreError::Invalid {
            act: "use HA_S3_ADDRESSING=host".into(),
            cause: "HA_AWS_S3_SERVICE_ENDPOINT is a numeric address, which no bucket's name can stand before; give the store's \
                    host name, or set HA_S3_ADDRESSING=path"
                .into(),
        }),
        (Addressing::Auto | Addressing::Host, _) => Ok(BucketIn::Host),
    }
}

/// Whether the URL's host is a name rather than an address.
fn has_a_name(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.domain().is_some())
}

/// The custom endpoint, or the built-in server's; `None` for AWS.
fn endpoint(settings: &Settings) -> Option<String> {
    match &settings.s3_endpoint {
        Some(url) => Some(url.expose().to_owned()),
        None if settings.s3_server_on() => {
            let host = settings.controller_host.in_url();
            Some(format!("http://{host}:{}", settings.s3_server_port.0))
        }
        None => None,
    }
}

fn aws_endpoint(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{china}")
}

fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hex(digest: &[u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    #[test]
    fn a_bucket_may_carry_a_path() {
        let (bucket, prefix) = split_bucket("/my-bucket/a/b/").unwrap();
        assert_eq!((bucket.as_str(), prefix.as_str()), ("my-bucket", "a/b/"));
        assert_eq!(split_bucket("my.bucket").unwrap().1, "");
        for bad in ["", "ab", "My-Bucket", "a_b_c", "bucket/../x"] {
            assert!(split_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_endpoint_follows_from_the_settings() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().copied().chain([
                ("HA_RECORDING_STORAGE", "s3"),
                ("HA_AWS_ACCESS_KEY", "a"),
                ("HA_AWS_SECRET_KEY", "b"),
            ]);
            endpoint(&Variables::of(pairs).settings().unwrap())
        };
        assert_eq!(of(&[]), None, "keys without an endpoint are AWS's");
        let built_in = of(&[("HA_S3_SERVER", "on")]);
        assert_eq!(built_in.as_deref(), Some("http://localhost:9000"));
        let custom = of(&[("HA_AWS_S3_SERVICE_ENDPOINT", "https://minio:9000/")]);
        assert_eq!(custom.as_deref(), Some("https://minio:9000"));
        assert_eq!(
            aws_endpoint("cn-north-1"),
            "https://s3.cn-north-1.amazonaws.com.cn"
        );
    }

    #[test]
    fn headers_that_signing_sets_are_refused() {
        let headers = |name: &str| Headers(vec![(name.into(), "v".into())]);
        assert!(upload_headers(&headers("X-Amz-Date")).is_err());
        let taken = upload_headers(&headers("X-Amz-Storage-Class")).unwrap();
        assert_eq!(taken[0].0, "x-amz-storage-class");
    }
}
