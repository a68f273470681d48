//! A reader with a position: what earlier runs left comes first, then the run that is being written, up to its head.

use super::source::{Chunk, Source};
use super::{Head, LogError, Position};
use crate::join::{Fragment, Init, Origin, Piece, Splitter};
use crate::model::chunk::TakeKey;
use crate::model::ids::RunNumber;
use std::collections::VecDeque;
use std::sync::Arc;

/// What comes next in a log.
#[derive(Debug)]
pub enum Entry {
    /// A whole fragment.
    Fragment {
        /// How it is to be read.
        init: Arc<Init>,
        /// Itself.
        fragment: Fragment,
        /// Which chunk it is from.
        origin: Origin,
    },
    /// A chunk has no more for whoever follows.
    Passed {
        /// Which one.
        origin: Origin,
        /// Bytes at its end that are no whole fragment.
        lost: u64,
        /// What is wrong with it.
        fault: Option<String>,
    },
}

/// Follows a take's log.
pub struct Follower {
    source: Source,
    take: TakeKey,
    own: RunNumber,
    /// The chunk from which is gone on.
    from: Option<Origin>,
    /// Chunks of earlier runs that are still to be read.
    earlier: VecDeque<Origin>,
    /// The own run's chunk that was read last, or before which nothing is read.
    last_own: Option<u32>,
    chunk: Option<Reading>,
}

/// The chunk that is being read.
struct Reading {
    origin: Origin,
    chunk: Chunk,
    /// Where to read on.
    offset: u64,
    splitter: Splitter,
    init: Option<Arc<Init>>,
}

/// What a chunk gave.
enum Gave {
    Fragment(Arc<Init>, Fragment),
    /// Nothing more by now.
    Nothing,
    /// It is not there.
    Gone,
    /// It cannot be read on, ever.
    Broken(String),
}

impl Follower {
    /// Follows `take` in `source`: from the chunk `from` on, or from the beginning, to the head of run `own`.
    ///
    /// # Errors
    /// When what earlier runs left cannot be listed.
    pub fn new(
        source: Source,
        take: TakeKey,
        own: RunNumber,
        from: Option<Origin>,
    ) -> Result<Self, LogError> {
        let is_ahead = |origin: &Origin| from.is_none_or(|from| *origin >= from);
        let (earlier, its) = source
            .list(&take)?
            .into_iter()
            .filter(|origin| origin.run <= own && is_ahead(origin))
            .partition::<VecDeque<_>, _>(|origin| origin.run < own);
        let resumed = from.filter(|from| from.run == own).map(|from| from.index);
        let first = resumed.or_else(|| its.front().map(|origin| origin.index));
        Ok(Self {
            source,
            take,
            own,
            from,
            earlier,
            last_own: first.map(|index| index.saturating_sub(1)),
            chunk: None,
        })
    }

    /// Whether all that earlier runs left was read.
    pub fn is_past_earlier_runs(&self) -> bool {
        let reads_own = self
            .chunk
            .as_ref()
            .is_none_or(|it| it.origin.run == self.own);
        self.earlier.is_empty() && reads_own
    }

    /// What comes next; `None` when all up to `head` was read.
    ///
    /// # Errors
    /// When a chunk cannot be read now. It is asked for again by the next call.
    pub fn next(&mut self, head: Head) -> Result<Option<Entry>, LogError> {
        loop {
            let Some(reading) = &mut self.chunk else {
                match self.next_chunk(head)? {
                    Some(origin) => self.chunk = Some(self.open(origin)),
                    None => return Ok(None),
                }
                continue;
            };
            let origin = reading.origin;
            let is_written = head.is_some_and(|head| head.origin == origin);
            let end = head.filter(|_| is_written).map(|head| head.offset);
            match reading.next(end)? {
                Gave::Fragment(init, fragment) => {
                    return Ok(Some(Entry::Fragment {
                        init,
                        fragment,
                        origin,
                    }));
                }
                Gave::Nothing if is_written => return Ok(None),
                Gave::Nothing => return Ok(Some(self.pass(None))),
                Gave::Broken(fault) => return Ok(Some(self.pass(Some(fault)))),
                // The one from which is gone on may have been all taken, stored and deleted before.
                Gave::Gone if self.from == Some(origin) => return Ok(Some(self.pass(None))),
                Gave::Gone => return Ok(Some(self.pass(Some("it is gone".into())))),
            }
        }
    }

    /// The chunk that is being read.
    pub fn reading(&self) -> Option<Origin> {
        self.chunk.as_ref().map(|it| it.origin)
    }

    /// Leaves the chunk that cannot be read, for the next one; not the one of `head`, which has no next one yet.
    pub fn give_up(&mut self, head: Head, cause: &LogError) -> Option<Entry> {
        let origin = self.reading()?;
        let is_written = head.is_some_and(|head| head.origin == origin);
        (!is_written).then(|| self.pass(Some(cause.to_string())))
    }

    /// The chunks of the own run, up to the one of `head`, that were not read to their ends.
    pub fn unread_own(&self, head: Position) -> impl Iterator<Item = Origin> + use<> {
        let run = self.own;
        let reading = self.reading();
        let first = match (reading.filter(|origin| origin.run == run), self.last_own) {
            (Some(origin), _) => origin.index,
            (None, Some(last)) => last + 1,
            (None, None) => head.origin.index,
        };
        (first..=head.origin.index).map(move |index| Origin { run, index })
    }

    /// The log has ended: the last chunk, too, will not change any more.
    pub fn end(&mut self) -> Option<Entry> {
        self.chunk.is_some().then(|| self.pass(None))
    }

    fn pass(&mut self, fault: Option<String>) -> Entry {
        let reading = self.chunk.take();
        let (origin, lost) = reading.map_or_else(
            || {
                (
                    Origin {
                        run: self.own,
                        index: 0,
                    },
                    0,
                )
            },
            |reading| (reading.origin, reading.splitter.held() as u64),
        );
        Entry::Passed {
            origin,
            lost,
            fault,
        }
    }

    fn next_chunk(&mut self, head: Head) -> Result<Option<Origin>, LogError> {
        if let Some(origin) = self.earlier.pop_front() {
            return Ok(Some(origin));
        }
        let Some(head) = head.map(|head| head.origin) else {
            return Ok(None);
        };
        let next = match self.last_own {
            Some(last) => last + 1,
            // Several chunks may have been begun since the run was looked for.
            None => self.first_own()?.unwrap_or(head.index).min(head.index),
        };
        if next > head.index {
            return Ok(None);
        }
        self.last_own = Some(next);
        Ok(Some(Origin {
            run: self.own,
            index: next,
        }))
    }

    fn first_own(&self) -> Result<Option<u32>, LogError> {
        let origins = self.source.list(&self.take)?;
        let own = origins.iter().find(|origin| origin.run == self.own);
        Ok(own.map(|origin| origin.index))
    }

    fn open(&self, origin: Origin) -> Reading {
        let key = self.take.chunk(origin.run, origin.index);
        Reading {
            origin,
            chunk: Chunk::new(&self.source, key),
            offset: 0,
            splitter: Splitter::new(),
            init: None,
        }
    }
}

impl Reading {
    /// The next whole fragment; nothing at `end`, where that is known, and at the end of what is there.
    fn next(&mut self, end: Option<u64>) -> Result<Gave, LogError> {
        loop {
            match (self.splitter.next(), &self.init) {
                (Ok(Some(Piece::Init(init))), _) => {
                    self.init = Some(init);
                    continue;
                }
                (Ok(Some(Piece::Fragment(fragment))), Some(init)) => {
                    return Ok(Gave::Fragment(Arc::clone(init), fragment));
                }
                // The splitter gives no fragment before its beginning.
                (Ok(Some(Piece::Fragment(_))), None) | (Ok(None), _) => {}
                (Err(fault), _) => return Ok(Gave::Broken(fault.to_string())),
            }
            let most = end.map(|end| end.saturating_sub(self.offset));
            if most == Some(0) {
                return Ok(Gave::Nothing);
            }
            match self.chunk.read(self.offset, most)? {
                Some(bytes) if bytes.is_empty() => return Ok(Gave::Nothing),
                Some(bytes) => {
                    self.offset += bytes.len() as u64;
                    self.splitter.push(&bytes);
                }
                None if end.is_some() => return Ok(Gave::Nothing),
                None => return Ok(Gave::Gone),
            }
        }
    }
}
