//! The store as an S3 bucket. What is stored is checked: the request carries the MD5 of its body, the answer's ETag must
//! name the same, and a large object's size is asked for afterwards. Nothing here depends on conditional writes, which not
//! every store has.

use super::credentials::Credentials;
use super::dispatch::{Addressing, Dispatcher, SILENCE};
use super::{ChunkStore, Object, StoreError, check_deletion, check_key, check_prefix};
use crate::backoff::Backoff;
use crate::config::{Headers, Settings};
use crate::disk::Draft;
use crate::tasks::Tasks;
use crate::{disk, outbound};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use log::{info, warn};
use md5::{Digest, Md5};
use rusoto_core::{ByteStream, Client, Region, RusotoError};
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload,
    CompletedPart, CreateBucketConfiguration, CreateBucketError, CreateBucketRequest,
    CreateMultipartUploadRequest, Delete, DeleteObjectsRequest, GetObjectError, GetObjectOutput,
    GetObjectRequest, HeadBucketError, HeadBucketRequest, HeadObjectRequest, ListObjectsV2Error,
    ListObjectsV2Request, ObjectIdentifier, PutObjectRequest, S3, S3Client, UploadPartRequest,
};
use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::OnceCell;
use tokio_util::io::ReaderStream;

/// Larger files go in parts.
const WHOLE: u64 = 16 << 20;
const PART: u64 = 8 << 20;
const PARTS_ABREAST: usize = 2;
const BLOCK: usize = 256 << 10;
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
    /// Whether an ETag is the MD5 of what was stored; not so with a key-management service.
    etag_is_md5: bool,
    ready: OnceCell<()>,
    tasks: Tasks,
}

impl S3Store {
    /// The store that the settings name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when bucket, prefix or headers cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, StoreError> {
        let (bucket, prefix) = split_bucket(&settings.s3_bucket)?;
        let headers = upload_headers(&settings.s3_headers)?;
        let endpoint = endpoint(settings);
        let addressing = match &endpoint {
            None if !bucket.contains('.') => Addressing::Host,
            _ => Addressing::Path,
        };
        let http = outbound::builder(Duration::from_secs(5))
            .read_timeout(SILENCE)
            .build()
            .map_err(|cause| StoreError::Invalid {
                act: "set up the S3 client".into(),
                cause: cause.to_string(),
            })?;
        let region = settings.s3_region.clone();
        let on_aws = endpoint.is_none();
        let rusoto_region = Region::Custom {
            name: region.clone(),
            endpoint: endpoint.unwrap_or_else(|| aws_endpoint(&region)),
        };
        let etag_is_md5 = !headers
            .iter()
            .any(|(name, value)| name.starts_with("x-amz-server-side") && value != "AES256");
        let credentials = Credentials::new(settings, http.clone());
        let dispatcher = Dispatcher::new(http, credentials, addressing, &bucket, headers);
        Ok(Self {
            client: S3Client::new_with_client(Client::new_not_signing(dispatcher), rusoto_region),
            bucket,
            prefix,
            region,
            on_aws,
            batch: settings.s3_cleanup_batch.get() as usize,
            etag_is_md5,
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
            // Whoever may read and write objects need not be allowed to ask about their bucket.
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 403 => Ok(()),
            Err(cause) => Err(fault(format!("find the bucket {}", self.bucket), cause)),
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
        self.check_etag(act, stored.e_tag.as_deref(), &digest)
    }

    async fn put_in_parts(&self, key: &str, path: &Path, bytes: u64) -> Result<(), StoreError> {
        let act = || format!("store {key} in parts");
        let begun = CreateMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            ..CreateMultipartUploadRequest::default()
        };
        let begun = self.client.create_multipart_upload(begun).await;
        let upload = begun
            .map_err(|cause| fault(act(), cause))?
            .upload_id
            .ok_or_else(|| unavailable(act(), "the store gave the upload no id"))?;
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
        if stored.and_then(|stored| u64::try_from(stored).ok()) == Some(bytes) {
            Ok(())
        } else {
            let said = format!("the store has {stored:?} of {bytes} bytes");
            Err(unavailable(act(), &said))
        }
    }

    async fn send_part(
        &self,
        key: &str,
        upload: &str,
        number: i64,
        content: Content,
    ) -> Result<CompletedPart, StoreError> {
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
        let e_tag = stored.map_err(|cause| fault(act(), cause))?.e_tag;
        self.check_etag(act, e_tag.as_deref(), &digest)?;
        Ok(CompletedPart {
            e_tag,
            part_number: Some(number),
        })
    }

    fn check_etag(
        &self,
        act: impl Fn() -> String,
        etag: Option<&str>,
        digest: &[u8; 16],
    ) -> Result<(), StoreError> {
        match etag.map(|etag| etag.trim_matches('"')) {
            Some(etag) if self.etag_is_md5 && is_md5(etag) && etag != hex(digest) => Err(
                unavailable(act(), "the store has other bytes than were sent"),
            ),
            _ => Ok(()),
        }
    }

    async fn get(&self, full: &str, key: &str) -> Result<GetObjectOutput, StoreError> {
        let request = GetObjectRequest {
            bucket: self.bucket.clone(),
            key: full.to_owned(),
            ..GetObjectRequest::default()
        };
        self.client
            .get_object(request)
            .await
            .map_err(|cause| match cause {
                RusotoError::Service(GetObjectError::NoSuchKey(_)) => {
                    StoreError::NotFound { key: key.into() }
                }
                RusotoError::Unknown(answer)
                    if answer.status.as_u16() == 404
                        && !answer.body_as_str().contains("NoSuchBucket") =>
                {
                    StoreError::NotFound { key: key.into() }
                }
                cause => fault(format!("read {key}"), cause),
            })
    }

    /// Hands the object's bytes to `take` in order, and checks that they are all.
    async fn receive(
        &self,
        key: &str,
        found: GetObjectOutput,
        mut take: impl AsyncTake,
    ) -> Result<u64, StoreError> {
        let act = || format!("read {key}");
        let expected = found.content_length.and_then(|n| u64::try_from(n).ok());
        let etag = found.e_tag.map(|etag| etag.trim_matches('"').to_owned());
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
        self.check_etag(act, etag.as_deref(), &hasher.finalize().into())?;
        Ok(bytes)
    }

    async fn list_full(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let folder = match prefix {
            "" => self.prefix.clone(),
            prefix => format!("{}{prefix}/", self.prefix),
        };
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let page = self.persist(|| self.page(&folder, token.clone())).await?;
            for object in page.contents.unwrap_or_default() {
                let full = object.key.unwrap_or_default();
                // Markers of folders, which other tools make, are no chunks.
                let key = full.strip_prefix(&self.prefix).map(check_key);
                if let Some(Ok(key)) = key {
                    let bytes = object.size.and_then(|n| u64::try_from(n).ok());
                    found.push(Object {
                        key,
                        bytes: bytes.unwrap_or(0),
                    });
                }
            }
            match page.next_continuation_token {
                Some(next) if page.is_truncated == Some(true) => token = Some(next),
                _ => break,
            }
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn page(
        &self,
        folder: &str,
        token: Option<String>,
    ) -> Result<rusoto_s3::ListObjectsV2Output, StoreError> {
        let request = ListObjectsV2Request {
            bucket: self.bucket.clone(),
            prefix: Some(folder.to_owned()).filter(|folder| !folder.is_empty()),
            continuation_token: token,
            ..ListObjectsV2Request::default()
        };
        let page = self.client.list_objects_v2(request).await;
        let act = format!("list {}/{folder}", self.bucket);
        page.map_err(|cause| match cause {
            RusotoError::Service(ListObjectsV2Error::NoSuchBucket(_)) => StoreError::Invalid {
                act,
                cause: "there is no such bucket".into(),
            },
            cause => fault(act, cause),
        })
    }

    async fn delete_batch(&self, batch: &[Object]) -> Result<(), StoreError> {
        let objects = batch
            .iter()
            .map(|object| ObjectIdentifier {
                key: format!("{}{}", self.prefix, object.key),
                version_id: None,
            })
            .collect();
        let request = DeleteObjectsRequest {
            bucket: self.bucket.clone(),
            delete: Delete {
                objects,
                quiet: Some(true),
            },
            ..DeleteObjectsRequest::default()
        };
        let act = || format!("delete {} objects", batch.len());
        let done = self.client.delete_objects(request).await;
        let errors = done.map_err(|cause| fault(act(), cause))?.errors;
        match errors.unwrap_or_default().into_iter().next() {
            None => Ok(()),
            Some(first) => {
                let code = first.code.unwrap_or_default();
                let said = first.message.unwrap_or_default();
                Err(judge(act(), 0, &code, &said))
            }
        }
    }
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
            if bytes > WHOLE {
                return self.put_in_parts(&full, path, bytes).await;
            }
            let content = Content::File {
                path: path.to_owned(),
                from: 0,
                bytes,
            };
            self.put_whole(&full, content).await
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
        self.persist(|| async {
            let found = self.get(&full, key).await?;
            let folder = disk::parent(to);
            disk::make_folder(folder).map_err(|cause| disk_fault(&cause))?;
            let draft = Draft::new(folder).map_err(|cause| disk_fault(&cause))?;
            let file = draft.file.try_clone().map_err(|cause| disk_fault(&cause))?;
            let mut sink = FileSink(tokio::fs::File::from_std(file));
            let bytes = self.receive(key, found, &mut sink).await?;
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
        self.persist(|| async {
            let found = self.get(&full, key).await?;
            let mut whole = Vec::new();
            self.receive(key, found, &mut whole).await?;
            Ok(Bytes::from(whole))
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
            self.persist(|| self.delete_batch(batch)).await?;
        }
        Ok(found.len())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.ready().await?;
        let folder = format!("{}.probe/", self.prefix);
        self.page(&folder, None).await.map(drop)
    }

    fn path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

/// Where received bytes go.
trait AsyncTake {
    fn take(&mut self, block: Bytes) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl AsyncTake for &mut Vec<u8> {
    async fn take(&mut self, block: Bytes) -> std::io::Result<()> {
        self.extend_from_slice(&block);
        Ok(())
    }
}

struct FileSink(tokio::fs::File);

impl FileSink {
    async fn end(&mut self) -> std::io::Result<()> {
        tokio::io::AsyncWriteExt::flush(&mut self.0).await
    }
}

impl AsyncTake for &mut FileSink {
    async fn take(&mut self, block: Bytes) -> std::io::Result<()> {
        tokio::io::AsyncWriteExt::write_all(&mut self.0, &block).await
    }
}

/// What an upload carries.
enum Content {
    Memory(Bytes),
    File {
        path: PathBuf,
        from: u64,
        bytes: u64,
    },
}

impl Content {
    fn bytes(&self) -> u64 {
        match self {
            Self::Memory(body) => body.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// The MD5 of the content, and a stream of it. A file is read twice rather than held in memory.
    async fn open(&self, tasks: &Tasks, act: String) -> Result<([u8; 16], ByteStream), StoreError> {
        match self {
            Self::Memory(body) => {
                let (body, bytes) = (body.clone(), body.len());
                let digest = Md5::digest(&body).into();
                let once = stream::once(async move { Ok(body) });
                Ok((digest, ByteStream::new_with_size(once, bytes)))
            }
            Self::File { path, from, bytes } => {
                let failed = |cause: &std::io::Error| unreadable(act.clone(), path, cause);
                let (name, start, length) = (path.clone(), *from, *bytes);
                let digest = tasks
                    .spawn_blocking("hash a chunk", move || hash(&name, start, length))
                    .await
                    .map_err(|cause| unavailable(act.clone(), &cause.to_string()))?
                    .map_err(|cause| failed(&cause))?;
                let mut file = tokio::fs::File::open(path)
                    .await
                    .map_err(|cause| failed(&cause))?;
                file.seek(SeekFrom::Start(*from))
                    .await
                    .map_err(|cause| failed(&cause))?;
                let blocks = ReaderStream::with_capacity(file.take(*bytes), BLOCK);
                Ok((digest, ByteStream::new_with_size(blocks, *bytes as usize)))
            }
        }
    }
}

fn hash(path: &Path, from: u64, bytes: u64) -> std::io::Result<[u8; 16]> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = file.take(bytes);
    let (mut hasher, mut block, mut seen) = (Md5::new(), vec![0; BLOCK], 0);
    loop {
        match rest.read(&mut block)? {
            0 if seen == bytes => return Ok(hasher.finalize().into()),
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                hasher.update(&block[..read]);
                seen += read as u64;
            }
        }
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

/// The custom endpoint, or the built-in server's; `None` for AWS.
fn endpoint(settings: &Settings) -> Option<String> {
    match &settings.s3_endpoint {
        Some(url) => Some(url.expose().to_owned()),
        None if settings.s3_server_on() => {
            let host = match settings.controller_host.as_str() {
                host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
                host => host.to_owned(),
            };
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

fn unavailable(act: String, cause: &str) -> StoreError {
    StoreError::Unavailable {
        act,
        cause: cause.to_owned(),
    }
}

fn unreadable(act: String, path: &Path, cause: &std::io::Error) -> StoreError {
    StoreError::Invalid {
        act,
        cause: format!("{} cannot be read: {cause}", path.display()),
    }
}

/// What became of a request, as a sentence.
fn fault<E: std::error::Error + 'static>(act: String, cause: RusotoError<E>) -> StoreError {
    match cause {
        RusotoError::Unknown(answer) => {
            let body = answer.body_as_str();
            let code = element(body, "Code").unwrap_or_default();
            let said = element(body, "Message").unwrap_or_default();
            judge(act, answer.status.as_u16(), code, said)
        }
        RusotoError::HttpDispatch(cause) => unavailable(act, &cause.to_string()),
        RusotoError::Service(cause) => unavailable(act, &cause.to_string()),
        cause => unavailable(act, &format!("the answer cannot be understood: {cause}")),
    }
}

fn judge(act: String, status: u16, code: &str, said: &str) -> StoreError {
    let cause = match (code, said) {
        ("", _) => format!("the store answered {status}"),
        (code, "") => code.to_owned(),
        (code, said) => format!("{code}: {said}"),
    };
    match (status, code) {
        (_, "RequestTimeTooSkewed") => StoreError::Unavailable {
            act,
            cause: format!("{cause}; set this machine's clock"),
        },
        (507, _) | (_, "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage") => {
            StoreError::Full { act, cause }
        }
        (_, "ExpiredToken" | "BadDigest" | "IncompleteBody" | "RequestTimeout") => {
            StoreError::Unavailable { act, cause }
        }
        // The answer to a HEAD has no body to say more.
        (301 | 307, _) | (400, "") | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            StoreError::Invalid {
                act,
                cause: format!("{cause}; is HA_AWS_REGION the bucket's region?"),
            }
        }
        (401 | 403, _) | (_, "AccessDenied") => StoreError::Refused { act, cause },
        (400 | 404 | 405 | 501, _) => StoreError::Invalid { act, cause },
        _ => StoreError::Unavailable { act, cause },
    }
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
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
        assert_eq!(of(&[]).as_deref(), Some("http://localhost:9000"));
        assert_eq!(of(&[("HA_S3_SERVER", "off")]), None);
        let custom = of(&[("HA_AWS_S3_SERVICE_ENDPOINT", "https://minio:9000/")]);
        assert_eq!(custom.as_deref(), Some("https://minio:9000"));
        assert_eq!(
            aws_endpoint("cn-north-1"),
            "https://s3.cn-north-1.amazonaws.com.cn"
        );
    }

    #[test]
    fn answers_become_sentences_that_say_what_to_do() {
        let full = judge("store x".into(), 507, "InsufficientStorage", "no room");
        assert!(matches!(full, StoreError::Full { .. }) && full.retryable());
        let clock = judge("store x".into(), 403, "RequestTimeTooSkewed", "skewed");
        assert!(clock.retryable() && clock.to_string().contains("clock"));
        let region = judge("store x".into(), 400, "AuthorizationHeaderMalformed", "no");
        assert!(region.to_string().contains("HA_AWS_REGION"));
        assert!(matches!(
            judge("x".into(), 403, "AccessDenied", "no"),
            StoreError::Refused { .. }
        ));
        assert!(judge("x".into(), 503, "SlowDown", "").retryable());
    }

    #[test]
    fn headers_that_signing_sets_are_refused() {
        let headers = |name: &str| Headers(vec![(name.into(), "v".into())]);
        assert!(upload_headers(&headers("X-Amz-Date")).is_err());
        let taken = upload_headers(&headers("X-Amz-Storage-Class")).unwrap();
        assert_eq!(taken[0].0, "x-amz-storage-class");
    }
}
