//! The sheet on which a bench writes what must be reached and what was.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// What must be reached, what was, and whether that is enough.
pub struct Figure {
    pub name: &'static str,
    pub required: &'static str,
    pub measured: String,
    pub reached: bool,
}

impl Figure {
    /// A time that must not be longer; `required` is `most` in words.
    pub fn at_most(
        name: &'static str,
        required: &'static str,
        most: Duration,
        is: Duration,
    ) -> Self {
        Self {
            name,
            required,
            measured: format!("{is:.2?}"),
            reached: is <= most,
        }
    }

    /// The same with a word about how it was measured.
    pub fn with(mut self, more: &str) -> Self {
        let _ = write!(self.measured, " ({more})");
        self
    }
}

/// Its name on the command line, and what it measures.
pub type Measurement = (
    &'static str,
    fn() -> Pin<Box<dyn Future<Output = Vec<Figure>>>>,
);

/// One line a figure; counts what was missed. Words after `cargo bench --bench NAME --` choose among the measurements.
pub struct Sheet {
    wanted: Vec<String>,
    missed: usize,
}

impl Sheet {
    /// For the measurements that the command line names; all of them where it names none.
    pub fn new() -> Self {
        let words = std::env::args().skip(1);
        Self {
            wanted: words.filter(|word| !word.starts_with('-')).collect(),
            missed: 0,
        }
    }

    /// Whether the measurement of that name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|word| word == name)
    }

    /// Takes those of the measurements that are wanted.
    pub fn fill(&mut self, measurements: &[Measurement]) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for (name, measure) in measurements {
            if self.wants(name) {
                for it in runtime.block_on(measure()) {
                    self.write(it.name, it.required, &it.measured, it.reached);
                }
            }
        }
    }

    /// A figure that must not be larger.
    pub fn at_most(&mut self, what: &str, measured: f64, required: f64, unit: &str) {
        let reached = measured <= required;
        let required = format!("at most {required} {unit}");
        self.write(what, &required, &format!("{measured:.3} {unit}"), reached);
    }

    /// A figure that must not be smaller.
    pub fn at_least(&mut self, what: &str, measured: f64, required: f64, unit: &str) {
        let reached = measured >= required;
        let required = format!("at least {required} {unit}");
        self.write(what, &required, &format!("{measured:.3} {unit}"), reached);
    }

    fn write(&mut self, name: &str, required: &str, measured: &str, reached: bool) {
        let verdict = if reached { "reached" } else { "MISSED" };
        self.missed += usize::from(!reached);
        println!("{verdict}  {name}: required {required}; measured {measured}");
    }

    /// Ends the process with 1 when a figure was missed.
    pub fn end(&self) {
        if self.missed > 0 {
            println!("{} figures were missed", self.missed);
            std::process::exit(1);
        }
    }
}
