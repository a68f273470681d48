//! The sheet on which a bench writes what must be reached and what was.

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

    /// A figure that must not be larger.
    pub fn at_most(&mut self, what: &str, measured: f64, required: f64, unit: &str) {
        self.line(
            what,
            "at most",
            measured,
            required,
            unit,
            measured <= required,
        );
    }

    /// A figure that must not be smaller.
    pub fn at_least(&mut self, what: &str, measured: f64, required: f64, unit: &str) {
        self.line(
            what,
            "at least",
            measured,
            required,
            unit,
            measured >= required,
        );
    }

    fn line(
        &mut self,
        what: &str,
        how: &str,
        measured: f64,
        required: f64,
        unit: &str,
        is_met: bool,
    ) {
        let word = if is_met { "met" } else { "MISSED" };
        self.missed += usize::from(!is_met);
        println!("{what}: required {how} {required} {unit}, measured {measured:.3} {unit}: {word}");
    }

    /// Ends the process with 1 when a figure was missed.
    pub fn end(&self) {
        if self.missed > 0 {
            println!("{} figures were missed", self.missed);
            std::process::exit(1);
        }
    }
}
