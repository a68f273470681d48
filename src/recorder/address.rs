//! Which parts of the page's address are secret. OpenVidu's layouts have
//! `https://OPENVIDUAPP:SECRET@host/openvidu/#/layout-best-fit/SESSION/SECRET/PORT/false`, where user and password may be missing;
//! custom layouts have any address, with `?sessionId=SESSION&secret=SECRET`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// A member of a query that names what is no secret.
const SESSION: &str = "sessionId";
/// A port has no more digits.
const PORT: usize = 5;

/// Everything in the address `url` that no log may repeat, and itself.
pub fn secrets(url: &str) -> Vec<String> {
    let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
    let user = user(before);
    let password = user.map(|user| user.split_once(':').map_or(user, |(_, password)| password));
    // As HTTP sends both.
    let credentials = user.map(|user| BASE64_STANDARD.encode(user));
    let parts = [Some(url), user, password, secret_of_route(fragment)];
    let parts = parts.into_iter().flatten();
    // A page of one's own may keep its values in the fragment, with or without a question mark.
    let (_, query) = before.split_once('?').unwrap_or_default();
    let (_, in_fragment) = fragment.split_once('?').unwrap_or(("", fragment));
    let values = [query, in_fragment].into_iter().flat_map(secret_values);
    parts
        .chain(values)
        .map(str::to_owned)
        .chain(credentials)
        .collect()
}

/// User and password.
fn user(url: &str) -> Option<&str> {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?']).next()?;
    authority.rsplit_once('@').map(|(user, _)| user)
}

/// What stands behind the session in the route of one of OpenVidu's own layouts.
fn secret_of_route(fragment: &str) -> Option<&str> {
    let route = fragment.split('?').next()?.trim_start_matches('/');
    let mut parts = route.split('/');
    parts.next().filter(|layout| layout.starts_with("layout"))?;
    parts.nth(1)
}

/// The values of a query. Any of them may be a secret, but for what is too ordinary to be missing in a log.
fn secret_values(query: &str) -> impl Iterator<Item = &str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let secret = pairs.filter(|(name, value)| *name != SESSION && !is_ordinary(value));
    secret.map(|(_, value)| value)
}

fn is_ordinary(value: &str) -> bool {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    ["true", "false"].contains(&value) || (is_number && value.len() <= PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Hidden;
    use proptest::prelude::*;

    const LAYOUT: &str = "https://OPENVIDUAPP:MY_SECRET@host:4443/openvidu/#/layout-best-fit/ses_A/MY_SECRET/8443/false";

    fn hidden(url: &str) -> Hidden {
        Hidden::new(secrets(url))
    }

    #[test]
    fn of_openvidus_own_layout_the_secret_is_hidden_and_nothing_else() {
        let said = hidden(LAYOUT).clean(&format!(
            "{LAYOUT}; https://host:4443/openvidu/#/layout-best-fit/ses_A/MY_SECRET/8443/false; OPENVIDUAPP:MY_SECRET; \
             OPENVIDUAPP%3AMY%5FSECRET@host; Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU; false, 8443, ses_A, layout-best-fit, OPENVIDUAPP",
        ));
        assert_eq!(
            said,
            "***; https://host:4443/openvidu/#/layout-best-fit/ses_A/***/8443/false; ***; ***@host; Basic ***; \
             false, 8443, ses_A, layout-best-fit, OPENVIDUAPP",
        );
    }

    #[test]
    fn the_secret_is_found_without_a_password_too() {
        for url in [
            "https://host/openvidu/#/layout-best-fit/ses_A/MY_SECRET/443/false",
            "https://MY_SECRET@host/",
            "user:MY_SECRET@host:4443",
            "https://host/index.html?sessionId=ses_A&secret=MY_SECRET",
            "https://host/?sessionId=ses_A&port=8443&mute=false#/any?secret=MY_SECRET",
            "https://host/?secret=MY%5fSECRET#/layout?x=1",
            "https://host/?x=1#secret=MY_SECRET",
        ] {
            let said = hidden(url).clean("ses_A said MY_SECRET on 8443, false");
            assert_eq!(said, "ses_A said *** on 8443, false", "{url}");
        }
    }

    #[test]
    fn an_address_without_secrets_hides_no_word_but_itself() {
        for url in [
            "about:blank",
            "https://host/a@b",
            "https://host/?x=a@b.c#top",
            "",
            "@",
            "://@:@",
            "#?=&",
        ] {
            let said = "the page at host says: about a top b.c";
            assert_eq!(
                hidden(url).clean(said),
                said.replace("a@b.c", "***"),
                "{url}"
            );
        }
    }

    /// `text` with those of its bytes escaped that `how` says, in upper or lower case.
    fn written(text: &str, how: &[u8]) -> String {
        let bytes = text.bytes().zip(how.iter().cycle());
        bytes
            .map(|(byte, how)| match how % 3 {
                0 => char::from(byte).to_string(),
                1 => format!("%{byte:02x}"),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn however_the_secret_is_written_and_wherever_a_line_is_cut_it_is_not_told(
            secret in "[a-zA-Z0-9_-]{4,40}",
            session in "ses_[a-zA-Z0-9]{3,20}",
            how in prop::collection::vec(any::<u8>(), 1..9),
            before in "[ -~]{0,20}",
            form in 0..3u8,
            cut in 0..400usize,
        ) {
            let route = format!("/#/layout-best-fit/{session}/{secret}/443/false");
            prop_assume!(!format!("OPENVIDUAPP:@host{route}{before}").replace(&format!("/{secret}/"), "//").contains(&secret));
            let hidden = hidden(&format!("https://OPENVIDUAPP:{secret}@host{route}"));
            let told = format!("{before} {} at {session}, false", written(&secret, &how));
            let line = format!("{before}https://host{}\n", written(&route, &[form]));
            let shown = hidden.clean(&told);
            prop_assert!(!shown.contains(&written(&secret, &how)), "{}", shown);
            prop_assert!(shown.ends_with(&format!(" *** at {session}, false")), "{}", shown);
            let beginning = written(&format!("/{}", &secret[..4]), &[form]);
            let shown = hidden.clean_line(&line.as_bytes()[..cut.min(line.len())]);
            prop_assert!(!shown.contains(&beginning), "{}", shown);
        }
    }
}
