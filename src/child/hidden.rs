//! What must not be repeated, whoever printed it and in whichever way: as it is, or with any of its bytes as `%XX`.

use std::sync::Arc;

/// A text of so few bytes is not hidden, as that would blank everything.
const SHORT: usize = 3;
/// How long `%XX` is.
const ESCAPE: usize = 3;
/// What stands in the place of a hidden text.
const MASK: &[u8] = b"***";

/// Texts that must not be repeated.
#[derive(Clone, Default)]
pub struct Hidden(Arc<Vec<Vec<u8>>>);

/// How a text that is looked at ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// What follows is not known.
    Cut,
}

impl Hidden {
    /// Hides each of `texts`, which may be percent-encoded; very short ones are left out.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let decoded = texts.into_iter().map(|text| decoded(text.as_bytes()));
        let mut texts: Vec<_> = decoded.filter(|text| text.len() > SHORT).collect();
        texts.sort_unstable();
        texts.dedup();
        Self(Arc::new(texts))
    }

    /// `text` with every hidden text replaced.
    pub fn clean(&self, text: &str) -> String {
        self.cover(text.as_bytes(), Ending::Whole)
    }

    /// A line that a program printed, with every hidden text replaced. Without a line end its rest is not known: what may be
    /// the beginning of a hidden text is replaced as well.
    pub fn clean_line(&self, line: &[u8]) -> String {
        match line.strip_suffix(b"\n") {
            Some(line) => self.cover(line, Ending::Whole),
            None => self.cover(line, Ending::Cut),
        }
    }

    fn cover(&self, text: &[u8], ending: Ending) -> String {
        let mut shown = Vec::with_capacity(text.len());
        // Hidden texts may overlap: what any of them reaches is covered.
        let mut covered = 0;
        for (at, byte) in text.iter().enumerate() {
            let rest = &text[at..];
            let found = self.0.iter().filter_map(|it| length_of(it, rest, ending));
            if let Some(length) = found.max() {
                if at >= covered {
                    shown.extend_from_slice(MASK);
                }
                covered = covered.max(at + length);
            } else if at >= covered {
                shown.push(*byte);
            }
        }
        String::from_utf8_lossy(&shown).into_owned()
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} hidden texts", self.0.len())
    }
}

/// How many bytes `hidden` takes at the beginning of `text`, if it stands there.
fn length_of(hidden: &[u8], text: &[u8], ending: Ending) -> Option<usize> {
    let mut length = 0;
    for (matched, wanted) in hidden.iter().enumerate() {
        let rest = &text[length..];
        if escape(rest) == Some(*wanted) {
            length += ESCAPE;
        } else if rest.first() == Some(wanted) {
            length += 1;
        } else {
            let is_cut = ending == Ending::Cut && matches!(rest, [] | [b'%'] | [b'%', _]);
            return (is_cut && matched > SHORT).then_some(text.len());
        }
    }
    Some(length)
}

/// The byte that `text` begins with as `%XX`.
fn escape(text: &[u8]) -> Option<u8> {
    let digits = text.get(1..ESCAPE).filter(|_| text[0] == b'%')?;
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// `text` with the byte that it stands for in the place of each `%XX`.
fn decoded(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some(first) = text.first() {
        let (byte, length) = escape(text).map_or((*first, 1), |byte| (byte, ESCAPE));
        plain.push(byte);
        text = &text[length..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(texts: &[&str]) -> Hidden {
        Hidden::new(texts.iter().map(|text| (*text).to_owned()))
    }

    #[test]
    fn a_text_is_hidden_in_each_of_its_forms() {
        let hidden = hidden(&["p%40ss word%", "ab"]);
        for said in [
            "p@ss word%",
            "p%40ss%20word%25",
            "%70%40%73%73%20%77%6f%72%64%",
            "p%40ss word%25",
        ] {
            assert_eq!(hidden.clean(&format!("ab {said}.")), "ab ***.", "{said}");
        }
        assert_eq!(hidden.clean("p@ss"), "p@ss");
    }

    #[test]
    fn texts_that_overlap_are_hidden_to_their_last_byte() {
        let hidden = hidden(&["secret", "retain", "cret"]);
        assert_eq!(hidden.clean("a secretain b secret"), "a *** b ***");
    }

    #[test]
    fn what_a_cut_line_ends_with_is_hidden_where_a_text_may_begin_there() {
        let hidden = hidden(&["p@ssword"]);
        for said in ["p@sswor", "p%40sswo%", "p@sswo%7", "p@ss"] {
            assert_eq!(hidden.clean_line(said.as_bytes()), "***", "{said}");
            let line = format!("{said}\n");
            assert_eq!(hidden.clean_line(line.as_bytes()), said);
        }
        // That much of it says nothing.
        assert_eq!(hidden.clean_line(b"a map"), "a map");
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing_from_us() {
        assert_eq!(
            hidden(&["p%ffss"]).clean_line(b"\xffp\xffss\n"),
            "\u{fffd}***"
        );
    }
}
