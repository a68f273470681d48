//! Secrets go into no report and no archive: whatever leaves here has been read through for every secret that this machine's
//! settings hold, as it is and as JSON, addresses and base64 write it.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use std::collections::BTreeSet;

/// What stands in a secret's place.
const HIDDEN: &str = "***";
/// A shorter secret stands in every text by chance.
const SHORTEST: usize = 4;

/// What is hidden.
#[derive(Debug)]
pub(super) struct Mask {
    /// In all their forms, the longest first: a shorter one may be a part of it.
    words: Vec<String>,
}

impl Mask {
    pub(super) fn of(secrets: impl IntoIterator<Item = String>) -> Self {
        let whole = secrets.into_iter().flat_map(|secret| {
            // A log has each line of it by itself.
            let lines = secret.lines().map(str::to_owned).collect::<Vec<_>>();
            lines.into_iter().chain([secret])
        });
        let long = whole.filter(|secret| secret.len() >= SHORTEST);
        let words: BTreeSet<_> = long.flat_map(|secret| forms(&secret)).collect();
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Self { words }
    }

    /// `text` without secrets, and without user and password in any address.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for word in &self.words {
            if text.contains(word.as_str()) {
                text = text.replace(word.as_str(), HIDDEN);
            }
        }
        without_users(&text)
    }
}

fn forms(secret: &str) -> Vec<String> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let escaped = escaped(secret);
    let mut forms = vec![
        json,
        escaped.to_lowercase(),
        escaped.replace("%20", "+"),
        escaped,
        secret.to_owned(),
    ];
    for alphabet in [&STANDARD, &URL_SAFE] {
        forms.extend((0..3).map(|before| encoded(secret, alphabet, before)));
    }
    forms
}

fn escaped(secret: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    secret.bytes().map(escape).collect()
}

/// What is the same in the base64 of every text in which the secret stands behind so many bytes, of three, of something else.
fn encoded(secret: &str, alphabet: &Alphabet, before: usize) -> String {
    let text = [&[0; 2][..before], secret.as_bytes()].concat();
    let whole = GeneralPurpose::new(alphabet, NO_PAD).encode(&text);
    // A letter is six bits: those at the ends have some of a neighbour.
    let (from, to) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
    whole[from..to].to_owned()
}

fn without_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"<>".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        out.push_str(before);
        out.push_str("://");
        rest = match authority.rfind('@') {
            Some(at) => {
                out.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base64(text: &str) -> String {
        base64::prelude::BASE64_STANDARD.encode(text)
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_written() {
        let secret = "s3cret/\"ä pass\"";
        let mask = Mask::of([secret.to_owned()]);
        let parameter = reqwest::Url::parse_with_params("http://h/", [("key", secret)]).unwrap();
        for text in [
            secret.to_owned(),
            serde_json::json!({ "key": secret }).to_string(),
            parameter.to_string(),
            escaped(secret).to_lowercase(),
            base64(secret),
        ] {
            let cleaned = mask.clean(&format!("before {text} after"));
            assert!(
                cleaned.contains("before") && cleaned.contains(HIDDEN),
                "{cleaned}"
            );
            for part in ["s3cret", "pass"] {
                assert!(!cleaned.contains(part), "{cleaned}");
            }
        }
    }

    #[test]
    fn an_address_keeps_its_host_and_loses_its_user() {
        let mask = Mask::of([]);
        let text =
            r#"{"proxy":"http://me:p@ss@proxy:3128/","to":"https://a@b"} http://plain/a@b ://"#;
        assert_eq!(
            mask.clean(text),
            r#"{"proxy":"http://***@proxy:3128/","to":"https://***@b"} http://plain/a@b ://"#
        );
    }

    #[test]
    fn a_password_may_have_what_stands_between_addresses() {
        let mask = Mask::of([]);
        assert_eq!(
            mask.clean("http://u:pa,ss@h rtmp://u:pa'ss@h,http://u:p@i/"),
            "http://***@h rtmp://***@h,http://***@i/"
        );
    }

    #[test]
    fn a_text_of_several_lines_is_hidden_in_each() {
        let mask = Mask::of(["first line\nsecond line".to_owned()]);
        assert_eq!(
            mask.clean("a: second line, b: first line"),
            "a: ***, b: ***"
        );
    }

    proptest! {
        #[test]
        fn base64_of_a_user_and_a_password_tells_no_password(user in "[ -~]{0,9}", secret in "[a-z0-9]{8,24}", more in "[ -~]{0,9}") {
            let mask = Mask::of([secret.clone()]);
            let cleaned = mask.clean(&base64(&format!("{user}:{secret}{more}")));
            prop_assert!(cleaned.contains(HIDDEN), "{}", cleaned);
        }
    }
}
