//! The built-in S3 server as its clients see it: the AWS CLI, boto3, raw requests, and a life full of kills.

use crate::support::stage::leave_out as left_out;
use crate::support::stores::{BUCKET, KEY, SECRET, Server, client, noise, options, runs};
use bytes::Bytes;
use ov2_ha_recorder::s3server;
use ov2_ha_recorder::store::s3::S3Store;
use ov2_ha_recorder::store::{ChunkStore, StoreError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_works_unmodified() {
    if !runs("aws", &["--version"]) {
        return left_out("the_aws_cli_works_unmodified", "the AWS CLI is missing");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("objects"), None).await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let aws = |arguments: &[&str]| {
        let output = Command::new("aws")
            .args(["--endpoint-url", &server.endpoint])
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", path("none"))
            .env("AWS_SHARED_CREDENTIALS_FILE", path("none"))
            .output()
            .unwrap();
        succeeded(arguments, output)
    };
    let bucket = format!("s3://{BUCKET}");
    let big = noise(100 << 20);
    std::fs::write(path("big"), &big).unwrap();
    std::fs::create_dir_all(path("tree/a b/c")).unwrap();
    for n in 0..25 {
        let name = format!("tree/a b/c/ü {n}+&=.bin");
        std::fs::write(path(&name), noise(1000 + n)).unwrap();
    }
    std::fs::write(path("tree/empty"), b"").unwrap();

    tokio::task::block_in_place(|| {
        aws(&["s3", "mb", &bucket]);
        aws(&["s3", "cp", &path("big"), &format!("{bucket}/x/big")]);
        aws(&["s3", "cp", &format!("{bucket}/x/big"), &path("back")]);
        assert!(std::fs::read(path("back")).unwrap() == big);
        let key = ["--bucket", BUCKET, "--key", "x/big"];
        let range = ["--range", "bytes=5000000-5000099", &path("part")];
        aws(&[&["s3api", "get-object"], &key[..], &range[..]].concat());
        assert!(std::fs::read(path("part")).unwrap() == big[5_000_000..5_000_100]);

        aws(&["s3", "sync", &path("tree"), &format!("{bucket}/tree")]);
        let listed = aws(&["s3", "ls", "--recursive", &format!("{bucket}/tree/")]);
        assert_eq!(listed.lines().count(), 26, "{listed}");
        let folders = aws(&["s3", "ls", &format!("{bucket}/")]);
        assert!(
            folders.contains("PRE tree/") && folders.contains("PRE x/"),
            "{folders}"
        );
        let again = aws(&["s3", "sync", &path("tree"), &format!("{bucket}/tree")]);
        assert!(!again.contains("upload"), "{again}");
        aws(&["s3", "sync", &format!("{bucket}/tree"), &path("copy")]);
        let name = "a b/c/ü 7+&=.bin";
        assert!(std::fs::read(path(&format!("copy/{name}"))).unwrap() == noise(1007));
        let paged = aws(&[
            "s3api",
            "list-objects",
            "--bucket",
            BUCKET,
            "--page-size",
            "4",
            "--query",
            "length(Contents)",
        ]);
        assert_eq!(paged.trim(), "27");
        aws(&["s3", "rm", "--recursive", &bucket]);
        assert_eq!(aws(&["s3", "ls", "--recursive", &bucket]), "");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_works_unmodified() {
    // An environment that holds it, where the system's Python does not.
    let python = std::env::var("OV2_PYTHON").unwrap_or("python3".into());
    if !runs(&python, &["-c", "import boto3"]) {
        return left_out(
            "boto3_works_unmodified",
            "boto3 is missing (pip install boto3)",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), None).await;
    const SCRIPT: &str = r#"
import boto3, hashlib, io, os, sys
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
                  aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3])
b = sys.argv[4]
s3.create_bucket(Bucket=b)
s3.head_bucket(Bucket=b)
assert b in [x["Name"] for x in s3.list_buckets()["Buckets"]]
for algorithm in (None, "CRC32", "CRC32C", "SHA1", "SHA256"):
    more = {"ChecksumAlgorithm": algorithm} if algorithm and algorithm != "CRC32C" else {}
    s3.put_object(Bucket=b, Key="k", Body=b"hello", ContentType="video/mp4", Metadata={"who": "me"}, **more)
got = s3.get_object(Bucket=b, Key="k")
assert got["Body"].read() == b"hello" and got["ContentType"] == "video/mp4" and got["Metadata"] == {"who": "me"}
head = s3.head_object(Bucket=b, Key="k")
assert head["ContentLength"] == 5 and head["ETag"].strip('"') == hashlib.md5(b"hello").hexdigest()
assert s3.get_object(Bucket=b, Key="k", Range="bytes=-2")["Body"].read() == b"lo"
def refused(code, call, **arguments):
    try:
        call(**arguments)
    except s3.exceptions.ClientError as e:
        assert e.response["Error"]["Code"] in code, e.response["Error"]
    else:
        raise AssertionError("not refused: " + str(code))
refused(["NoSuchKey"], s3.get_object, Bucket=b, Key="none")
refused(["404"], s3.head_object, Bucket=b, Key="none")
refused(["NoSuchBucket"], s3.list_objects_v2, Bucket="another")
refused(["InvalidRange"], s3.get_object, Bucket=b, Key="k", Range="bytes=10-20")
refused(["BadDigest"], s3.put_object, Bucket=b, Key="bad", Body=b"x", ContentMD5="XrY7u+Ae7tCTyyK7j1rNww==")
refused(["NoSuchUpload"], s3.upload_part, Bucket=b, Key="k", UploadId="0" * 32, PartNumber=1, Body=b"x")
big = os.urandom(20 << 20)
s3.upload_fileobj(io.BytesIO(big), b, "big")
assert s3.get_object(Bucket=b, Key="big")["Body"].read() == big
up = s3.create_multipart_upload(Bucket=b, Key="aborted")["UploadId"]
s3.upload_part(Bucket=b, Key="aborted", UploadId=up, PartNumber=1, Body=b"x")
s3.abort_multipart_upload(Bucket=b, Key="aborted", UploadId=up)
for n in range(1203):
    s3.put_object(Bucket=b, Key="many/%d/%04d" % (n % 3, n), Body=b"")
pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=b, Prefix="many/"))
keys = [o["Key"] for p in pages for o in p["Contents"]]
assert len(pages) == 2 and len(keys) == 1203 and keys == sorted(keys)
grouped = list(s3.get_paginator("list_objects_v2").paginate(Bucket=b, Delimiter="/", Prefix="many/", PaginationConfig={"PageSize": 2}))
assert [c["Prefix"] for p in grouped for c in p.get("CommonPrefixes", [])] == ["many/0/", "many/1/", "many/2/"]
done = boto3.resource("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id=sys.argv[2],
                      aws_secret_access_key=sys.argv[3]).Bucket(b).objects.all().delete()
assert s3.list_objects_v2(Bucket=b)["KeyCount"] == 0
wrong = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id=sys.argv[2], aws_secret_access_key="wrong")
refused(["SignatureDoesNotMatch"], wrong.list_objects_v2, Bucket=b)
wrong = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="who", aws_secret_access_key="wrong")
refused(["InvalidAccessKeyId"], wrong.list_objects_v2, Bucket=b)
"#;
    let output = tokio::task::block_in_place(|| {
        Command::new(&python)
            .args(["-c", SCRIPT, &server.endpoint, KEY, SECRET, BUCKET])
            .output()
            .unwrap()
    });
    succeeded(&["boto3"], output);
}

#[tokio::test]
async fn nobody_gets_in_without_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), None).await;
    let anonymous = reqwest::get(format!("{}/{BUCKET}?list-type=2", server.endpoint)).await;
    assert_eq!(anonymous.unwrap().status(), 403);
    let wrong = client(&server.endpoint, &[("HA_AWS_SECRET_KEY", "wrong")]);
    let refused = wrong.probe().await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    assert!(!refused.to_string().contains("wrong"), "{refused}");
    let other = client(&server.endpoint, &[("HA_AWS_S3_BUCKET", "another")]);
    let refused = other.probe().await.unwrap_err();
    assert!(refused.to_string().contains(BUCKET), "{refused}");
}

#[tokio::test]
async fn a_full_server_says_so_and_takes_more_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), Some(1_000_000)).await;
    let store = client(&server.endpoint, &[]);
    let body = || Bytes::from(vec![7; 600_000]);
    store.put_bytes("a/1", body()).await.unwrap();
    let refused = store.put_bytes("a/2", body()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert_eq!(store.list("a").await.unwrap().len(), 1);
    store.delete("a").await.unwrap();
    store.put_bytes("a/2", body()).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(folder.path())
        .output()
        .unwrap();
    if !mounted.status.success() {
        let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
        return left_out("a_full_disk_refuses_what_does_not_fit", &why);
    }
    let server = Server::start(folder.path(), None).await;
    let store = client(&server.endpoint, &[]);
    let body = |bytes: usize| Bytes::from(noise(bytes));
    store.put_bytes("a/1", body(2_000_000)).await.unwrap();
    for key in ["a/1", "a/2"] {
        let refused = store.put_bytes(key, body(3_000_000)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    }
    assert!(store.read("a/1").await.unwrap() == body(2_000_000));
    assert_eq!(store.list("a").await.unwrap().len(), 1);
    store.delete("a").await.unwrap();
    store.put_bytes("a/2", body(3_000_000)).await.unwrap();
    drop(server);
    let lazily = ["--lazy".as_ref(), folder.path().as_os_str()];
    assert!(
        Command::new("umount")
            .args(lazily)
            .status()
            .unwrap()
            .success()
    );
}

/// `OV2_KILLS` kills (100 unless set) of a server of its own process, in the middle of writes.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_object_is_lost_or_torn_by_a_kill() {
    let kills = std::env::var("OV2_KILLS").map_or(100u32, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    for version in 1..=kills {
        let mut child = ChildServer::start(folder.path());
        let store = Arc::new(client(&child.endpoint, &[]));
        check(&store, &acknowledged, 40).await;
        let writers = (0..4).map(|writer| {
            let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
            async move {
                for n in 0.. {
                    // Some keys come again and again, others once.
                    let name = if n % 2 == 0 {
                        n % 8
                    } else {
                        version * 1000 + n
                    };
                    let key = format!("kill/w{writer}/{name}");
                    let body = stamped(version);
                    if store.put_bytes(&key, body).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().insert(key, version);
                }
            }
        });
        let until = Duration::from_millis(20 + u64::from(noise(1)[0]) / 3);
        let writing = futures_util::future::join_all(writers);
        // The kill comes while they write: their futures are dropped where they stand.
        let _ = tokio::time::timeout(until, writing).await;
        child.kill();
    }
    let child = ChildServer::start(folder.path());
    check(&client(&child.endpoint, &[]), &acknowledged, usize::MAX).await;
    let known = acknowledged.lock().unwrap().len();
    assert!(
        known > kills as usize,
        "only {known} objects were acknowledged"
    );
    eprintln!("{kills} kills, {known} acknowledged keys, none lost or torn");
}

/// Checks that the newest `most` acknowledged objects are there and whole.
async fn check(
    store: &S3Store,
    acknowledged: &Mutex<std::collections::BTreeMap<String, u32>>,
    most: usize,
) {
    let known = acknowledged.lock().unwrap().clone();
    if most > known.len() {
        let listed = store.list("kill").await.unwrap();
        let listed: std::collections::BTreeSet<_> = listed.into_iter().map(|o| o.key).collect();
        for key in known.keys() {
            assert!(listed.contains(key), "{key} was acknowledged and is gone");
        }
    }
    let mut newest: Vec<_> = known.iter().collect();
    newest.sort_by_key(|(_, version)| std::cmp::Reverse(**version));
    for (key, version) in newest.into_iter().take(most) {
        let body = store.read(key).await.unwrap();
        let found = u32::from_be_bytes(body[..4].try_into().unwrap());
        assert!(
            found >= *version,
            "{key} went back from {version} to {found}"
        );
        assert!(body == stamped(found), "{key} is torn");
    }
}

fn stamped(version: u32) -> Bytes {
    let size = 4 * (1 + (version as usize * 7919) % 40_000);
    version.to_be_bytes().repeat(size / 4).into()
}

/// The server in a process of its own: this test binary, told to be one.
pub struct ChildServer {
    process: Child,
    pub endpoint: String,
}

impl ChildServer {
    pub fn start(root: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "s3server::serves_as_a_child",
                "--ignored",
                "--nocapture",
            ])
            .env("OV2_CHILD_ROOT", root)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let endpoint = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("endpoint=")?.1.to_owned()))
            .expect("the child says where it listens");
        Self { process, endpoint }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a server for the kills above, not a test"]
async fn serves_as_a_child() {
    let Some(root) = std::env::var_os("OV2_CHILD_ROOT").map(PathBuf::from) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("endpoint=http://{}", listener.local_addr().unwrap());
    s3server::serve(listener, options(&root, None), CancellationToken::new())
        .await
        .unwrap();
}

fn succeeded(what: &[&str], output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what:?}: {said}{errors}");
    said
}
