//! `backup` and `restore` by what becomes of files that are not theirs: devices, pipes, links, secrets.

use crate::support::bare::bare;
use crate::support::controller::Controller;
use crate::support::secrets::said;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

/// A database that no service holds, and settings whose password lies in a file.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = [("HA_RUNTIME", "process")];
        let recordings = folder.path().join("recordings");
        let program = Path::new(PROGRAM);
        let mut controller =
            Controller::start(program, folder.path(), &recordings, &settings).await;
        controller.stop().await;
        let site = Self { folder };
        fs::create_dir(site.path("etc")).unwrap();
        fs::write(site.path("etc/password"), "in-a-file\n").unwrap();
        let text = format!(
            "HA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD_FILE={}\nHA_CONTROLLER_PORT={}\nOPENVIDU_RECORDING_PATH={}\n",
            site.path("etc/password").display(),
            controller.port,
            recordings.display()
        );
        fs::write(site.path("etc/own.env"), text).unwrap();
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(PROGRAM);
        command
            .current_dir(self.folder.path())
            .args(arguments)
            .args(["--env-file", "etc/own.env", "--data-dir", "data"])
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn names(archive: &Path) -> String {
        let listed = Command::new("tar").arg("tzf").arg(archive).output();
        let listed = listed.unwrap();
        assert!(listed.status.success(), "{}", said(&listed));
        String::from_utf8(listed.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_replaces_nothing_but_a_file_and_that_only_when_it_is_told_to() {
    let site = Site::new().await;
    // A link leads there, so that a fault would cost the link and not this machine's device.
    symlink("/dev/full", site.path("full")).unwrap();
    let full = site.run(&["backup", "-o", "full"]);
    assert_eq!(full.status.code(), Some(73), "{}", said(&full));
    assert!(said(&full).contains("No space left"), "{}", said(&full));
    assert!(site.path("full").is_symlink());

    let made = Command::new("mkfifo").arg(site.path("pipe")).status();
    assert!(made.unwrap().success());
    let mut reader = Command::new("cat")
        .arg(site.path("pipe"))
        .stdout(fs::File::create(site.path("read.tar.gz")).unwrap())
        .spawn()
        .unwrap();
    let piped = site.run(&["backup", "-o", "pipe"]);
    if !piped.status.success() || !site.path("pipe").metadata().unwrap().file_type().is_fifo() {
        reader.kill().unwrap();
    }
    reader.wait().unwrap();
    assert!(piped.status.success(), "{}", said(&piped));
    assert!(site.path("pipe").metadata().unwrap().file_type().is_fifo());
    assert!(Site::names(&site.path("read.tar.gz")).ends_with("backup.json\n"));

    let kept = site.path("kept.tar.gz");
    fs::write(&kept, "another one").unwrap();
    symlink(&kept, site.path("link")).unwrap();
    for name in ["kept.tar.gz", "link"] {
        let refused = site.run(&["backup", "-o", name]);
        assert_eq!(refused.status.code(), Some(73), "{}", said(&refused));
        assert!(said(&refused).contains("--force"), "{}", said(&refused));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "another one");
    }
    let forced = site.run(&["backup", "--force", "-o", "link"]);
    assert!(forced.status.success(), "{}", said(&forced));
    assert!(site.path("link").is_symlink());
    assert!(Site::names(&kept).ends_with("backup.json\n"));
    let mode = fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyphen_is_standard_output_and_nothing_else_is_written_there() {
    let site = Site::new().await;
    let output = site.run(&["backup", "-o", "-"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!site.path("-").exists());
    fs::write(site.path("out.tar.gz"), &output.stdout).unwrap();
    assert!(Site::names(&site.path("out.tar.gz")).ends_with("backup.json\n"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("records"), "{told}");

    // Half an archive that is sent away must be told from a whole one.
    let mut cut = site.command(&["backup", "-o", "-"]);
    let mut child = cut
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut heard = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut heard)
        .unwrap();
    assert!(!child.wait().unwrap().success(), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_machine_has_its_password_again_and_nobody_else_reads_it() {
    let site = Site::new().await;
    let made = site.run(&["backup", "-o", "b.tar.gz"]);
    assert!(made.status.success(), "{}", said(&made));
    let text = fs::read_to_string(site.path("etc/own.env")).unwrap();
    fs::remove_dir_all(site.path("etc")).unwrap();
    let restored = site.run(&["restore", "b.tar.gz"]);
    assert!(restored.status.success(), "{}", said(&restored));
    let read = |name: &str| fs::read_to_string(site.path(name)).unwrap();
    assert_eq!(read("etc/own.env"), text);
    assert_eq!(read("etc/password"), "in-a-file\n");
    for name in ["etc/own.env", "etc/password"] {
        let mode = fs::metadata(site.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }

    // A new machine has made a password of its own.
    fs::write(site.path("etc/password"), "of-the-new-machine\n").unwrap();
    let again = site.run(&["restore", "b.tar.gz"]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(read("etc/password"), "in-a-file\n");
    let mut beside = fs::read_dir(site.path("etc")).unwrap().flatten();
    let aside = beside.find(|it| {
        it.file_name()
            .to_string_lossy()
            .starts_with("password.before")
    });
    assert_eq!(
        fs::read_to_string(aside.unwrap().path()).unwrap(),
        "of-the-new-machine\n"
    );

    fs::remove_file(site.path("etc/password")).unwrap();
    let without = site.run(&["backup", "--force", "-o", "b.tar.gz"]);
    assert!(
        said(&without).contains("HA_CONTROLLER_PASSWORD_FILE="),
        "{}",
        said(&without)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_file_cannot_be_written_nothing_is_restored() {
    let site = Site::new().await;
    let made = site.run(&["backup", "-o", "b.tar.gz"]);
    assert!(made.status.success(), "{}", said(&made));
    let env = fs::read_to_string(site.path("etc/own.env")).unwrap() + "# of the new machine\n";
    fs::write(site.path("etc/own.env"), &env).unwrap();
    fs::remove_file(site.path("etc/password")).unwrap();
    fs::create_dir(site.path("etc/password")).unwrap();
    let restored = site.run(&["restore", "b.tar.gz"]);
    assert_eq!(restored.status.code(), Some(73), "{}", said(&restored));
    assert!(
        said(&restored).contains("nothing was changed"),
        "{}",
        said(&restored)
    );
    assert_eq!(fs::read_to_string(site.path("etc/own.env")).unwrap(), env);
    let beside = |folder: &str| {
        let names = fs::read_dir(site.path(folder)).unwrap().flatten();
        let names = names.map(|it| it.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("before-restore")).count()
    };
    assert_eq!((beside("etc"), beside("data")), (0, 0));
}
