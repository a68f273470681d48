//! What the final `moov` says of every sample, kept while recording. Four hours are a million samples: sizes and places
//! are kept as differences in as few bytes as they need (two a packet, three a frame), durations as runs, so that a
//! recorder of a day stays small and stop has only to write them out.

use super::Malformed;
use super::boxes;
use super::fragment::Sample;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The samples of one track.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    packed: Packed,
    samples: u32,
    chunks: u32,
    /// Where the last chunk lies: the next one is kept as the difference.
    last: u64,
    durations: Runs<u32>,
    shown: Runs<i32>,
    keyframes: Vec<u32>,
    first: u64,
    next: u64,
}

/// How much of a table was noted elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    packed: usize,
    durations: usize,
    shown: usize,
    keyframes: usize,
}

/// What has come into a table since a mark.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Part {
    packed: String,
    samples: u32,
    chunks: u32,
    last: u64,
    durations: RunsPart<u32>,
    shown: RunsPart<i32>,
    keyframes: Vec<u32>,
    first: u64,
    next: u64,
}

/// The first rows that are as they were, and the rows after them.
#[derive(Debug, Serialize, Deserialize)]
struct RunsPart<T> {
    same: usize,
    rows: Vec<(u32, T)>,
}

impl Table {
    /// Where the table stands.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            packed: self.packed.len(),
            durations: self.durations.0.len(),
            shown: self.shown.0.len(),
            keyframes: self.keyframes.len(),
        }
    }

    /// What has come since `mark`.
    pub(super) fn since(&self, mark: &Mark) -> Part {
        Part {
            packed: BASE64.encode(self.packed.since(mark.packed)),
            samples: self.samples,
            chunks: self.chunks,
            last: self.last,
            durations: self.durations.since(mark.durations),
            shown: self.shown.since(mark.shown),
            keyframes: self
                .keyframes
                .get(mark.keyframes..)
                .unwrap_or_default()
                .to_vec(),
            first: self.first,
            next: self.next,
        }
    }

    /// Enters what had come; `false` where it does not fit.
    pub(super) fn add(&mut self, part: Part) -> bool {
        let Ok(packed) = BASE64.decode(&part.packed) else {
            return false;
        };
        self.packed.add(&packed);
        self.keyframes.extend(part.keyframes);
        self.samples = part.samples;
        self.chunks = part.chunks;
        self.last = part.last;
        self.first = part.first;
        self.next = part.next;
        self.durations.add(part.durations) && self.shown.add(part.shown)
    }

    /// Media time of the end of the last sample.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Media time of the first sample.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Enters samples that begin at media time `start`; their places are counted from `base` in the file. Time between
    /// the last sample and `start` is given to the last sample.
    pub(super) fn enter(&mut self, start: u64, samples: &[Sample], base: u64, description: u32) {
        match self.samples {
            0 => self.first = start,
            _ => self.durations.stretch(start.saturating_sub(self.next)),
        }
        self.next = self.next.max(start);
        for chunk in samples.chunk_by(|a, b| a.at + u64::from(a.size) == b.at) {
            self.chunk(chunk, base, description);
        }
    }

    fn chunk(&mut self, samples: &[Sample], base: u64, description: u32) {
        let Some(first) = samples.first() else { return };
        let place = base + first.at;
        self.packed
            .push_signed(place.wrapping_sub(self.last) as i64);
        self.packed.push(u64::from(description));
        self.packed.push(samples.len() as u64);
        self.last = place;
        self.chunks += 1;
        for sample in samples {
            self.samples += 1;
            self.packed.push(u64::from(sample.size));
            self.durations.push(sample.duration);
            self.shown.push(sample.shown);
            if sample.sync {
                self.keyframes.push(self.samples);
            }
            self.next += u64::from(sample.duration);
        }
    }

    /// Sound needs no list of what can be decoded alone: all can.
    pub(super) fn forget_keyframes(&mut self) {
        self.keyframes = Vec::new();
    }

    /// The most bytes that [`Table::write`] appends without the sample descriptions, counted without going through them.
    pub(super) fn most_bytes(&self) -> u64 {
        const HEADS: u64 = 256;
        let rows = |count: usize, bytes: u64| count as u64 * bytes;
        HEADS
            + rows(self.samples as usize, 4)
            + rows(self.durations.0.len() + self.shown.0.len(), 8)
            + rows(self.keyframes.len(), 4)
            // a place of 64 bits, and a row that says how many samples lie there
            + rows(self.chunks as usize, 8 + 12)
    }

    /// Appends the sample table box, `entries` being the sample descriptions.
    pub(super) fn write(&self, out: &mut Vec<u8>, entries: &[Bytes]) -> Result<(), Malformed> {
        boxes::wrap(out, b"stbl", |out| {
            descriptions(out, entries)?;
            full(out, b"stts", self.durations.0.len(), |out| {
                for (count, duration) in &self.durations.0 {
                    put(out, *count);
                    put(out, *duration);
                }
            })?;
            if self.shown.0.iter().any(|(_, shown)| *shown != 0) {
                self.write_shown(out)?;
            }
            if !self.keyframes.is_empty() && self.keyframes.len() < self.samples as usize {
                full(out, b"stss", self.keyframes.len(), |out| {
                    self.keyframes.iter().for_each(|number| put(out, *number));
                })?;
            }
            self.write_chunks(out)?;
            self.write_sizes(out)?;
            self.write_places(out)
        })
    }

    fn write_shown(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        boxes::wrap(out, b"ctts", |out| {
            put(out, 1 << 24); // version 1: signed
            put(out, self.shown.0.len() as u32);
            for (count, shown) in &self.shown.0 {
                put(out, *count);
                put(out, *shown as u32);
            }
            Ok(())
        })
    }

    fn write_chunks(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        boxes::wrap(out, b"stsc", |out| {
            put(out, 0);
            let counted = out.len();
            put(out, 0);
            let (mut runs, mut number, mut last) = (0u32, 0u32, None);
            self.walk(
                |_, description, samples| {
                    number += 1;
                    if last != Some((description, samples)) {
                        last = Some((description, samples));
                        runs += 1;
                        put(out, number);
                        put(out, samples);
                        put(out, description + 1);
                    }
                },
                |_| {},
            );
            out[counted..counted + 4].copy_from_slice(&runs.to_be_bytes());
            Ok(())
        })
    }

    fn write_sizes(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.reserve(24 + 4 * self.samples as usize);
        boxes::wrap(out, b"stsz", |out| {
            put(out, 0);
            put(out, 0); // no common size
            put(out, self.samples);
            self.walk(|_, _, _| {}, |size| put(out, size));
            Ok(())
        })
    }

    fn write_places(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        // chunks are entered in the order they lie in the file: the last is the farthest
        match u32::try_from(self.last) {
            Ok(_) => full(out, b"stco", self.chunks as usize, |out| {
                self.walk(|place, _, _| put(out, place as u32), |_| {});
            }),
            Err(_) => full(out, b"co64", self.chunks as usize, |out| {
                self.walk(
                    |place, _, _| out.extend_from_slice(&place.to_be_bytes()),
                    |_| {},
                );
            }),
        }
    }

    fn walk(&self, mut chunk: impl FnMut(u64, u32, u32), mut size: impl FnMut(u32)) {
        let mut numbers = self.packed.numbers();
        let mut place = 0u64;
        while let Some(step) = numbers.next() {
            place = place.wrapping_add(unfold(step) as u64);
            let description = numbers.next().unwrap_or(0) as u32;
            let samples = numbers.next().unwrap_or(0) as u32;
            chunk(place, description, samples);
            for _ in 0..samples {
                size(numbers.next().unwrap_or(0) as u32);
            }
        }
    }
}

/// Appends a sample description box.
pub(super) fn descriptions(out: &mut Vec<u8>, entries: &[Bytes]) -> Result<(), Malformed> {
    full(out, b"stsd", entries.len(), |out| {
        entries
            .iter()
            .for_each(|entry| out.extend_from_slice(entry));
    })
}

/// Appends a box of version 0 that begins with the count of its rows.
pub(super) fn full(
    out: &mut Vec<u8>,
    kind: &boxes::Kind,
    rows: usize,
    fill: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Malformed> {
    boxes::wrap(out, kind, |out| {
        put(out, 0);
        put(out, rows as u32);
        fill(out);
        Ok(())
    })
}

pub(super) fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Equal values in a row, each row with its length.
#[derive(Clone, Debug)]
struct Runs<T>(Vec<(u32, T)>);

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + PartialEq> Runs<T> {
    fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some((count, last)) if *last == value => *count += 1,
            _ => self.0.push((1, value)),
        }
    }
}

impl<T: Copy> Runs<T> {
    /// What has come since there were `rows`. The last row may have changed, and have become one with the row before it.
    fn since(&self, rows: usize) -> RunsPart<T> {
        let same = rows.saturating_sub(2).min(self.0.len());
        RunsPart {
            same,
            rows: self.0[same..].to_vec(),
        }
    }

    fn add(&mut self, part: RunsPart<T>) -> bool {
        let fits = part.same <= self.0.len();
        self.0.truncate(part.same);
        self.0.extend(part.rows);
        fits
    }
}

impl Runs<u32> {
    /// Makes the last value longer by `more`.
    fn stretch(&mut self, more: u64) {
        if more == 0 {
            return;
        }
        if let Some((count, last)) = self.0.last_mut() {
            let value = last.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            *count -= 1;
            if *count == 0 {
                self.0.pop();
            }
            self.push(value);
        }
    }
}

/// Numbers in seven-bit groups, in blocks that never move, so that growing copies nothing.
#[derive(Clone, Debug, Default)]
struct Packed(Vec<Vec<u8>>);

impl Packed {
    const BLOCK: usize = 64 << 10;
    const LONGEST: usize = 10;

    fn push(&mut self, mut number: u64) {
        if self
            .0
            .last()
            .is_none_or(|block| block.len() + Self::LONGEST > Self::BLOCK)
        {
            self.0.push(Vec::with_capacity(Self::BLOCK));
        }
        let Some(block) = self.0.last_mut() else {
            return;
        };
        while number > 0x7f {
            block.push(number as u8 | 0x80);
            number >>= 7;
        }
        block.push(number as u8);
    }

    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The bytes from `at` on.
    fn since(&self, at: usize) -> Vec<u8> {
        let mut before = 0;
        let mut bytes = Vec::new();
        for block in &self.0 {
            let skipped = at.saturating_sub(before).min(block.len());
            bytes.extend_from_slice(&block[skipped..]);
            before += block.len();
        }
        bytes
    }

    /// Appends such bytes, which are whole numbers.
    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(Self::BLOCK) {
            self.0.push(piece.to_vec());
        }
    }

    fn push_signed(&mut self, number: i64) {
        self.push(((number << 1) ^ (number >> 63)) as u64);
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        let mut bytes = self.0.iter().flatten();
        std::iter::from_fn(move || {
            let (mut number, mut shift) = (0u64, 0);
            loop {
                let byte = bytes.next()?;
                number |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(number);
                }
                shift += 7;
            }
        })
    }
}

fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_numbers_read_back(numbers in proptest::collection::vec(any::<i64>(), 0..200)) {
            let mut packed = Packed::default();
            numbers.iter().for_each(|number| packed.push_signed(*number));
            let read: Vec<i64> = packed.numbers().map(unfold).collect();
            prop_assert_eq!(read, numbers);
        }

        #[test]
        fn a_table_that_was_noted_in_parts_is_the_same_table(
            all in proptest::collection::vec((0u64..3, 1u32..4, 0i32..2, any::<bool>(), 0u32..3), 1..60),
        ) {
            let (mut table, mut noted, mut mark) = (Table::default(), Table::default(), Mark::default());
            for (number, (later, duration, shown, sync, note)) in all.into_iter().enumerate() {
                let sample = Sample { at: 8, size: 100 + duration, duration, shown, sync };
                table.enter(table.next() + later, &[sample], number as u64 * 1000, 0);
                if note == 0 {
                    prop_assert!(noted.add(table.since(&mark)));
                    mark = table.mark();
                    let written = |table: &Table| {
                        let mut out = Vec::new();
                        table.write(&mut out, &[]).unwrap();
                        out
                    };
                    prop_assert_eq!(written(&table), written(&noted));
                    prop_assert_eq!((table.next, table.first), (noted.next, noted.first));
                }
            }
        }
    }
}
