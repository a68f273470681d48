//! Bodies on their way in: written as they arrive, hashed beside that, and compared with every checksum the client sent,
//! in a header or after the body.

use super::folder::{Folder, Incoming};
use super::protocol::{fault, lost};
use crate::tasks::Tasks;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders};

/// Bytes are handed to the disk in pieces of about this size.
const BLOCK: usize = 512 << 10;

/// What the client says its body is.
#[derive(Default)]
pub(super) struct Promise {
    pub(super) bytes: Option<i64>,
    pub(super) md5: Option<String>,
    pub(super) checksum: Checksum,
    pub(super) trailer: Option<TrailingHeaders>,
    /// The algorithms that the client announces to name after the body.
    pub(super) announced: Option<String>,
}

/// A body that arrived whole.
pub(super) struct Received {
    pub(super) incoming: Incoming,
    pub(super) etag: String,
    pub(super) checksum: Checksum,
}

struct Sink {
    incoming: Incoming,
    md5: Md5,
    hasher: ChecksumHasher,
}

/// Takes the whole body and checks it.
pub(super) async fn receive(
    folder: &Folder,
    tasks: &Tasks,
    body: Option<StreamingBlob>,
    promise: Promise,
) -> S3Result<Received> {
    let mut sink = Sink {
        incoming: folder.incoming().map_err(|cause| fault(&cause))?,
        md5: Md5::new(),
        hasher: promise.hasher(),
    };
    let mut block = Vec::with_capacity(BLOCK);
    if let Some(mut body) = body {
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|cause| {
                S3Error::with_message(S3ErrorCode::IncompleteBody, cause.to_string())
            })?;
            block.extend_from_slice(&bytes);
            if block.len() >= BLOCK {
                (sink, block) = write(folder, tasks, sink, block).await?;
            }
        }
    }
    let (sink, _) = write(folder, tasks, sink, block).await?;
    let digest: [u8; 16] = sink.md5.finalize().into();
    let checksum = sink.hasher.finalize();
    promise.check(sink.incoming.bytes, &digest, &checksum)?;
    Ok(Received {
        incoming: sink.incoming,
        etag: hex(&digest),
        checksum,
    })
}

/// Hashes and writes `block` on a thread that may wait for the disk.
async fn write(
    folder: &Folder,
    tasks: &Tasks,
    mut sink: Sink,
    mut block: Vec<u8>,
) -> S3Result<(Sink, Vec<u8>)> {
    let folder = folder.clone();
    let work = move || {
        sink.md5.update(&block);
        sink.hasher.update(&block);
        let written = folder.write(&mut sink.incoming, &block);
        block.clear();
        written.map(|()| (sink, block))
    };
    let done = tasks.spawn_blocking("write an object", work).await;
    done.map_err(lost)?.map_err(|cause| fault(&cause))
}

impl Promise {
    /// Computes what is promised, and a CRC32 where the client will say only later which it names.
    fn hasher(&self) -> ChecksumHasher {
        let announced = self.announced.as_deref().unwrap_or_default();
        let named = |set: &Option<String>, name: &str| set.is_some() || announced.contains(name);
        let sums = &self.checksum;
        ChecksumHasher {
            crc32: named(&sums.checksum_crc32, "x-amz-checksum-crc32,")
                .then(s3s::crypto::Crc32::new),
            crc32c: named(&sums.checksum_crc32c, "x-amz-checksum-crc32c,")
                .then(s3s::crypto::Crc32c::new),
            sha1: named(&sums.checksum_sha1, "x-amz-checksum-sha1,").then(s3s::crypto::Sha1::new),
            sha256: named(&sums.checksum_sha256, "x-amz-checksum-sha256,")
                .then(s3s::crypto::Sha256::new),
            crc64nvme: named(&sums.checksum_crc64nvme, "x-amz-checksum-crc64nvme,")
                .then(s3s::crypto::Crc64Nvme::new),
        }
    }

    fn check(&self, bytes: u64, digest: &[u8; 16], is: &Checksum) -> S3Result<()> {
        let bad = |code, what: &str| Err(S3Error::with_message(code, what.to_owned()));
        if self
            .bytes
            .is_some_and(|said| u64::try_from(said) != Ok(bytes))
        {
            return bad(S3ErrorCode::IncompleteBody, "the body was cut short");
        }
        if self
            .md5
            .as_ref()
            .is_some_and(|said| *said != BASE64.encode(digest))
        {
            return bad(S3ErrorCode::BadDigest, "Content-MD5 is not the body's");
        }
        let after = |name: &str| {
            let trailer = self.trailer.as_ref()?;
            trailer
                .read(|headers| headers.get(name)?.to_str().ok().map(str::to_owned))
                .flatten()
        };
        let said = &self.checksum;
        for (name, said, is) in [
            (
                "x-amz-checksum-crc32",
                &said.checksum_crc32,
                &is.checksum_crc32,
            ),
            (
                "x-amz-checksum-crc32c",
                &said.checksum_crc32c,
                &is.checksum_crc32c,
            ),
            (
                "x-amz-checksum-sha1",
                &said.checksum_sha1,
                &is.checksum_sha1,
            ),
            (
                "x-amz-checksum-sha256",
                &said.checksum_sha256,
                &is.checksum_sha256,
            ),
            (
                "x-amz-checksum-crc64nvme",
                &said.checksum_crc64nvme,
                &is.checksum_crc64nvme,
            ),
        ] {
            let said = said.clone().or_else(|| after(name));
            if said.is_some() && is.is_some() && said != *is {
                return bad(S3ErrorCode::BadDigest, &format!("{name} is not the body's"));
            }
        }
        Ok(())
    }
}

pub(super) fn hex(digest: &[u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
