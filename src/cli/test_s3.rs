//! `test-s3`: every operation that the product asks of its chunk store, tried once below a name of its own.

use super::report::{Check, Form, Report};
use super::{DataDir, Failure, SettingsFile};
use crate::random;
use crate::store::{self, ChunkStore, StoreError};
use bytes::Bytes;
use clap::Args;
use std::future::Future;
use std::path::Path;
use std::time::Instant;

/// Large enough to be stored in parts.
const LARGE: u64 = 17 << 20;

/// Try every operation the product needs against the configured chunk store.
#[derive(Debug, Args)]
pub(super) struct TestS3 {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

impl TestS3 {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let settings = self.file.settings_with(&self.data)?;
        let store = store::open(&settings, &settings.recording_path)?;
        let mut report = Report::default();
        report.add(Check::good("store", settings.store_place()));
        let scratch = std::env::temp_dir().join(format!("ov2-test-s3-{}", random::hex::<6>()));
        std::fs::create_dir_all(&scratch).map_err(Failure::new)?;
        let tried = try_all(&*store, &scratch, &mut report).await;
        // Only files of ours lie there.
        let _ = std::fs::remove_dir_all(&scratch);
        tried?;
        report.conclude(self.form)
    }
}

async fn try_all(
    store: &dyn ChunkStore,
    scratch: &Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let folder = format!("ov2-test-{}", random::hex::<6>());
    let (small, large) = (format!("{folder}/small"), format!("{folder}/r1/large"));
    let (source, target) = (scratch.join("source"), scratch.join("target"));
    let file = std::fs::File::create(&source).map_err(Failure::new)?;
    file.set_len(LARGE).map_err(Failure::new)?;
    let body = Bytes::from_static(b"a chunk");

    let found = step(
        report,
        "reach the store",
        "s3:ListBucket, and s3:CreateBucket where it is missing",
        async { store.probe().await.map(|()| "it is there".to_owned()) },
    );
    if !found.await {
        return Ok(());
    }
    step(report, "store", "s3:PutObject", async {
        store.put_bytes(&small, body.clone()).await?;
        store.put_bytes(&small, body.clone()).await?;
        Ok(format!("{} bytes, twice", body.len()))
    })
    .await;
    step(
        report,
        "store in parts",
        "s3:PutObject, s3:AbortMultipartUpload",
        async {
            store.put(&large, &source).await?;
            Ok(format!("{} MiB", LARGE >> 20))
        },
    )
    .await;
    step(report, "read", "s3:GetObject", async {
        match store.read(&small).await? {
            same if same == body => Ok("the same bytes".to_owned()),
            _ => Err(differs(&small)),
        }
    })
    .await;
    step(report, "fetch", "s3:GetObject", async {
        match store.fetch(&large, &target).await? {
            LARGE => Ok(format!("{} MiB", LARGE >> 20)),
            _ => Err(differs(&large)),
        }
    })
    .await;
    step(report, "list", "s3:ListBucket", async {
        match store.list(&folder).await?.len() {
            2 => Ok("both objects".to_owned()),
            _ => Err(differs(&folder)),
        }
    })
    .await;
    step(
        report,
        "miss",
        "s3:ListBucket (without it a missing object is forbidden instead)",
        async {
            match store.read(&format!("{folder}/missing")).await {
                Err(StoreError::NotFound { .. }) => Ok("a missing object is named so".to_owned()),
                Err(cause) => Err(cause),
                Ok(_) => Err(differs(&folder)),
            }
        },
    )
    .await;
    step(report, "delete", "s3:DeleteObject", async {
        store.delete(&folder).await?;
        match store.list(&folder).await?.len() {
            0 => Ok("both objects".to_owned()),
            _ => Err(differs(&folder)),
        }
    })
    .await;
    Ok(())
}

/// Tries one thing and says how long it took, or what is wrong and which permission it needs.
async fn step(
    report: &mut Report,
    name: &str,
    permission: &str,
    work: impl Future<Output = Result<String, StoreError>>,
) -> bool {
    let begin = Instant::now();
    let done = work.await;
    let took = begin.elapsed().as_millis();
    let good = done.is_ok();
    report.add(match done {
        Ok(finding) => Check::good(name, format!("{finding}; {took} ms")),
        Err(cause @ StoreError::Refused { .. }) => {
            Check::bad(name, cause).advice(format!("grant {permission}, or check the keys"))
        }
        Err(cause) => Check::bad(name, cause),
    });
    good
}

fn differs(key: &str) -> StoreError {
    StoreError::Unavailable {
        act: format!("check {key}"),
        cause: "the store answers something else than was stored".into(),
    }
}
