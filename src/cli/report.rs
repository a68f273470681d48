//! What the operator's commands say: checks with a finding and, where something is wrong, what to do about it. As text for
//! people (coloured on a terminal only) or as JSON for programs; the verdict is the exit code.

use super::{Failure, exit};
use clap::Args;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// How a command prints; every operator's command takes it.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Form {
    /// Print JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

impl Form {
    /// Prints `value` as JSON, or what `text` makes of it.
    pub(super) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            say(format_args!("{:#}", serde_json::json!(value)));
        } else {
            say(text(value).trim_end());
        }
    }
}

impl Form {
    /// The same on standard error, for a command whose standard output is what it makes.
    pub(super) fn print_aside<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        match self.json {
            true => eprintln!("{:#}", serde_json::json!(value)),
            false => eprintln!("{}", text(value).trim_end()),
        }
    }
}

/// Whether something that was to be printed is lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line. A reader that has had enough, as `head` has, is none to complain to; whatever else keeps a line from standard
/// output is told at the end.
pub(super) fn say(line: impl Display) {
    let mut out = std::io::stdout();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    if written.is_err_and(|cause| cause.kind() != ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Fails when a line of [`say`] is lost.
///
/// # Errors
/// Then.
pub(super) fn all_said() -> Result<(), Failure> {
    match LOST.load(Ordering::Relaxed) {
        true => Err(Failure::with(
            exit::CANNOT_WRITE,
            "cannot write to standard output",
        )),
        false => Ok(()),
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// As it should be.
    Good,
    /// It works, and a person should look at it.
    Warning,
    /// It does not work.
    Bad,
    /// It could not or need not be checked.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    name: String,
    outcome: Outcome,
    finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    pub(super) fn good(name: &str, finding: impl Display) -> Self {
        Self::of(name, Outcome::Good, finding)
    }

    pub(super) fn warning(name: &str, finding: impl Display) -> Self {
        Self::of(name, Outcome::Warning, finding)
    }

    pub(super) fn bad(name: &str, finding: impl Display) -> Self {
        Self::of(name, Outcome::Bad, finding)
    }

    pub(super) fn skipped(name: &str, finding: impl Display) -> Self {
        Self::of(name, Outcome::Skipped, finding)
    }

    /// The same with what to do about it.
    pub(super) fn advice(mut self, advice: impl Display) -> Self {
        self.advice = Some(advice.to_string());
        self
    }

    /// What was looked at.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What was found.
    pub(super) fn finding(&self) -> &str {
        &self.finding
    }

    pub(super) fn is_bad(&self) -> bool {
        self.outcome == Outcome::Bad
    }

    pub(super) fn is_warning(&self) -> bool {
        self.outcome == Outcome::Warning
    }

    pub(super) fn is_good(&self) -> bool {
        self.outcome == Outcome::Good
    }

    fn of(name: &str, outcome: Outcome, finding: impl Display) -> Self {
        Self {
            name: name.to_owned(),
            outcome,
            finding: finding.to_string(),
            advice: None,
        }
    }
}

/// The checks of one command.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// The checks, in order.
    pub(super) fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Has `clean` go over every word of it.
    pub(super) fn clean(&mut self, clean: impl Fn(&str) -> String) {
        for check in &mut self.checks {
            check.finding = clean(&check.finding);
            check.advice = check.advice.as_deref().map(&clean);
        }
    }

    /// Prints the checks.
    ///
    /// # Errors
    /// When a check is bad, so that the command's exit code says so.
    pub(super) fn conclude(self, form: Form) -> Result<(), Failure> {
        form.print(&self, |report| report.text(Paint::of_terminal()));
        self.verdict()
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// When a check is bad.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match (self.count(Outcome::Bad), self.checks.len()) {
            (0, _) => Ok(()),
            (bad, all) => Err(Failure::new(format!("{bad} of {all} checks failed"))),
        }
    }

    fn count(&self, outcome: Outcome) -> usize {
        let same = |check: &&Check| check.outcome == outcome;
        self.checks.iter().filter(same).count()
    }

    /// The checks for a person.
    pub(super) fn text(&self, paint: Paint) -> String {
        let wide = self.checks.iter().map(|check| check.name.len()).max();
        let wide = wide.unwrap_or_default();
        let mut text = String::new();
        for check in &self.checks {
            let (word, colour) = match check.outcome {
                Outcome::Good => ("ok  ", Colour::Green),
                Outcome::Warning => ("warn", Colour::Yellow),
                Outcome::Bad => ("FAIL", Colour::Red),
                Outcome::Skipped => ("skip", Colour::Grey),
            };
            let word = paint.dye(colour, word);
            text.push_str(&format!(
                "{word}  {:wide$}  {}\n",
                check.name, check.finding
            ));
            if let Some(advice) = &check.advice {
                text.push_str(&format!("      {:wide$}  → {advice}\n", ""));
            }
        }
        text
    }
}

/// Colours, where they are wanted: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(pub(super) bool);

/// The colours that have a meaning here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    /// As it should be.
    Green,
    /// Look at it.
    Yellow,
    /// Act.
    Red,
    /// Of no weight.
    Grey,
}

impl Paint {
    /// Colours when standard output is a terminal that can show them.
    pub(super) fn of_terminal() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    /// `text` in `colour`.
    pub(super) fn dye(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Grey => 90,
        };
        match self.0 {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add(Check::good("clock", "synchronised"));
        report.add(Check::bad("image", "not found").advice("build it"));
        report
    }

    #[test]
    fn a_bad_check_says_what_to_do_and_decides_the_exit_code() {
        let text = report().text(Paint(false));
        assert_eq!(
            text,
            "ok    clock  synchronised\nFAIL  image  not found\n             → build it\n"
        );
        let failure = report().conclude(Form { json: true }).unwrap_err();
        assert_eq!(failure.message, "1 of 2 checks failed");
    }

    #[test]
    fn colour_is_for_terminals_only() {
        assert!(report().text(Paint(true)).contains("\u{1b}[31mFAIL"));
        assert!(!report().text(Paint(false)).contains('\u{1b}'));
    }
}
