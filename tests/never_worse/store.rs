//! Never worse: stores that are odd.

use super::relay::certificate;
use crate::record::Stage;
use crate::recover::record;
use crate::support::frames::Footage;
use crate::support::odd_store::{OddStore, Oddity};
use crate::support::secrets::said;
use crate::support::stores::{BUCKET, KEY, SECRET, client, noise, settings};
use crate::support::wait;
use ov2_ha_recorder::clock::SystemClock;
use ov2_ha_recorder::controller::takes::Takes;
use ov2_ha_recorder::model::chunk::TakeKey;
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::recorder::upload::Uploader;
use ov2_ha_recorder::store::s3::S3Store;
use ov2_ha_recorder::store::{self, ChunkStore, StoreError};
use ov2_ha_recorder::tasks::Tasks;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

/// Every way to be odd that is to be coped with, at once.
const ODD: [Oddity; 4] = [
    Oddity::ManagedKeys,
    Oddity::NoBatchDelete(400, "NotImplemented"),
    Oddity::FirstVersionLists(3),
    Oddity::NoParts,
];

#[tokio::test(flavor = "multi_thread")]
async fn etags_that_look_like_md5s_and_are_none_keep_no_chunk_away() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    std::fs::write(&small, noise(100_000)).unwrap();
    std::fs::write(&large, noise(17 << 20)).unwrap();
    for oddity in [Oddity::ManagedKeys, Oddity::SealedEtags] {
        let odd = OddStore::start(&[oddity]).await;
        let store = client(&odd.endpoint, &[]);
        store.put("rec/large", &large).await.expect("in parts");
        store.put("rec/small", &small).await.expect("whole");
        assert_eq!(odd.requests("uploads"), 1, "{oddity:?}: sent again");
        // Whoever only reads has no proof from storing.
        for reader in [store, client(&odd.endpoint, &[])] {
            let to = folder.path().join("fetched");
            for (key, from) in [("rec/small", &small), ("rec/large", &large)] {
                reader.fetch(key, &to).await.unwrap();
                assert!(std::fs::read(&to).unwrap() == std::fs::read(from).unwrap());
            }
            let read = reader.read("rec/small").await.unwrap();
            assert!(read == noise(100_000), "{oddity:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_deleted_one_by_one_where_a_store_deletes_none_together() {
    for (status, code) in [
        (400, "NotImplemented"),
        (400, "InvalidArgument"),
        (405, "MethodNotAllowed"),
        (501, "NotImplemented"),
        // It says yes and does nothing.
        (200, ""),
    ] {
        let odd = OddStore::start(&[Oddity::NoBatchDelete(status, code)]).await;
        let store = client(&odd.endpoint, &[]);
        for recording in ["rec1", "rec2"] {
            for index in 0..5 {
                odd.place(&format!("{recording}/{index}"), b"chunk");
            }
            assert_eq!(store.delete(recording).await.unwrap(), 5, "{status} {code}");
            assert_eq!(odd.keys(), Vec::<String>::new(), "{status} {code}");
        }
        assert_eq!(odd.requests("?delete"), 1, "asked again: {status} {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_pages_of_the_first_version_is_read_to_its_end() {
    let odd = OddStore::start(&[Oddity::FirstVersionLists(3)]).await;
    let store = client(&odd.endpoint, &[]);
    for index in 0..10 {
        odd.place(&format!("rec/{index}"), b"chunk");
    }
    odd.place("rec10/0", b"another recording's");
    let listed = store.list("rec").await.unwrap();
    let keys: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
    let expected: Vec<_> = (0..10).map(|index| format!("rec/{index}")).collect();
    assert_eq!(keys, expected);
    assert_eq!(store.delete("rec").await.unwrap(), 10);
    assert_eq!(odd.keys(), ["rec10/0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_list_is_an_error_and_never_taken_for_the_whole() {
    let odd = OddStore::start(&[Oddity::CutLists(3)]).await;
    let store = client(&odd.endpoint, &[]);
    for index in 0..10 {
        odd.place(&format!("rec/{index}"), b"chunk");
    }
    for outcome in [
        store.list("rec").await.map(drop),
        store.delete("rec").await.map(drop),
    ] {
        let cause = outcome.unwrap_err();
        assert!(!cause.retryable(), "{cause}");
        assert!(cause.to_string().contains("whole"), "{cause}");
    }
    assert_eq!(odd.keys().len(), 10, "something was deleted");
    odd.place("other/0", b"chunk");
    assert_eq!(store.list("other").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_runs_left_is_stored_though_the_store_cannot_list_it() {
    let odd = OddStore::start(&[Oddity::CutLists(1)]).await;
    let store: Arc<S3Store> = Arc::new(client(&odd.endpoint, &[]));
    let take = TakeKey {
        recording: RecordingId::parse("ses_A~1").unwrap(),
        folder: "chunks".into(),
        take: TakeId::parse("1795577569120").unwrap(),
    };
    let recordings = tempfile::tempdir().unwrap();
    let key = |index| take.chunk(RunNumber(1), index).to_string();
    for index in 1..=3 {
        let path = recordings.path().join(key(index));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, noise(1_000)).unwrap();
    }
    // The disk lost the end of the third, which was stored as a tail.
    odd.place(&key(1), &noise(500));
    odd.place(&key(3), &noise(2_000));
    let tasks = Tasks::new();
    let uploader = Uploader::new(store.clone(), take.clone(), &tasks, Arc::new(SystemClock));
    uploader.take_up(recordings.path(), RunNumber(2)).await;
    let left = uploader.drain(Duration::from_secs(20)).await;
    assert_eq!(left, []);
    for (index, bytes) in [(1, 1_000), (2, 1_000), (3, 2_000)] {
        assert_eq!(store.read(&key(index)).await.unwrap().len(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn test_s3_finds_nothing_wrong_with_a_store_that_is_merely_odd() {
    let odd = OddStore::start(&ODD).await;
    let tried = run(&odd.endpoint, &["test-s3"], &[]);
    assert!(tried.status.success(), "{}", said(&tried));
    assert_eq!(odd.keys(), Vec::<String>::new());
    let odd = OddStore::start(&[Oddity::CutLists(1)]).await;
    let tried = run(&odd.endpoint, &["test-s3"], &[]);
    let text = said(&tried);
    assert!(!tried.status.success(), "{text}");
    assert!(text.contains("not taken for the whole"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_wants_the_bucket_in_the_hosts_name_is_used_so_or_says_what_to_set() {
    let odd = OddStore::start(&[Oddity::NoPathStyle]).await;
    let refused = run(&odd.endpoint, &["test-s3"], &[]);
    let text = said(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains("HA_S3_ADDRESSING=host"), "{text}");

    // The proxy stands in for name resolution.
    let by_host = [
        ("HA_S3_ADDRESSING", "host"),
        ("http_proxy", odd.endpoint.as_str()),
    ];
    let tried = run("http://store.invalid", &["test-s3"], &by_host);
    assert!(tried.status.success(), "{}", said(&tried));
    assert!(odd.requests(&format!("http://{BUCKET}.store.invalid/")) > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stores_own_certificate_is_trusted_where_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path(), &["-subj", "/CN=store"]);
    let odd = OddStore::start(&[]).await;
    let endpoint = odd.secured(&certificate, &key).await;
    let refused = client(&endpoint, &[]).list("rec").await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let named = [("HA_CA_FILE", certificate.to_str().unwrap())];
    let tried = run(&endpoint, &["test-s3"], &named);
    assert!(tried.status.success(), "{}", said(&tried));
    assert!(odd.requests("PUT") > 0);
}

#[test]
fn a_store_that_cannot_be_opened_says_in_a_sentence_what_to_change() {
    let numeric = "http://192.0.2.1:9000";
    let name = "http://store.invalid";
    for (endpoint, setting, words) in [
        (
            numeric,
            ("HA_S3_ADDRESSING", "host"),
            "HA_S3_ADDRESSING=path",
        ),
        (name, ("HA_AWS_S3_BUCKET", "Bad_Bucket"), "HA_AWS_S3_BUCKET"),
        (name, ("HA_CA_FILE", "/nowhere/ca.pem"), "HA_CA_FILE"),
        (
            name,
            ("HA_AWS_S3_HEADERS", r#"{"host":"a"}"#),
            "leave it out",
        ),
    ] {
        let settings = settings(endpoint, &[setting]);
        let refused = store::open(&settings, Path::new("/nowhere")).err();
        let Some(cause @ StoreError::Invalid { .. }) = refused else {
            panic!("{setting:?} makes a store");
        };
        assert!(cause.to_string().contains(words), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_over_an_odd_store_is_stored_recovered_and_cleaned_up() {
    let odd = OddStore::start(&ODD).await;
    let mut stage = Stage::set("ses_odd").await;
    stage.settings = usual(&odd.endpoint)
        .map(|(name, value)| (name, value.into()))
        .to_vec();
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let chunk = || odd.keys().iter().any(|key| key.ends_with(".mp4"));
    wait::until_true("a chunk in the store", Duration::from_secs(20), chunk).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(!stage.log().contains("other bytes"), "{}", stage.log());

    let out = tempfile::tempdir().unwrap();
    let to = out.path().to_str().unwrap();
    let recovered = run(&odd.endpoint, &["recover", "-o", to, "ses_odd"], &[]);
    assert!(recovered.status.success(), "{}", said(&recovered));
    let name = format!("{}.mp4", stage.order.name);
    let video = Footage::read(&out.path().join("ses_odd").join(name));
    assert_eq!(video.decode_errors, Vec::<String>::new());
    assert_eq!(video.frames.len(), stage.footage().frames.len());
    clear(&odd, out.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_lost_recorder_leave_an_odd_store_once_their_video_is_made() {
    let odd = OddStore::start(&ODD).await;
    record(&client(&odd.endpoint, &[]), "ses_lost", "1").await;
    let out = tempfile::tempdir().unwrap();
    let to = out.path().to_str().unwrap();
    let recovered = run(&odd.endpoint, &["recover", "-o", to], &[]);
    assert!(recovered.status.success(), "{}", said(&recovered));
    clear(&odd, out.path()).await;
}

/// Has the controller's part clear the one take that there is.
async fn clear(odd: &OddStore, recordings: &Path) {
    let (store, tasks) = (client(&odd.endpoint, &[]), Tasks::new());
    let takes = Takes {
        store: &store,
        recordings,
        chunk_folder: "chunks",
        tasks: &tasks,
    };
    let stored = takes.all().await.unwrap().remove(0);
    let take = takes.take(&stored).await.unwrap();
    assert!(takes.clear(&take).await.unwrap() > 0);
    assert_eq!(odd.keys(), Vec::<String>::new());
}

fn usual(endpoint: &str) -> [(&'static str, &str); 5] {
    [
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_SERVICE_ENDPOINT", endpoint),
        ("HA_AWS_S3_BUCKET", BUCKET),
        ("HA_AWS_ACCESS_KEY", KEY),
        ("HA_AWS_SECRET_KEY", SECRET),
    ]
}

fn run(endpoint: &str, arguments: &[&str], more: &[(&str, &str)]) -> Output {
    tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(arguments)
            .envs(usual(endpoint))
            .envs(more.iter().copied())
            .output()
            .unwrap()
    })
}
