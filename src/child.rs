//! One operating-system process of ours: started in a process group of its own, its last words kept for the message
//! about its end, its group ended with it. Under the first process of a container orphans end up with us; they are
//! reaped here, without taking the children that have an owner. Outside a container a recorder that is killed by force has
//! nobody who ends its children: those started by [`dies_with_us`] are ended by the kernel.

mod account;
mod hidden;

pub use account::Account;
pub use hidden::Hidden;

use crate::tasks::Tasks;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// How many of a child's last lines are kept.
const LAST_WORDS: usize = 8;
/// The most of one line that is repeated; a child that prints without line ends must not fill our memory.
const LONGEST_LINE: u64 = 4096;

/// The subcommand of this program through which [`dies_with_us`] starts others.
pub const DIE_WITH_PARENT: &str = "die-with-parent";

/// Children that have an owner. Held over a spawn, so that no child is reaped before it is listed.
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}: {cause}; is it installed?")]
pub struct ChildError {
    /// What was to be started.
    pub program: String,
    /// What the system said.
    pub cause: std::io::Error,
}

/// A running process. Dropping it ends its whole group at once.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    inner: tokio::process::Child,
    pid: Pid,
    last_words: Arc<Mutex<VecDeque<String>>>,
    reaped: bool,
}

impl Child {
    /// Starts `command` under `name`, in a process group of its own. What it prints on standard error goes to the debug
    /// log without what is `hidden`, and its last lines into the message about its end.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(
        name: &'static str,
        command: std::process::Command,
        hidden: &Hidden,
        tasks: &Tasks,
    ) -> Result<Self, ChildError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut command = Command::from(command);
        command
            .process_group(0)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut owned = lock(&OWNED);
        let spawned = command.spawn();
        let mut inner = spawned.map_err(|cause| ChildError { program, cause })?;
        let pid = Pid::from_raw(inner.id().map_or(0, u32::cast_signed));
        owned.insert(pid.as_raw());
        drop(owned);
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = inner.stderr.take() {
            let (last_words, hidden) = (Arc::clone(&last_words), hidden.clone());
            let token = tasks.token();
            tasks.spawn(format!("what {name} says"), async move {
                tokio::select! {
                    () = listen(name, stderr, &last_words, &hidden) => {}
                    () = token.cancelled() => {}
                }
            });
        }
        Ok(Self {
            name,
            inner,
            pid,
            last_words,
            reaped: false,
        })
    }

    /// The process's id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its standard input, once, where it was piped.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// Its standard output, once, where it was piped.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// Waits for its end and says how it came. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        let status = self.inner.wait().await;
        self.reaped();
        let how = match status {
            Ok(status) => describe(status),
            Err(cause) => format!("cannot be waited for: {cause}"),
        };
        let words = lock(&self.last_words);
        match words.is_empty() {
            true => format!("{} {how}", self.name),
            false => {
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                format!("{} {how}; it said: {}", self.name, words.join(" | "))
            }
        }
    }

    /// Sends `signal` to the process alone; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        if !self.reaped {
            // It may have ended a moment ago; then there is nothing to tell.
            let _ = nix::sys::signal::kill(self.pid, signal);
        }
    }

    /// Asks it to end by `signal`, waits at most `patience`, then ends its group by force.
    pub async fn end(mut self, signal: Signal, patience: Duration) {
        self.signal(signal);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            log::debug!("{} did not end by itself and is killed", self.name);
        }
        self.kill().await;
    }

    /// Ends its whole group by force and waits until the process is gone.
    pub async fn kill(mut self) {
        self.kill_group();
        if !self.reaped {
            // A killed process always ends; an error means that it was reaped already.
            let _ = self.inner.wait().await;
            self.reaped();
        }
    }

    fn kill_group(&self) {
        // ESRCH: nothing of the group is left.
        let _ = killpg(self.pid, Signal::SIGKILL);
    }

    fn reaped(&mut self) {
        self.reaped = true;
        lock(&OWNED).remove(&self.pid.as_raw());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill_group();
            lock(&OWNED).remove(&self.pid.as_raw());
        }
    }
}

/// Whether the process `pid` has not ended. One that ended and was not waited for yet has.
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold any character.
    let state = stat.rsplit_once(") ");
    state.is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// A command for `program` that the kernel ends when the thread that starts it ends, however that comes: start it from one
/// that lives as long as this process. Only the child itself can ask for that, so this program is started, which becomes
/// `program` by [`die_with_parent`]; as `account`, where one is given.
pub fn dies_with_us(program: &str, account: Option<Account>) -> std::process::Command {
    // Not the path: an update replaces the file while recorders run.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg(DIE_WITH_PARENT);
    if let Some(account) = account {
        command.args(["--account", &account.to_string()]);
    }
    command
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    command
}

/// Becomes `program`, as `account` where one is given, ended by force when `parent`, which started this process, ends. Returns
/// only when it cannot.
pub fn die_with_parent(
    parent: u32,
    account: Option<Account>,
    program: &OsStr,
    arguments: &[OsString],
) -> std::io::Error {
    if let Some(account) = account
        && let Err(cause) = account.assume()
    {
        return std::io::Error::other(format!("cannot become user {account}: {cause}"));
    }
    // Not before: the kernel forgets it when the user changes.
    if let Err(cause) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        // A program that may outlive its parent is better than none.
        log::debug!("the kernel does not end {}: {cause}", program.display());
    }
    // It may have ended before the kernel was asked; then nobody waits for the program.
    if i64::from(getppid().as_raw()) != i64::from(parent) {
        return std::io::Error::other("the process that wanted it has ended");
    }
    std::process::Command::new(program).args(arguments).exec()
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
            format!("was ended by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

async fn listen(
    name: &'static str,
    stderr: impl AsyncRead + Unpin,
    last_words: &Mutex<VecDeque<String>>,
    hidden: &Hidden,
) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut is_rest = false;
    loop {
        line.clear();
        let mut limited = (&mut stderr).take(LONGEST_LINE);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // What is hidden may have begun in the part of the line that was read before.
        if std::mem::replace(&mut is_rest, !line.ends_with(b"\n")) {
            continue;
        }
        let text = hidden.clean_line(&line);
        let text = text.trim_end().to_owned();
        log::debug!(target: "ov2_ha_recorder::child", "{name}: {text}");
        let mut words = lock(last_words);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(text);
    }
}

/// Makes this process the parent of every orphan below it, and reaps those that end, until `tasks` is told to end.
pub fn reap_orphans(tasks: &Tasks) {
    if let Err(cause) = nix::sys::prctl::set_child_subreaper(true) {
        log::debug!("orphans of this process are not ours to reap: {cause}");
    }
    let token = tasks.token();
    tasks.spawn("reaper of orphans", async move {
        let Ok(mut ended) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())
        else {
            return;
        };
        // Signals are merged: one that came while an owner had not yet collected its child must not hide an orphan.
        let mut again = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = ended.recv() => {}
                _ = again.tick() => {}
            }
            reap();
        }
    });
}

fn reap() {
    let owned = lock(&OWNED);
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let pid = match waitid(Id::All, look) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            Err(Errno::EINTR) => continue,
            _ => return,
        };
        if owned.contains(&pid.as_raw()) {
            return; // its owner collects it
        }
        // It ended already; this only removes it from the system's table.
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_has_ended_does_not_run_even_before_it_is_waited_for() {
        let mut child = shell("exit 0").stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(is_running(std::process::id().cast_signed()));
        while is_running(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_running(pid));
    }

    #[tokio::test]
    async fn an_end_is_told_with_the_last_words_and_without_secrets() {
        let tasks = Tasks::new();
        let hidden = Hidden::new(["s3cret".to_owned()]);
        let script = shell("echo 'no luck with s3cret' >&2; exit 3");
        let mut child = Child::spawn("the script", script, &hidden, &tasks).unwrap();
        let mut text = child.ended().await;
        // The words travel by a pipe beside the exit status.
        for _ in 0..100 {
            if text.contains("said") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            text = child.ended().await;
        }
        assert_eq!(
            text,
            "the script ended with exit code 3; it said: no luck with ***"
        );
    }

    #[tokio::test]
    async fn a_secret_at_the_edge_of_what_is_read_of_a_long_line_is_not_told() {
        let secret = "MY_SECRET";
        let hidden = Hidden::new([secret.to_owned()]);
        for before in 0..=secret.len() + 1 {
            let filler = "x".repeat(LONGEST_LINE as usize - before);
            let line = format!("{filler}{secret}{}\nthe next line\n", "y".repeat(9000));
            let words = Mutex::default();
            listen("it", line.as_bytes(), &words, &hidden).await;
            let words = words.into_inner().unwrap();
            assert_eq!(words.len(), 2, "the rest of the line is passed over");
            assert_eq!(words[1], "the next line");
            let told = words[0].trim_start_matches('x');
            let is_safe = told == "***" || told == "***y" || told.len() <= 3;
            assert!(is_safe, "{before} bytes before the edge: {told}");
        }
    }

    #[tokio::test]
    async fn ending_a_child_ends_its_children_too() {
        let tasks = Tasks::new();
        let mut command = shell("sleep 1000 & echo $!; wait");
        command.stdout(Stdio::piped());
        let mut child = Child::spawn("the shell", command, &Hidden::default(), &tasks).unwrap();
        let mut lines = BufReader::new(child.stdout().unwrap()).lines();
        let grandchild: i32 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        child.end(Signal::SIGCONT, Duration::from_millis(1)).await;
        // The pipe closes when the last process that holds it is gone.
        assert_eq!(lines.next_line().await.unwrap(), None);
        // Which is a moment before it is a zombie.
        let ended = || {
            std::fs::read_to_string(format!("/proc/{grandchild}/stat"))
                .map_or(true, |stat| stat.contains(") Z") || stat.contains(") X"))
        };
        for _ in 0..500 {
            if ended() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child of the child lives");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let command = std::process::Command::new("/no/such/program");
        let error = Child::spawn("it", command, &Hidden::default(), &Tasks::new()).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
