//! The README's table of symptoms, and for each of them the check that decides whether this machine has it.

use super::recordings::Left;
use super::service::Known;
use crate::cli::Failure;
use crate::cli::report::{Check, Report};
use crate::config::Settings;
use crate::model::ask::{Doing, Reply};
use crate::model::timeline::Timeline;
use crate::model::worry::{Area, Severity, Worry};
use std::path::{Path, PathBuf};

/// What was found, for the checks below.
pub(super) struct Evidence<'a> {
    pub(super) settings: &'a Settings,
    /// What `validate` found.
    pub(super) report: &'a Report,
    pub(super) known: &'a Known,
    /// What the recorders in containers answered.
    pub(super) recorders: &'a [(String, Reply)],
    /// Of the last recordings.
    pub(super) timelines: &'a [Timeline],
    pub(super) left: &'a Result<Left, Failure>,
    /// Databases that were set aside.
    pub(super) set_aside: &'a [PathBuf],
}

/// A symptom in the README's words, a short name for it, and who decides it.
struct Symptom {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test holds it against the README")
    )]
    readme: &'static str,
    name: &'static str,
    judge: fn(&str, &Evidence<'_>) -> Check,
}

const SYMPTOMS: [Symptom; 13] = [
    Symptom {
        readme: "A recording does not start",
        name: "does not start",
        judge: |name, it| {
            it.follows_from(
                name,
                &[
                    "settings",
                    "docker",
                    "image",
                    "programs",
                    "recordings",
                    "disk",
                    "deployment",
                ],
            )
        },
    },
    Symptom {
        readme: "The status page says that something is wrong",
        name: "status page",
        judge: |name, it| it.worry(name, "the status page says that all is well", |_| true),
    },
    Symptom {
        readme: "A recording does not go on and nobody knows why",
        name: "does not go on",
        judge: asked,
    },
    Symptom {
        readme: "The status page says that a recording has not grown and is left alone",
        name: "has not grown",
        judge: |name, it| {
            it.worry(name, "every recording grows", |worry| {
                worry.text.contains("has not grown")
            })
        },
    },
    Symptom {
        readme: "Seconds are missing in a video",
        name: "seconds missing",
        judge: missing,
    },
    Symptom {
        readme: "Chunks exist but no video was made",
        name: "no video",
        judge: without_video,
    },
    Symptom {
        readme: "Chunks stay in the store",
        name: "chunks stay",
        judge: with_video,
    },
    Symptom {
        readme: "The store is refused",
        name: "store refused",
        judge: |name, it| it.follows_from(name, &["store"]),
    },
    Symptom {
        readme: "Your endpoint misses webhooks",
        name: "webhooks missing",
        judge: |name, it| {
            it.worry(name, "no webhook waits or was given up", |worry| {
                worry.area == Area::Outbox
            })
        },
    },
    Symptom {
        readme: "The log says that a database was set aside",
        name: "database set aside",
        judge: set_aside,
    },
    Symptom {
        readme: "OpenVidu was restarted during a recording",
        name: "OpenVidu restarted",
        judge: |name, it| {
            it.worry(
                name,
                "OpenVidu knows every recording that is over",
                |worry| worry.text.contains("OpenVidu does not know"),
            )
        },
    },
    Symptom {
        readme: "The log says that OpenVidu is not asked, or does not answer",
        name: "OpenVidu silent",
        judge: |name, it| it.follows_from(name, &["openvidu"]),
    },
    Symptom {
        readme: "The service does not start",
        name: "service",
        judge: service,
    },
];

/// A check for each symptom.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<Check> {
    let judge = |it: &Symptom| (it.judge)(it.name, evidence);
    SYMPTOMS.iter().map(judge).collect()
}

/// The databases beside ours that could not be read.
pub(super) fn databases_set_aside(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("db.unreadable")
    };
    entries.map(|it| it.path()).filter(is_one).collect()
}

impl Evidence<'_> {
    /// It is one of the checks above that decides.
    fn follows_from(&self, name: &str, deciding: &[&str]) -> Check {
        let ones = |is_one: fn(&Check) -> bool| {
            let checks = self.report.checks().iter();
            checks.filter(move |it| is_one(it) && deciding.contains(&it.name()))
        };
        let found = |is_one: fn(&Check) -> bool| {
            let texts = ones(is_one).map(|it| format!("{}: {}", it.name(), it.finding()));
            texts.collect::<Vec<_>>().join("; ")
        };
        let advice = "see what is advised above";
        let made: Vec<_> = ones(Check::is_good).map(Check::name).collect();
        match (found(Check::is_bad), found(Check::is_warning)) {
            (bad, _) if !bad.is_empty() => Check::bad(name, bad).advice(advice),
            (_, odd) if !odd.is_empty() => Check::warning(name, odd).advice(advice),
            // What was not looked at is not well.
            _ if made.is_empty() => Check::skipped(
                name,
                format!("not known: {} was not looked at", deciding.join(", ")),
            ),
            _ => Check::good(name, format!("nothing is wrong with {}", made.join(", "))),
        }
    }

    /// It is one of the controller's worries that decides.
    fn worry(&self, name: &str, well: &str, is_one: impl Fn(&Worry) -> bool) -> Check {
        if let Some(silence) = &self.known.silence {
            return Check::skipped(name, format!("not known: {silence}"));
        }
        let found: Vec<_> = self.known.worries.iter().filter(|it| is_one(it)).collect();
        let Some(first) = found.iter().max_by_key(|it| it.severity) else {
            return Check::good(name, well);
        };
        let texts: Vec<_> = found.iter().map(|it| it.text.as_str()).collect();
        let check = match first.severity {
            Severity::Act => Check::bad(name, texts.join("; ")),
            Severity::Look => Check::warning(name, texts.join("; ")),
        };
        check.advice(&first.advice)
    }
}

fn asked(name: &str, it: &Evidence<'_>) -> Check {
    let Some((container, reply)) = it.recorders.iter().max_by_key(|(_, reply)| weight(reply))
    else {
        return Check::skipped(name, "no recording container of ours runs here");
    };
    match reply {
        Reply::Nothing => Check::bad(name, format!("the recorder in {container} hangs"))
            .advice("the controller replaces it where its files do not grow"),
        Reply::Answer(doing @ Doing::Disk { .. }, _) => {
            Check::bad(name, format!("{container}: {doing}"))
                .advice("check the disk below the recordings folder")
        }
        Reply::Answer(doing @ Doing::Mending { .. }, _) => {
            Check::warning(name, format!("{container}: {doing}"))
                .advice(format!("\"docker logs {container}\" says more"))
        }
        Reply::Unknown(why) => Check::warning(name, format!("{container} cannot be asked: {why}"))
            .advice(
                "a container that was started from an image of before cannot; a new recording can",
            ),
        Reply::Answer(..) => Check::good(
            name,
            format!("{} recorders answer that all is well", it.recorders.len()),
        ),
    }
}

/// How bad an answer is.
const fn weight(reply: &Reply) -> u8 {
    match reply {
        Reply::Nothing => 4,
        Reply::Answer(Doing::Disk { .. }, _) => 3,
        Reply::Answer(Doing::Mending { .. }, _) => 2,
        Reply::Unknown(_) => 1,
        Reply::Answer(..) => 0,
    }
}

fn missing(name: &str, it: &Evidence<'_>) -> Check {
    if it.timelines.is_empty() {
        return Check::skipped(
            name,
            "no finished recording of ours lies in the recordings folder",
        );
    }
    let seconds = |timeline: &Timeline| timeline.gaps.iter().map(|gap| gap.seconds).sum::<f64>();
    let lacking = it
        .timelines
        .iter()
        .filter(|timeline| !timeline.gaps.is_empty());
    let lacking: Vec<_> = lacking
        .map(|it| format!("{} lacks {:.1} s", it.recording, seconds(it)))
        .collect();
    let all = it.timelines.len();
    match lacking.is_empty() {
        true => Check::good(name, format!("the last {all} recordings have no gap")),
        false => Check::warning(name, format!("of the last {all} recordings {}", lacking.join(", ")))
            .advice("\"ov2-ha-recorder timeline <id>\" names each gap's cause, \"failovers <id>\" says what was done"),
    }
}

fn without_video(name: &str, it: &Evidence<'_>) -> Check {
    match it.left {
        Err(cause) => Check::skipped(name, &cause.message),
        // Nobody says what is being recorded just now.
        Ok(left) if !left.without_video.is_empty() && it.known.silence.is_some() => Check::skipped(
            name,
            format!(
                "not known: {} have none, or are being recorded; {}",
                some_of(&left.without_video),
                it.known.silence.as_deref().unwrap_or_default()
            ),
        ),
        Ok(left) if left.without_video.is_empty() => Check::good(
            name,
            "every recording in the chunk store that is over has its video",
        ),
        Ok(left) => Check::bad(
            name,
            format!(
                "chunks and no finished video: {}",
                some_of(&left.without_video)
            ),
        )
        .advice("\"ov2-ha-recorder recover\" makes the videos"),
    }
}

fn with_video(name: &str, it: &Evidence<'_>) -> Check {
    let is_wanted = it.settings.keep_chunks_days > 0 || !it.settings.s3_cleanup.0;
    match it.left {
        Err(cause) => Check::skipped(name, &cause.message),
        Ok(left) if left.with_video.is_empty() => Check::good(name, "no finished recording has chunks in the store"),
        Ok(left) if is_wanted => Check::good(name, format!("{} finished recordings keep their chunks, as the settings say", left.with_video.len())),
        Ok(left) => Check::warning(name, format!("finished, and their chunks are still there: {}", some_of(&left.with_video)))
            .advice("\"ov2-ha-recorder join <id>/chunks/<take> -o <video> --check\" says what differs, where they do not go within minutes"),
    }
}

fn set_aside(name: &str, it: &Evidence<'_>) -> Check {
    match it.set_aside {
        [] => Check::good(name, "no database was set aside"),
        found => {
            let paths: Vec<_> = found
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Check::warning(name, paths.join(", "))
                .advice("nothing recorded is lost; webhooks that waited in it are: delete it when nobody needs them")
        }
    }
}

fn service(name: &str, it: &Evidence<'_>) -> Check {
    let Some(silence) = &it.known.silence else {
        return Check::good(name, "it runs and answers");
    };
    let deciding = [
        "settings",
        "authorities",
        "certificate",
        "account",
        "port",
        "s3 port",
        "webhook",
    ];
    let checks = it.report.checks().iter();
    let bad = checks.filter(|check| check.is_bad() && deciding.contains(&check.name()));
    let bad: Vec<_> = bad.map(|check| check.name()).collect();
    match bad.is_empty() {
        true if it.known.answers => Check::bad(name, format!("it runs; {silence}"))
            .advice("\"ov2-ha-recorder restart\" has it take the settings of now; recorders go on meanwhile"),
        true => Check::bad(name, silence)
            .advice("\"ov2-ha-recorder start\", then \"ov2-ha-recorder logs\""),
        false => Check::bad(name, format!("it cannot start: {}", bad.join(", ")))
            .advice("see what is advised above"),
    }
}

/// Names for a person: the first of many.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).map(String::as_str);
    let first = first.collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=SHOWN => first,
        all => format!("{first} and {} more", all - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symptom_of_the_readme_is_decided_here() {
        let text = include_str!("../../../README.md");
        let (_, table) = text
            .split_once("| symptom | what to do |\n|---|---|\n")
            .unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let symptoms: Vec<_> = rows
            .map(|row| row.split('|').nth(1).unwrap().trim())
            .collect();
        let decided: Vec<_> = SYMPTOMS.iter().map(|it| it.readme).collect();
        assert_eq!(decided, symptoms);
    }
}
