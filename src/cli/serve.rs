//! `serve`: the controller as a service. Builds everything in the order in which it is needed, says what is wrong in one
//! sentence, and owns the signals: the first ends in a few seconds with everything written, the second at once.
//!
//! Requests are answered before the sessions are read, which takes seconds where there are many: OpenVidu's webhooks and the
//! recorders' heartbeats need one session at most.

use super::reload::Reload;
use super::{DataDir, Failure, SettingsFile, exit, logging, supervise};
use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::config::{RuntimeKind, Settings};
use crate::controller::{Controller, Parts, relay};
use crate::db::outbox::{Bounds, Outbox};
use crate::db::{Db, DbError};
use crate::http::{self, App, Listener, Tls};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Runtime, RuntimeError};
use crate::s3server;
use crate::store::{self, StoreError};
use crate::tasks::{self, Tasks};
use clap::Args;
use log::{error, info, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long tasks may take to end.
const LAST_WORK: Duration = Duration::from_secs(4);

/// Run the controller: receive OpenVidu's webhooks, watch the recorders, replace lost ones.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: SettingsFile,
    #[command(flatten)]
    data: DataDir,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let variables = self.settings.variables();
        let settings = variables.settings_of_service()?;
        let settings = self.data.settle(&variables, settings);
        logging::start(settings.log_format, settings.debug.0, None);
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let tls = tls(&settings)?;
        let reload = Reload::new(self.settings, &variables, tls.clone());
        let outcome =
            runtime.block_on(serve(Arc::new(settings), tls, &reload, &self.data.data_dir));
        // What did not end by its deadline was named; it must not hold the process.
        runtime.shutdown_background();
        match outcome? {
            Next::End => Ok(()),
            Next::StartAgain => Err(start_again()),
        }
    }
}

/// What follows when the service has ended.
enum Next {
    End,
    /// The database is damaged: a start with nothing of it open sets it aside.
    StartAgain,
}

/// The same program takes this process's place; answers why it could not.
fn start_again() -> Failure {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    // The file that runs, also where another one has its name by now.
    let mut program = std::process::Command::new("/proc/self/exe");
    let cause = program.arg0(name).args(words).exec();
    Failure::new(format!(
        "cannot start again by itself: {cause}; start the service, its database is set aside then"
    ))
}

/// Every connection holds a file, also one that is idle: as many as the system allows.
fn raise_file_limit() {
    let Ok((soft, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < most
        && let Err(cause) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        warn!(limit = soft; "cannot raise the limit of open files: {cause}");
    }
}

async fn serve(
    settings: Arc<Settings>,
    tls: Option<Tls>,
    reload: &Reload,
    data_dir: &Path,
) -> Result<Next, Failure> {
    let mut signals = Signals::listen()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // The address first: a second controller on this machine ends here and has touched nothing.
    let listener = listen(&settings, tls).await?;
    let tasks = Tasks::new();
    let runtime = runtime(&settings, data_dir, &tasks)?;
    let db = Db::open_or_set_aside(data_dir, &*clock)?;
    if let Some((listener, objects)) = objects(&settings, data_dir).await? {
        info!(port = settings.s3_server_port.0, bucket = settings.s3_bucket; "the built-in S3 server takes requests");
        tasks.spawn("S3 server", objects.serve(listener, tasks.token()));
    }
    let store = store::open(&settings, &settings.recording_path)?;
    let (targets, bounds) = (relay::targets(&settings), Bounds::of(&settings));
    let (outbox, due) = match Outbox::open(&db, targets, bounds, clock.now()) {
        Err(cause) if cause.is_damage() && is_condemned(&db, || false) => {
            return Ok(Next::StartAgain);
        }
        opened => opened?,
    };
    let controller = Controller::open(Parts {
        settings: Arc::clone(&settings),
        db: db.clone(),
        runtime,
        store: Arc::clone(&store),
        outbox: outbox.clone(),
        clock: Arc::clone(&clock),
        tasks: tasks.clone(),
    })?;
    let relay = relay::start(&settings, &outbox, due, &controller, &clock, &tasks)
        .await
        .map_err(|cause| Failure::with(exit::CONFIG, cause))?;
    let app = App {
        settings: Arc::clone(&settings),
        controller: controller.clone(),
        outbox: outbox.clone(),
        relay,
        store,
        clock,
        tasks: tasks.clone(),
    };
    let serving = tasks.spawn("http", http::serve(listener, app));
    if let Err(cause) = tasks::block(|| controller.load()) {
        error!("cannot read the sessions: {cause}; those that record register again");
    }
    controller.start();
    controller.schedule().await.map_err(Failure::new)?;
    supervise::ready("watching recorders");
    let asked = controller.clone();
    supervise::keep_alive(&tasks, move || {
        let asked = asked.clone();
        async move { asked.alive().await }
    });
    #[cfg(debug_assertions)]
    hang_when_told(&controller, &db, &tasks)?;
    info!(
        version = env!("CARGO_PKG_VERSION"), address:% = settings.listen_address, port = settings.controller_port.0,
        store = settings.store_place(), state:% = data_dir.display();
        "the controller is ready"
    );

    let outcome = tokio::select! {
        () = signals.end_while_reloading(reload) => Ok(Next::End),
        () = damaged(&db, &tasks) => Ok(Next::StartAgain),
        ended = serving => match ended {
            Ok(Ok(())) => Err(Failure::new("the HTTP server ended by itself")),
            Ok(Err(faults)) => Err(faults.into()),
            Err(cause) => Err(Failure::new(format!("the HTTP server broke: {cause}"))),
        },
    };
    let ends = !matches!(outcome, Ok(Next::StartAgain));
    if ends {
        supervise::stopping();
        info!("the controller ends; recorders go on without it");
    }
    let ending = async {
        for name in tasks.end(LAST_WORK).await {
            warn!("{name} did not end in time");
        }
        if !ends {
            return Ok(()); // the journal has what a fresh database needs
        }
        controller.save();
        db.durable().await?;
        outbox.checkpoint().await
    };
    tokio::select! {
        saved = ending => saved?,
        () = signals.next() => warn!("second signal received: ending at once"),
    }
    outcome
}

/// Answers once the database is known to be damaged and the next start will set it aside.
async fn damaged(db: &Db, tasks: &Tasks) {
    let (db, token) = (db.clone(), tasks.token());
    let read = move || is_condemned(&db, || token.is_cancelled());
    if !matches!(
        tasks.spawn_blocking("read the database", read).await,
        Ok(true)
    ) {
        std::future::pending().await
    }
}

/// Reads the database through, and condemns one that is damaged. What fails otherwise, as for want of memory, is no damage.
fn is_condemned(db: &Db, ended: impl Fn() -> bool) -> bool {
    let Err(cause) = db.read_through(ended) else {
        return false;
    };
    if !cause.is_damage() {
        error!("{cause}");
        return false;
    }
    let condemned = db.condemn(&cause);
    match &condemned {
        Ok(()) => error!("{cause}; the controller starts again with a fresh database"),
        // It goes on with what it knows.
        Err(refused) => error!(
            "{cause}; {refused}; free space in the data directory and restart the controller"
        ),
    }
    condemned.is_ok()
}

fn tls(settings: &Settings) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        return Ok(None);
    };
    let tls = Tls::load(certificate, key);
    tls.map(Some)
        .map_err(|cause| Failure::with(exit::CONFIG, cause))
}

async fn listen(settings: &Settings, tls: Option<Tls>) -> Result<Listener, Failure> {
    let address = SocketAddr::new(settings.listen_address, settings.controller_port.0);
    let bound = Listener::bind(address, tls).await;
    bound.map_err(|cause| Failure::with(exit::UNAVAILABLE, cause))
}

/// The built-in S3 server and its port, where it is wanted.
async fn objects(
    settings: &Settings,
    data_dir: &Path,
) -> Result<Option<(TcpListener, s3server::Server)>, Failure> {
    let Some(options) = s3server::Options::from_settings(settings, data_dir)? else {
        return Ok(None);
    };
    let address = SocketAddr::new(settings.listen_address, settings.s3_server_port.0);
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|cause| {
        let message = format!(
            "cannot listen on {address} for the built-in S3 server: {cause}; set MINIO_API_PORT, or HA_S3_SERVER=off"
        );
        Failure::with(exit::UNAVAILABLE, message)
    })?;
    let server = s3server::Server::open(&options).await;
    let server = server.map_err(|cause| Failure::with(exit::CANNOT_WRITE, cause))?;
    Ok(Some((listener, server)))
}

fn runtime(
    settings: &Settings,
    data_dir: &Path,
    tasks: &Tasks,
) -> Result<Arc<dyn Runtime>, Failure> {
    match settings.runtime {
        RuntimeKind::Docker => {
            // Not awaited: webhooks and heartbeats are taken also while there is no Docker.
            let docker = DockerRuntime::new(&settings.image_name, &settings.image_tag);
            // A registry may take minutes, and recordings that run need no image: nothing waits for it.
            let preparing = prepare(docker.clone(), tasks.token());
            tasks.spawn("recording image", preparing);
            Ok(Arc::new(docker))
        }
        RuntimeKind::Process => {
            let program = std::env::current_exe().map_err(Failure::new)?;
            let no_folder = |cause: RuntimeError| {
                let advice = "give it to this user or name another one with --data-dir";
                Failure::with(exit::CANNOT_WRITE, format!("{cause}; {advice}"))
            };
            let processes = ProcessRuntime::open(&data_dir.join("processes"), &program);
            let processes = processes.map_err(no_folder)?;
            Ok(Arc::new(processes))
        }
    }
}

/// Sees to it that the recording image is there, once Docker is; its absence is reported, and health shows it.
async fn prepare(docker: DockerRuntime, ended: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let prepared = async {
        loop {
            match docker.prepare().await {
                // Whoever follows Docker's events has said so.
                Err(RuntimeError::Unreachable { .. }) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                done => return done,
            }
        }
    };
    if let Some(Err(cause)) = ended.run_until_cancelled(prepared).await {
        error!("{cause}");
    }
}

/// The switch of the watchdog's test, in debug builds only: SIGUSR1 hangs the controller, SIGUSR2 its database.
#[cfg(debug_assertions)]
fn hang_when_told(controller: &Controller, db: &Db, tasks: &Tasks) -> Result<(), Failure> {
    let mut first = signal(SignalKind::user_defined1()).map_err(Failure::new)?;
    let mut second = signal(SignalKind::user_defined2()).map_err(Failure::new)?;
    let (controller, db, owner) = (controller.clone(), db.clone(), tasks.clone());
    tasks.spawn("hang switch", async move {
        let work: Box<dyn FnOnce() + Send> = tokio::select! {
            _ = first.recv() => Box::new(move || controller.hang()),
            _ = second.recv() => Box::new(move || db.hang()),
            () = owner.token().cancelled_owned() => return,
        };
        owner.spawn_blocking("a hang", work);
    });
    Ok(())
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Failure::new)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::new)?,
            reload: signal(SignalKind::hangup()).map_err(Failure::new)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the end; until then a hang-up has things read again.
    async fn end_while_reloading(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reload.recv() => reload.now(),
            }
        }
    }
}

impl From<DbError> for Failure {
    fn from(cause: DbError) -> Self {
        let code = match cause {
            DbError::Folder { .. } => exit::CANNOT_WRITE,
            _ => exit::UNAVAILABLE,
        };
        Self::with(code, cause)
    }
}

impl From<RuntimeError> for Failure {
    fn from(cause: RuntimeError) -> Self {
        Self::with(exit::UNAVAILABLE, cause)
    }
}

impl From<StoreError> for Failure {
    fn from(cause: StoreError) -> Self {
        Self::with(exit::UNAVAILABLE, cause)
    }
}
