//! One recording from start to end for a person to see: real page, real container, a kill in the middle. `packaging/demo`
//! builds everything and runs this.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs
)]

mod support;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use support::controller::USER;
use support::stage::{Played, Stage};

/// Plays OpenVidu's part for one recording of 30 s and kills the recorder at 12 s.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program.
    #[arg(long)]
    binary: PathBuf,
    /// Where the recording, the controller's state and its log go.
    #[arg(long)]
    folder: PathBuf,
    /// Where the recorder runs: docker or process.
    #[arg(long, default_value = "docker")]
    runtime: String,
    /// Leave the controller running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("the demo failed: {why}");
            eprintln!("logs are in {}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<(), String> {
    let (binary, folder) = (&arguments.binary, &arguments.folder);
    let mut stage = match arguments.runtime.as_str() {
        "process" => Stage::of_processes(binary, folder, &[]).await?,
        _ => Stage::set(binary, folder, &[]).await?,
    };
    let page = stage.controller.url("/");
    println!(
        "status page: {page} (user {USER}, password {})",
        stage.controller.password
    );
    let played = stage.play("ses_demo", |line| println!("{line}")).await?;
    report(&played);
    if arguments.keep {
        println!("status page: {page}; Ctrl-C ends it");
        tokio::signal::ctrl_c()
            .await
            .map_err(|cause| cause.to_string())?;
    }
    stage.controller.stop().await;
    Ok(())
}

fn report(played: &Played) {
    let footage = &played.footage;
    println!();
    println!("video               {}", played.sealed.video.display());
    println!(
        "plays               {:.2} s; its frames' clock covers {:.2} s",
        footage.duration,
        footage.clock_span()
    );
    println!("missing             {}", played.holes());
    println!("decode errors       {}", footage.decode_errors.len());
    println!(
        "sound               {} beeps, {} missing; {:+.0} ms against the picture",
        footage.beeps.len(),
        footage.silent_seconds().len(),
        footage.sound_offset() * 1000.0
    );
    println!(
        "start to first file {:.2} s",
        played.recording.start_took.as_secs_f64()
    );
    println!(
        "stop to finished    {:.2} s",
        played.sealed.stop_took.as_secs_f64()
    );
}
