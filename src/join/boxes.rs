//! Boxes as MP4 nests them. Bytes that nobody vouches for come in, slices of them go out: a length is believed only after
//! it was held against what is there, so that no input makes this room panic or allocate more than it was given.

use super::Malformed;
use mp4_atom::{Atom, Encode};
use std::ops::Range;

/// A box's four letters.
pub(super) type Kind = [u8; 4];

/// How a box begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Of the header itself: 8, or 16 with a 64-bit length.
    pub(super) head: u64,
    /// Of the whole box, header included.
    pub(super) len: u64,
}

impl Header {
    /// The most bytes a header takes.
    pub(super) const MOST: usize = 16;

    /// Reads the header at the start of `bytes`; `None` when they end within it.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((short, kind)) = be32(bytes, 0).zip(bytes.get(4..8)) else {
            return Ok(None);
        };
        let kind = [kind[0], kind[1], kind[2], kind[3]];
        let (head, len) = match short {
            1 => match be64(bytes, 8) {
                Some(len) => (16, len),
                None => return Ok(None),
            },
            _ => (8, u64::from(short)),
        };
        if len < head
            || !kind
                .iter()
                .all(|c| c.is_ascii_graphic() || matches!(c, b' ' | 0xa9))
        {
            return Err(Malformed::new(format!(
                "no box begins with {bytes:02x?}",
                bytes = &bytes[..8]
            )));
        }
        Ok(Some(Self { kind, head, len }))
    }
}

/// The boxes that lie one after another in `body`, each as kind and body.
pub(super) fn children(body: &[u8]) -> impl Iterator<Item = Result<(Kind, &[u8]), Malformed>> {
    spans(body, 0..body.len()).map(|found| found.map(|(kind, span)| (kind, &body[span])))
}

/// The boxes that lie one after another within `span` of `bytes`, each as kind and the span of its body.
pub(super) fn spans(
    bytes: &[u8],
    span: Range<usize>,
) -> impl Iterator<Item = Result<(Kind, Range<usize>), Malformed>> {
    let mut rest = span;
    std::iter::from_fn(move || {
        // a few bytes of padding at the end are no box
        if rest.len() < 8 {
            return None;
        }
        let next = first(bytes, &rest);
        rest.start = next.as_ref().map_or(rest.end, |(_, body)| body.end);
        Some(next)
    })
}

fn first(bytes: &[u8], span: &Range<usize>) -> Result<(Kind, Range<usize>), Malformed> {
    let within = bytes.get(span.clone()).unwrap_or(&[]);
    let header =
        Header::read(within)?.ok_or_else(|| Malformed::new("a box's header is cut off"))?;
    let len = usize::try_from(header.len).unwrap_or(usize::MAX);
    match len <= within.len() {
        true => Ok((
            header.kind,
            span.start + header.head as usize..span.start + len,
        )),
        false => Err(Malformed::new(format!(
            "the box {} is cut off",
            name(header.kind)
        ))),
    }
}

/// The body of the first box of `kind` in `body`.
pub(super) fn child<'a>(body: &'a [u8], kind: &Kind) -> Result<&'a [u8], Malformed> {
    maybe_child(body, kind)?
        .ok_or_else(|| Malformed::new(format!("the box {} is missing", name(*kind))))
}

/// The body of the first box of `kind` in `body`, where there is one.
pub(super) fn maybe_child<'a>(body: &'a [u8], kind: &Kind) -> Result<Option<&'a [u8]>, Malformed> {
    for found in children(body) {
        let (its, body) = found?;
        if its == *kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

/// The body of the box at the end of `path` below `body`.
pub(super) fn descend<'a>(body: &'a [u8], path: &[&Kind]) -> Result<&'a [u8], Malformed> {
    path.iter().try_fold(body, |body, kind| child(body, kind))
}

/// Whether all boxes of a `moof`, given its body, can be read: one that was passed over would be a picture that nobody misses.
pub(super) fn check_fragment(moof: &[u8]) -> Result<(), Malformed> {
    for found in children(moof) {
        let (kind, body) = found?;
        if kind == *b"traf" {
            children(body).try_for_each(|part| part.map(drop))?;
            child(body, b"trun")?;
        }
    }
    Ok(())
}

/// Reads a box's body as `T`.
pub(super) fn decode<T: Atom>(body: &[u8]) -> Result<T, Malformed> {
    let mut rest = body;
    T::decode_body(&mut rest)
        .map_err(|cause| Malformed::new(format!("the box {} is broken: {cause}", T::KIND)))
}

/// Appends `atom` to `out`.
pub(super) fn encode(out: &mut Vec<u8>, atom: &impl Encode) -> Result<(), Malformed> {
    atom.encode(out)
        .map_err(|cause| Malformed::new(format!("a box cannot be written: {cause}")))
}

/// Appends a box of `kind` whose body `fill` writes.
pub(super) fn wrap<E: From<Malformed>>(
    out: &mut Vec<u8>,
    kind: &Kind,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(kind);
    fill(out)?;
    let len = u32::try_from(out.len() - start).map_err(|_| {
        Malformed::new(format!(
            "the box {} would be longer than 4 GiB",
            name(*kind)
        ))
    })?;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

/// The four letters as text.
pub(super) fn name(kind: Kind) -> String {
    kind.iter().map(|c| char::from(*c)).collect()
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some((u64::from(be32(bytes, at)?) << 32) | u64::from(be32(bytes, at.checked_add(4)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_in_both_widths_and_waits_for_its_bytes() {
        let short = *b"\0\0\0\x10free";
        assert_eq!(
            Header::read(&short).unwrap().unwrap(),
            Header {
                kind: *b"free",
                head: 8,
                len: 16
            }
        );
        let long = *b"\0\0\0\x01mdat\0\0\0\x02\0\0\0\0";
        assert_eq!(
            Header::read(&long).unwrap().unwrap(),
            Header {
                kind: *b"mdat",
                head: 16,
                len: 2 << 32
            }
        );
        assert_eq!(Header::read(&long[..12]).unwrap(), None);
        assert!(
            Header::read(b"\0\0\0\x04free").is_err(),
            "shorter than itself"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let walked: usize = children(&bytes).map_while(Result::ok).map(|(_, body)| body.len() + 8).sum();
            prop_assert!(walked <= bytes.len());
        }
    }
}
