//! Never worse: a database that cannot be read ends no service and costs no recording.

use crate::support::controller::free_port;
use crate::support::secrets::said;
use crate::support::wait::{until, until_true};
use crate::webhook::{House, event};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A service with a session and a webhook that waits for its target.
async fn house() -> House {
    let away = format!("http://127.0.0.1:{}/hook", free_port());
    let house = House::relaying(&away, &[]).await;
    house.send(&event("s", 0)).await;
    register(&house, "ses_A").await;
    house
}

async fn register(house: &House, id: &str) {
    register_as(house, id, "c", "m").await;
}

async fn register_as(house: &House, id: &str, client: &str, metadata: &str) {
    let body = json!({"sessionId": id, "clientId": client, "metadata": metadata});
    let asked = house
        .controller
        .ask(reqwest::Method::POST, "/api/sessions", Some(&body));
    let (status, answer) = asked.await;
    assert_eq!(status, 201, "{answer}");
}

fn data(house: &House) -> PathBuf {
    house.controller.folder.join("data")
}

/// What lies beside the database under a name that begins so.
fn aside(house: &House, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(data(house)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(name)
    };
    paths.filter(named).collect()
}

async fn outbox(house: &House) -> Value {
    let health = house.controller.get("/actuator/health").await;
    health["components"]["outbox"].clone()
}

/// The service goes on with a fresh database, and says so.
async fn goes_on_afresh(house: &mut House) {
    house.controller.resume().await;
    is_fresh(house).await;
}

async fn is_fresh(house: &House) {
    assert_eq!(aside(house, "db.unreadable-2").len(), 1);
    let part = outbox(house).await;
    assert_eq!(part["status"], "DOWN", "{part}");
    assert!(part.to_string().contains("was set aside as"), "{part}");
    assert!(house.controller.log().contains("a fresh one is used"));
    register(house, "ses_B").await;
    house.send(&event("s", 1)).await;
}

#[tokio::test]
async fn a_snapshot_that_a_kill_left_half_written_costs_nothing() {
    let mut house = house().await;
    house.controller.kill().await;
    let left = data(&house).join("db/snap.FFFFFFFFFFFFFFF0.generating");
    fs::write(left, [7; 5]).unwrap();
    house.controller.resume().await;
    house.has("pending", 1).await;
    let session = house.controller.get("/api/sessions/ses_A").await;
    assert_eq!(session["sessionId"], "ses_A");
    assert!(aside(&house, "db.unreadable").is_empty());
}

#[tokio::test]
async fn a_database_of_garbage_is_set_aside_and_the_service_goes_on() {
    type Harm = fn(&Path);
    let harms: [Harm; 5] = [
        |db| {
            let log = db.join("db");
            let length = fs::metadata(&log).unwrap().len() as usize;
            fs::write(&log, vec![0xa5; length]).unwrap();
        },
        |db| fs::write(db.join("snap.FFFFFFFFFFFFFFF0"), [7; 50]).unwrap(),
        |db| fs::write(db.join("conf"), [0xa5; 64]).unwrap(),
        |db| {
            fs::remove_dir_all(db).unwrap();
            fs::write(db, "no folder").unwrap();
        },
        |db| {
            let open = sled::open(db).unwrap();
            open.insert("version", "99").unwrap();
            open.flush().unwrap();
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        println!("harm {number}");
        let mut house = house().await;
        house.controller.stop().await;
        harm(&data(&house).join("db"));
        goes_on_afresh(&mut house).await;
    }
}

/// Flips a bit wherever this text is in the files of a folder; answers in how many places.
fn flip(folder: &Path, text: &str) -> usize {
    let files = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let mut flipped = 0;
    for file in files.filter(|path| path.is_file()) {
        let mut bytes = fs::read(&file).unwrap();
        let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes()));
        let places = places.collect::<Vec<_>>();
        for at in &places {
            bytes[*at] ^= 1;
        }
        flipped += places.len();
        fs::write(file, bytes).unwrap();
    }
    flipped
}

#[tokio::test]
async fn damage_that_is_found_after_the_first_answer_has_the_service_start_again_with_a_fresh_database()
 {
    for harmed in ["a-client-of-a-session", "metadata-beside-a-session"] {
        println!("damage in {harmed}");
        let mut house = house().await;
        let (client, metadata) = ("a-client-of-a-session", "metadata-beside-a-session");
        register_as(&house, "ses_C", client, metadata).await;
        // What lies far enough behind the log's end is not looked at by a start before it is needed.
        for number in 0..60 {
            register_as(&house, &format!("ses_z{number}"), "c", &"m".repeat(20_000)).await;
        }
        house.controller.stop().await;
        house.controller.resume().await;
        house.controller.stop().await;
        let db = data(&house).join("db");
        assert!(flip(&db, harmed) + flip(&db.join("blobs"), harmed) > 0);
        house.controller.resume().await;
        until_true("another start", Duration::from_secs(20), || {
            let log = house.controller.log();
            log.matches("the controller is ready").count() == 4
        })
        .await;
        is_fresh(&house).await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_and_the_others_are_used() {
    let mut house = house().await;
    house.controller.stop().await;
    {
        let db = sled::open(data(&house).join("db")).unwrap();
        let sessions = db.open_tree("sessions").unwrap();
        sessions
            .insert("ses_odd", [3, 0xc1, 0xc1].as_slice())
            .unwrap();
        let particulars = db.open_tree("particulars").unwrap();
        particulars.insert("ses_A", [99].as_slice()).unwrap();
        let outbox = db.open_tree("outbox").unwrap();
        outbox.insert(b"e\0\0\0\0\0\0\0\x63", "odd").unwrap();
        outbox
            .insert(b"d\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09", "odd")
            .unwrap();
        db.flush().unwrap();
    }
    house.controller.resume().await;
    house.has("pending", 1).await;
    register(&house, "ses_A").await;
    until_true("each is told", Duration::from_secs(10), || {
        house.controller.log().matches("was set aside as").count() == 4
    })
    .await;
    // An answer of health is good for a moment, and the first one may have come before the sessions were read.
    until("health that names it", Duration::from_secs(5), || async {
        let part = outbox(&house).await.to_string();
        part.contains("ses_odd").then_some(())
    })
    .await;
    house.controller.stop().await;
    let db = sled::open(data(&house).join("db")).unwrap();
    assert_eq!(db.open_tree("unreadable").unwrap().len(), 4);
    drop(db);
    house.controller.resume().await;
    assert_eq!(outbox(&house).await["status"], "UP");
}

#[tokio::test]
async fn a_damaged_journal_is_set_aside_and_what_can_be_read_is_used() {
    let mut house = house().await;
    for number in 1..4 {
        house.send(&event("s", number)).await;
    }
    house.controller.kill().await;
    let journal = data(&house).join("db/journal");
    let mut bytes = fs::read(&journal).unwrap();
    assert!(!bytes.is_empty(), "it was emptied before the kill");
    // The database knows nothing of them: a loss of power.
    fs::remove_file(data(&house).join("db/db")).unwrap();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes[12 + length + 8 + 30] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    house.controller.resume().await;
    house.has("pending", 3).await;
    assert_eq!(aside(&house, "journal.unreadable-2").len(), 1);
    assert!(
        house
            .controller
            .log()
            .contains("cannot read all of the journal")
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_can_be_reset() {
    let mut house = house().await;
    let run = |house: &House| {
        std::process::Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(["reset", "reset-everything", "--data-dir"])
            .arg(data(house))
            .arg("--env-file")
            .arg(house.controller.folder.join("controller.env"))
            .output()
            .unwrap()
    };
    let held = run(&house);
    assert!(!held.status.success(), "{}", said(&held));
    house.controller.stop().await;
    fs::write(data(&house).join("db/snap.FFFFFFFFFFFFFFF0"), [7; 50]).unwrap();
    let done = run(&house);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(aside(&house, "db.before-reset").len(), 1);
    house.controller.resume().await;
    assert!(house.list("pending").await.is_empty());
}
