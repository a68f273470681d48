//! S3's operations on the folder of objects: those that the product and the usual clients need, for one bucket. What is
//! not here answers `NotImplemented`.

use super::folder::{Folder, Found, Meta, Step, open_object};
use super::receive::{Promise, Received, hex, receive};
use crate::tasks::Tasks;
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::collections::HashMap;
use std::io::{self, SeekFrom};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Most keys of one page.
const PAGE: usize = 1000;
const READ_BLOCK: usize = 256 << 10;

/// The one bucket.
pub(super) struct Bucket {
    name: String,
    folder: Folder,
    tasks: Tasks,
    opened_at: SystemTime,
}

impl Bucket {
    pub(super) fn new(name: String, folder: Folder, tasks: Tasks) -> Self {
        Self {
            name,
            folder,
            tasks,
            opened_at: SystemTime::now(),
        }
    }

    fn own(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.name {
            return Ok(());
        }
        Err(S3Error::with_message(
            S3ErrorCode::NoSuchBucket,
            format!("this server has one bucket, {}", self.name),
        ))
    }

    /// Runs `work` where it may wait for the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let folder = self.folder.clone();
        let work = move || work(&folder);
        let done = self.tasks.spawn_blocking("S3 operation", work).await;
        done.map_err(lost)?.map_err(|cause| fault(&cause))
    }

    async fn find(&self, bucket: &str, key: &str) -> S3Result<Found> {
        self.own(bucket)?;
        let wanted = key.to_owned();
        let found = self.on_disk(move |folder| folder.find(&wanted)).await?;
        found.ok_or_else(|| S3ErrorCode::NoSuchKey.into())
    }

    async fn upload(&self, bucket: &str, id: &str, key: &str) -> S3Result<Meta> {
        self.own(bucket)?;
        let (id, key) = (id.to_owned(), key.to_owned());
        let meta = self.on_disk(move |folder| folder.upload(&id, &key)).await?;
        meta.ok_or_else(|| S3ErrorCode::NoSuchUpload.into())
    }

    async fn page(&self, bucket: &str, question: Question) -> S3Result<Page> {
        self.own(bucket)?;
        self.on_disk(move |folder| question.answer(folder)).await
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(vec![s3s::dto::Bucket {
                name: Some(self.name.clone()),
                creation_date: Some(self.opened_at.into()),
                ..Default::default()
            }]),
            ..Default::default()
        }))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let name = request.input.bucket;
        if self.own(&name).is_err() {
            return Err(S3Error::with_message(
                S3ErrorCode::AccessDenied,
                format!("this server has one bucket, {}", self.name),
            ));
        }
        // It is there from the start, and making it again is harmless.
        Ok(S3Response::new(CreateBucketOutput {
            location: Some(format!("/{name}")),
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.own(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.own(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let announced = announced(&request);
        let input = request.input;
        self.own(&input.bucket)?;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(S3Error::with_message(
                S3ErrorCode::NotImplemented,
                "this server has no conditional writes",
            ));
        }
        let promise = Promise {
            bytes: input.content_length,
            md5: input.content_md5,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                checksum_crc64nvme: input.checksum_crc64nvme,
                ..Default::default()
            },
            trailer: request.trailing_headers,
            announced,
        };
        let Received {
            incoming,
            etag,
            checksum,
        } = receive(&self.folder, &self.tasks, input.body, promise).await?;
        let meta = Meta {
            version: 1,
            etag: etag.clone(),
            content_type: input.content_type.map(|kind| kind.to_string()),
            content_encoding: input.content_encoding,
            metadata: input.metadata.into_iter().flatten().collect(),
        };
        let key = input.key;
        self.on_disk(move |folder| folder.publish(incoming, &key, &meta))
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let found = self.find(&input.bucket, &input.key).await?;
        check_match(input.if_match.as_ref(), &found)?;
        let range = match input.range {
            Some(range) => range.check(found.bytes)?,
            None => 0..found.bytes,
        };
        let content_range = input.range.map(|_| {
            let last = range.end.saturating_sub(1);
            format!("bytes {}-{last}/{}", range.start, found.bytes)
        });
        let length = range.end - range.start;
        let mut file = tokio::fs::File::from_std(found.file);
        file.seek(SeekFrom::Start(range.start))
            .await
            .map_err(|cause| fault(&cause))?;
        let blocks = ReaderStream::with_capacity(file.take(length), READ_BLOCK);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(blocks)),
            accept_ranges: Some("bytes".into()),
            content_length: i64::try_from(length).ok(),
            content_range,
            content_type: found.meta.content_type.and_then(|kind| kind.parse().ok()),
            content_encoding: found.meta.content_encoding,
            e_tag: Some(ETag::Strong(found.meta.etag)),
            last_modified: Some(found.modified.into()),
            metadata: metadata(found.meta.metadata),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let found = self.find(&input.bucket, &input.key).await?;
        check_match(input.if_match.as_ref(), &found)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: i64::try_from(found.bytes).ok(),
            content_type: found.meta.content_type.and_then(|kind| kind.parse().ok()),
            content_encoding: found.meta.content_encoding,
            e_tag: Some(ETag::Strong(found.meta.etag)),
            last_modified: Some(found.modified.into()),
            metadata: metadata(found.meta.metadata),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.own(&input.bucket)?;
        self.on_disk(move |folder| folder.delete([input.key.as_str()]))
            .await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        self.own(&input.bucket)?;
        let quiet = input.delete.quiet == Some(true);
        let keys: Vec<_> = input.delete.objects.into_iter().map(|o| o.key).collect();
        if keys.len() > PAGE {
            return Err(S3ErrorCode::MalformedXML.into());
        }
        let gone = keys.clone();
        self.on_disk(move |folder| folder.delete(gone.iter().map(String::as_str)))
            .await?;
        let deleted = keys.into_iter().map(|key| DeletedObject {
            key: Some(key),
            ..Default::default()
        });
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then(|| deleted.collect()),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let question = Question {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after: input
                .continuation_token
                .clone()
                .or(input.start_after.clone())
                .unwrap_or_default(),
            most: limit(input.max_keys)?,
            encode: encodes(input.encoding_type.as_ref()),
        };
        let page = self.page(&input.bucket, question).await?;
        let encode = |text: Option<String>| text.map(|text| page.encode(text));
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(page.objects.len() + page.prefixes.len()).ok(),
            max_keys: Some(input.max_keys.unwrap_or(PAGE as i32)),
            is_truncated: Some(page.next.is_some()),
            name: Some(input.bucket),
            prefix: encode(input.prefix),
            delimiter: encode(input.delimiter),
            start_after: encode(input.start_after),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            next_continuation_token: page.next,
            common_prefixes: Some(page.prefixes),
            contents: Some(page.objects),
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let question = Question {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after: input.marker.clone().unwrap_or_default(),
            most: limit(input.max_keys)?,
            encode: encodes(input.encoding_type.as_ref()),
        };
        let page = self.page(&input.bucket, question).await?;
        let encode = |text: Option<String>| text.map(|text| page.encode(text));
        Ok(S3Response::new(ListObjectsOutput {
            max_keys: Some(input.max_keys.unwrap_or(PAGE as i32)),
            is_truncated: Some(page.next.is_some()),
            name: Some(input.bucket),
            prefix: encode(input.prefix),
            delimiter: encode(input.delimiter),
            marker: encode(input.marker),
            next_marker: encode(page.next.clone()),
            encoding_type: input.encoding_type,
            common_prefixes: Some(page.prefixes),
            contents: Some(page.objects),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.own(&input.bucket)?;
        let meta = Meta {
            version: 1,
            etag: String::new(),
            content_type: input.content_type.map(|kind| kind.to_string()),
            content_encoding: input.content_encoding,
            metadata: input.metadata.into_iter().flatten().collect(),
        };
        let key = input.key.clone();
        let id = self
            .on_disk(move |folder| folder.begin_upload(&key, &meta))
            .await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let announced = announced(&request);
        let input = request.input;
        let number = u32::try_from(input.part_number)
            .ok()
            .filter(|number| (1..=10_000).contains(number))
            .ok_or(S3ErrorCode::InvalidArgument)?;
        self.upload(&input.bucket, &input.upload_id, &input.key)
            .await?;
        let promise = Promise {
            bytes: input.content_length,
            md5: input.content_md5,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                checksum_crc64nvme: input.checksum_crc64nvme,
                ..Default::default()
            },
            trailer: request.trailing_headers,
            announced,
        };
        let Received {
            incoming,
            etag,
            checksum,
        } = receive(&self.folder, &self.tasks, input.body, promise).await?;
        let (id, known) = (input.upload_id, etag.clone());
        self.on_disk(move |folder| folder.publish_part(incoming, &id, number, known))
            .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let (id, key) = (input.upload_id, input.key);
        let mut meta = self.upload(&input.bucket, &id, &key).await?;
        let named = input.multipart_upload.and_then(|upload| upload.parts);
        let named = named.filter(|parts| !parts.is_empty());
        let named = named.ok_or(S3ErrorCode::MalformedXML)?;
        let (upload, wanted) = (id.clone(), named.clone());
        let parts = self
            .on_disk(move |folder| {
                let number = |part: &CompletedPart| {
                    u32::try_from(part.part_number.unwrap_or(0)).unwrap_or(0)
                };
                let find = |part| folder.find_part(&upload, number(part));
                wanted.iter().map(find).collect::<io::Result<Vec<_>>>()
            })
            .await?;
        let parts = check_parts(&named, parts)?;
        meta.etag = whole_etag(&parts);
        let etag = ETag::Strong(meta.etag.clone());
        let to = key.clone();
        self.on_disk(move |folder| folder.complete(&id, &to, parts, &meta))
            .await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{key}", input.bucket)),
            bucket: Some(input.bucket),
            key: Some(key),
            e_tag: Some(etag),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.upload(&input.bucket, &input.upload_id, &input.key)
            .await?;
        self.on_disk(move |folder| folder.drop_upload(&input.upload_id))
            .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// What a listing asks for.
struct Question {
    prefix: String,
    delimiter: String,
    after: String,
    most: usize,
    encode: bool,
}

/// What it is answered.
struct Page {
    objects: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// The last key or prefix of this page, when there are more.
    next: Option<String>,
    encode: bool,
}

impl Question {
    fn answer(&self, folder: &Folder) -> io::Result<Page> {
        let mut page = Page {
            objects: Vec::new(),
            prefixes: Vec::new(),
            next: None,
            encode: self.encode,
        };
        let mut last = String::new();
        // A page that ended with a common prefix must not go on inside it.
        let resumes = self.group(&self.after);
        folder.walk(&self.prefix, &self.after, &mut |key, path| {
            let group = self.group(key);
            if group.is_some() && group == resumes && resumes.as_deref() == Some(&*self.after) {
                return Ok(Step::Skip(self.after.clone()));
            }
            if page.objects.len() + page.prefixes.len() == self.most {
                page.next = (self.most > 0).then(|| last.clone());
                return Ok(Step::Stop);
            }
            if let Some(group) = group {
                last.clone_from(&group);
                page.prefixes.push(CommonPrefix {
                    prefix: Some(page.encode(group.clone())),
                });
                return Ok(Step::Skip(group));
            }
            // What was deleted since the folder was read is left out.
            if let Some(found) = open_object(path)? {
                last = key.to_owned();
                page.objects.push(Object {
                    key: Some(page.encode(key.to_owned())),
                    size: i64::try_from(found.bytes).ok(),
                    e_tag: Some(ETag::Strong(found.meta.etag)),
                    last_modified: Some(found.modified.into()),
                    storage_class: Some(ObjectStorageClass::from_static(
                        ObjectStorageClass::STANDARD,
                    )),
                    ..Default::default()
                });
            }
            Ok(Step::Next)
        })?;
        Ok(page)
    }

    /// The key up to the first delimiter after the prefix, which stands for all keys that begin so.
    fn group(&self, key: &str) -> Option<String> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = key.strip_prefix(&self.prefix)?;
        let at = rest.find(&self.delimiter)?;
        Some(key[..self.prefix.len() + at + self.delimiter.len()].to_owned())
    }
}

impl Page {
    /// As XML cannot hold every character, a client may ask for keys as in URLs.
    fn encode(&self, text: String) -> String {
        if !self.encode {
            return text;
        }
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(b);
        text.bytes()
            .map(|b| match plain(&b) {
                true => char::from(b).to_string(),
                false => format!("%{b:02X}"),
            })
            .collect()
    }
}

fn limit(max_keys: Option<i32>) -> S3Result<usize> {
    let most = usize::try_from(max_keys.unwrap_or(PAGE as i32));
    let most = most.map_err(|_| S3Error::from(S3ErrorCode::InvalidArgument))?;
    Ok(most.min(PAGE))
}

fn encodes(kind: Option<&EncodingType>) -> bool {
    kind.is_some_and(|kind| kind.as_str() == EncodingType::URL)
}

/// The names of checksums that will follow the body, each with a comma after it.
fn announced<T>(request: &S3Request<T>) -> Option<String> {
    let names = request.headers.get("x-amz-trailer")?.to_str().ok()?;
    Some(names.replace(' ', "").to_ascii_lowercase() + ",")
}

fn check_match(condition: Option<&ETagCondition>, found: &Found) -> S3Result<()> {
    match condition {
        Some(ETagCondition::ETag(etag)) if etag.value() != found.meta.etag => {
            Err(S3ErrorCode::PreconditionFailed.into())
        }
        _ => Ok(()),
    }
}

/// The named parts, if each is there, is what the client holds it for, and they come in order.
fn check_parts(named: &[CompletedPart], parts: Vec<Option<Found>>) -> S3Result<Vec<Found>> {
    if !named.is_sorted_by(|a, b| a.part_number < b.part_number) {
        return Err(S3ErrorCode::InvalidPartOrder.into());
    }
    let fits = |(named, part): (&CompletedPart, Option<Found>)| {
        let same = |part: &Found| {
            let etag = named.e_tag.as_ref();
            etag.is_none_or(|etag| etag.value() == part.meta.etag)
        };
        part.filter(same).ok_or(S3ErrorCode::InvalidPart.into())
    };
    named.iter().zip(parts).map(fits).collect()
}

/// S3's tag of an object in parts: the MD5 of the parts' MD5s, and how many they are.
fn whole_etag(parts: &[Found]) -> String {
    let mut hasher = Md5::new();
    for part in parts {
        let digest: Vec<u8> = part
            .meta
            .etag
            .as_bytes()
            .chunks(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        hasher.update(digest);
    }
    format!("{}-{}", hex(&hasher.finalize().into()), parts.len())
}

fn metadata(map: std::collections::BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!map.is_empty()).then(|| map.into_iter().collect())
}

/// The disk's answer in S3's words.
pub(super) fn fault(cause: &io::Error) -> S3Error {
    let full = |code: &'static str, message: &'static str| {
        let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
        error.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
        error
    };
    match cause.kind() {
        io::ErrorKind::QuotaExceeded => full("QuotaExceeded", "HA_S3_SERVER_MAX_BYTES is reached"),
        io::ErrorKind::StorageFull => full("InsufficientStorage", "the disk is full"),
        io::ErrorKind::InvalidFilename => S3ErrorCode::KeyTooLongError.into(),
        _ => {
            log::error!("the built-in S3 server cannot use its folder: {cause}");
            S3Error::with_message(S3ErrorCode::InternalError, cause.to_string())
        }
    }
}

/// A task that did not come to its end.
pub(super) fn lost(cause: tokio::task::JoinError) -> S3Error {
    S3Error::with_message(S3ErrorCode::InternalError, cause.to_string())
}
