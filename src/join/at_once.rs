//! Runs that recorded side by side: a recorder that was frozen, replaced, and thawed, or one that nobody could end. What both
//! have is to be in the video once. By the machine's own clock it is known what that is, and nothing is left out unless another
//! run has every instant of it: the end of the earlier run, or the beginning of the later one up to a picture that needs no
//! other. Runs of other boots, or without a record of their streams, are left whole.

use super::source::Chunk;
use super::stream::{Span, UNNOTICED};
use super::{ChunkSource, Origin};
use crate::model::ids::RunNumber;
use std::collections::HashMap;
use std::fs::File;

/// What may lie between two fragments that follow one another, in microseconds: less than two frames.
const SEAM: i64 = 60_000;

/// How many chunks at each end of a run are looked at for when it was: the very last one may have nothing.
const LOOKED_AT: usize = 3;

/// What is left out of the runs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct AtOnce {
    fragments: HashMap<(Origin, u64), LeftOut>,
    notes: Vec<String>,
}

/// How much of a fragment is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    Whole,
    /// From this microsecond of its wall clock on.
    From(i64),
}

/// A run's fragments, in order.
#[derive(Debug)]
struct Run {
    number: RunNumber,
    fragments: Vec<Recorded>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Recorded {
    origin: Origin,
    /// Where it lies in its chunk.
    at: u64,
    span: Span,
    starts_with_keyframe: bool,
}

impl AtOnce {
    /// Looks among `chunks`, which are in order, for runs that recorded at once.
    pub(super) fn among(chunks: &[ChunkSource]) -> Self {
        let runs: Vec<&[ChunkSource]> = chunks.chunk_by(|a, b| a.run == b.run).collect();
        if runs.len() < 2 {
            return Self::default();
        }
        let extents: Vec<Option<Span>> = runs.iter().map(|run| extent(run)).collect();
        let meets_another = |number: &usize| {
            let mut others = extents.iter().enumerate();
            others.any(|(other, extent)| {
                other != *number && meet(extents[*number].as_ref(), extent.as_ref())
            })
        };
        let involved = (0..runs.len()).filter(meets_another);
        let read = involved.map(|number| Run {
            number: runs[number][0].run,
            fragments: runs[number].iter().flat_map(fragments).collect(),
        });
        Self::plan(&read.collect::<Vec<_>>())
    }

    /// What is left out of the fragment at this place of the chunk.
    pub(super) fn left_out(&self, origin: Origin, at: u64) -> Option<LeftOut> {
        self.fragments.get(&(origin, at)).copied()
    }

    /// What a person should know of it.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Leaves out ends that later runs have, then beginnings that earlier ones keep.
    fn plan(runs: &[Run]) -> Self {
        let mut out = Self::default();
        let mut kept: Vec<Span> = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            let later = runs[number + 1..].iter().flat_map(|run| &run.fragments);
            let later = Covered::by(later.map(|it| &it.span));
            let earlier = Covered::by(&kept);
            let end = run.last_kept(&later);
            let begin = run.first_kept(&earlier).min(end);
            out.leave_out(run, &run.fragments[..begin], "first");
            out.leave_out(run, &run.fragments[end..], "last");
            if let Some(last) = run.fragments[begin..end].last()
                && let Some(from) = later.begin_within(&last.span)
            {
                let wall = from.saturating_add(last.span.record.ahead);
                let of_last = (last.origin, last.at);
                out.fragments.insert(of_last, LeftOut::From(wall));
            }
            kept.extend(run.fragments[begin..end].iter().map(|it| it.span.clone()));
        }
        out
    }

    fn leave_out(&mut self, run: &Run, fragments: &[Recorded], what: &str) {
        let whole = |it: &Recorded| ((it.origin, it.at), LeftOut::Whole);
        self.fragments.extend(fragments.iter().map(whole));
        if let (Some(first), Some(last)) = (fragments.first(), fragments.last()) {
            let seconds = (last.span.to - first.span.from) as f64 / 1e6;
            self.notes.push(format!(
                "run {} recorded while another did: the {what} {seconds:.1} s of it are left out, which the other has",
                run.number
            ));
        }
    }
}

impl Run {
    /// Where what later runs have begins.
    fn last_kept(&self, later: &Covered) -> usize {
        let kept = |it: &Recorded| !later.holds(&it.span);
        self.fragments.iter().rposition(kept).map_or(0, |it| it + 1)
    }

    /// Where what earlier runs have ends, and a picture stands that needs no other.
    fn first_kept(&self, earlier: &Covered) -> usize {
        let had = |it: &&Recorded| earlier.holds(&it.span);
        let end = self.fragments.iter().take_while(had).count();
        let can_begin = |begin: &usize| {
            let next = self.fragments.get(*begin);
            next.is_none_or(|it| it.starts_with_keyframe)
        };
        (0..=end).rev().find(can_begin).unwrap_or(0)
    }
}

/// What fragments cover: for each boot stretches in order, none of which touches another.
#[derive(Debug, Default)]
pub(super) struct Covered(HashMap<String, Vec<(i64, i64)>>);

impl Covered {
    /// What the `spans` cover together.
    pub(super) fn by<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Self {
        let mut boots: HashMap<String, Vec<(i64, i64)>> = HashMap::new();
        for span in spans {
            match boots.get_mut(&span.record.boot) {
                Some(stretches) => stretches.push((span.from, span.to)),
                None => drop(boots.insert(span.record.boot.clone(), vec![(span.from, span.to)])),
            }
        }
        boots.values_mut().for_each(merge);
        Self(boots)
    }

    /// Whether every instant of `span` is covered.
    pub(super) fn holds(&self, span: &Span) -> bool {
        let stretch = self.stretch_of(span, span.from.saturating_add(SEAM));
        stretch.is_some_and(|(from, to)| from <= span.from + SEAM && span.to <= to + SEAM)
    }

    /// Where within `span` begins what is covered to its end.
    fn begin_within(&self, span: &Span) -> Option<i64> {
        let (from, to) = self.stretch_of(span, span.to)?;
        (from > span.from && from < span.to && span.to <= to + SEAM).then_some(from)
    }

    /// The last stretch that begins at `instant` or before it.
    fn stretch_of(&self, span: &Span, instant: i64) -> Option<(i64, i64)> {
        let stretches = self.0.get(&span.record.boot)?;
        let next = stretches.partition_point(|(from, _)| *from <= instant);
        stretches.get(next.checked_sub(1)?).copied()
    }
}

/// Makes one of stretches that touch.
fn merge(stretches: &mut Vec<(i64, i64)>) {
    stretches.sort_unstable();
    stretches.dedup_by(|next, before| {
        let touches = next.0 <= before.1.saturating_add(SEAM);
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
}

/// From the first to the last fragment of a run, where its chunks say when that was.
fn extent(run: &[ChunkSource]) -> Option<Span> {
    let first = run.iter().take(LOOKED_AT);
    let first = first.map(fragments).find_map(|mut all| all.next())?.span;
    let last = run.iter().rev().take(LOOKED_AT);
    let last = last.map(fragments).find_map(Iterator::last)?.span;
    (first.record.boot == last.record.boot).then_some(Span {
        to: last.to,
        ..first
    })
}

/// Whether both were there for longer than an unnoticed step of the clock may seem to be.
fn meet(one: Option<&Span>, other: Option<&Span>) -> bool {
    one.zip(other).is_some_and(|(one, other)| {
        let both = one.to.min(other.to) - one.from.max(other.from);
        one.record.boot == other.record.boot && both > UNNOTICED
    })
}

/// The fragments with pictures of a chunk, as far as it can be read and says when they were recorded.
fn fragments(source: &ChunkSource) -> impl Iterator<Item = Recorded> + use<> {
    let origin = source.origin();
    let read = || -> Option<Vec<Recorded>> {
        let file = File::open(&source.path).ok()?;
        let mut chunk = Chunk::open(&file).ok()?;
        let mut all = Vec::new();
        // What cannot be read is named by who takes it.
        while let Ok(Some(found)) = chunk.next() {
            let record = chunk.init().and_then(|init| init.record.clone());
            if let Some(record) = record.filter(|_| found.head.video.is_some()) {
                all.push(Recorded {
                    origin,
                    at: found.at,
                    span: Span::of(&found.head, &record),
                    starts_with_keyframe: found.head.starts_with_keyframe(),
                });
            }
        }
        Some(all)
    };
    read().unwrap_or_default().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::stream::{Seat, StreamRecord};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Fragments of a fifth of a second of the machine's clock, a keyframe in every tenth.
    fn run(number: u32, boot: &str, stretches: &[(i64, i64)]) -> Run {
        let record = StreamRecord {
            boot: boot.into(),
            ahead: 1_000_000 * i64::from(number),
            seat: Seat::Lead,
        };
        let record = Arc::new(record);
        let fragments = stretches.iter().flat_map(|(from, to)| {
            let from = *from;
            (0..(to - from) * 5).map(move |count| (from * 1_000_000 + count * 200_000, count))
        });
        let number = RunNumber(number);
        let fragments = fragments.map(|(from, count)| Recorded {
            origin: Origin {
                run: number,
                index: 1,
            },
            at: from as u64,
            span: Span {
                record: Arc::clone(&record),
                from,
                to: from + 200_000,
            },
            starts_with_keyframe: count % 10 == 0,
        });
        Run {
            number,
            fragments: fragments.collect(),
        }
    }

    /// The seconds in which the runs' fragments are left out, each as run, first and end.
    fn left_out(runs: &[Run]) -> Vec<(u32, f64, f64)> {
        let plan = AtOnce::plan(runs);
        let mut out: Vec<(u32, f64, f64)> = Vec::new();
        for fragment in runs.iter().flat_map(|run| &run.fragments) {
            if plan.left_out(fragment.origin, fragment.at) != Some(LeftOut::Whole) {
                continue;
            }
            let run = fragment.origin.run.0;
            let seconds = |micros: i64| micros as f64 / 1e6;
            let (from, to) = (seconds(fragment.span.from), seconds(fragment.span.to));
            match out.last_mut() {
                Some(last) if last.0 == run && (last.2 - from).abs() < 0.01 => last.2 = to,
                _ => out.push((run, from, to)),
            }
        }
        out
    }

    #[test]
    fn what_two_runs_have_is_left_out_of_one() {
        let plan = |first: &[(i64, i64)], second: &[(i64, i64)]| {
            left_out(&[run(1, "a", first), run(2, "a", second)])
        };
        assert_eq!(plan(&[(0, 10)], &[(10, 20)]), []);
        assert_eq!(plan(&[(0, 10)], &[(6, 20)]), [(1, 6.0, 10.0)]);
        // It was frozen, replaced, and thawed.
        assert_eq!(plan(&[(0, 5), (9, 10)], &[(6, 20)]), [(1, 9.0, 10.0)]);
        // The later one was of no use.
        assert_eq!(plan(&[(0, 10)], &[(3, 6)]), [(2, 3.0, 6.0)]);
        // Nobody else has all of the end, or of the beginning.
        assert_eq!(plan(&[(0, 5), (9, 12)], &[(6, 10)]), []);
        assert_eq!(plan(&[(0, 10)], &[(3, 6), (11, 14)]), [(2, 3.0, 6.0)]);
        let (first, second) = (run(1, "a", &[(0, 10)]), run(2, "b", &[(6, 20)]));
        assert_eq!(left_out(&[first, second]), [], "of different boots");
    }

    #[test]
    fn a_fragment_is_cut_where_the_other_run_begins() {
        let mut second = run(2, "a", &[(6, 20)]);
        for fragment in &mut second.fragments {
            fragment.span.from += 120_000;
            fragment.span.to += 120_000;
        }
        let plan = AtOnce::plan(&[run(1, "a", &[(0, 10)]), second]);
        let at = Origin {
            run: RunNumber(1),
            index: 1,
        };
        assert_eq!(plan.left_out(at, 5_800_000), None);
        let cut = Some(LeftOut::From(7_120_000));
        assert_eq!(plan.left_out(at, 6_000_000), cut, "by its own wall clock");
        assert_eq!(plan.left_out(at, 6_200_000), Some(LeftOut::Whole));
        assert_eq!(plan.notes().len(), 1);
    }

    fn stretches() -> impl Strategy<Value = Vec<(i64, i64)>> {
        prop::collection::vec((0..4i64, 1..6i64), 1..4).prop_map(|steps| {
            let mut at = 0;
            let next = steps.into_iter().map(|(pause, length)| {
                let from = at + pause;
                at = from + length;
                (from, at)
            });
            next.collect()
        })
    }

    proptest! {
        #[test]
        fn no_instant_is_lost_and_what_is_kept_can_be_decoded(
            runs in prop::collection::vec((stretches(), 0..12i64, 0..2usize), 2..4)
        ) {
            let runs: Vec<Run> = runs
                .iter()
                .zip(1..)
                .map(|((stretches, later, boot), number)| {
                    let stretches: Vec<_> = stretches.iter().map(|(a, b)| (a + later, b + later)).collect();
                    run(number, ["a", "b"][*boot], &stretches)
                })
                .collect();
            let plan = AtOnce::plan(&runs);
            let is_kept = |it: &&Recorded| plan.left_out(it.origin, it.at) != Some(LeftOut::Whole);
            let all = || runs.iter().flat_map(|run| &run.fragments);
            let kept = Covered::by(all().filter(is_kept).map(|it| &it.span));
            prop_assert!(all().all(|it| kept.holds(&it.span)));
            for run in &runs {
                let first = run.fragments.iter().find(is_kept);
                prop_assert!(first.is_none_or(|it| it.starts_with_keyframe));
            }
        }
    }
}
