//! What an S3 store's refusal means, as a sentence that says what to do.

use super::super::StoreError;
use rusoto_core::RusotoError;
use std::path::Path;

/// What became of a request.
pub(super) fn fault<E: std::error::Error + 'static>(
    act: String,
    cause: RusotoError<E>,
) -> StoreError {
    match cause {
        RusotoError::Unknown(answer) => {
            let body = answer.body_as_str();
            let code = element(body, "Code").unwrap_or_default();
            let said = element(body, "Message").unwrap_or_default();
            judge(act, answer.status.as_u16(), code, said)
        }
        RusotoError::HttpDispatch(cause) => unavailable(act, &cause.to_string()),
        RusotoError::Service(cause) => unavailable(act, &cause.to_string()),
        cause => unavailable(act, &format!("the answer cannot be understood: {cause}")),
    }
}

/// What `status` and the error's `code` and message mean.
pub(super) fn judge(act: String, status: u16, code: &str, said: &str) -> StoreError {
    let cause = match (code, said) {
        ("", _) => format!("the store answered {status}"),
        (code, "") => code.to_owned(),
        (code, said) => format!("{code}: {said}"),
    };
    if refuses_path_style(code, said) {
        let cause = format!("{cause}; set HA_S3_ADDRESSING=host");
        return StoreError::Invalid { act, cause };
    }
    match (status, code) {
        (_, "RequestTimeTooSkewed") => StoreError::Unavailable {
            act,
            cause: format!("{cause}; set this machine's clock"),
        },
        (507, _) | (_, "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage") => {
            StoreError::Full { act, cause }
        }
        (_, "ExpiredToken" | "BadDigest" | "IncompleteBody" | "RequestTimeout") => {
            StoreError::Unavailable { act, cause }
        }
        // The answer to a HEAD has no body to say more.
        (301 | 307, _) | (400, "") | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            StoreError::Invalid {
                act,
                cause: format!("{cause}; is HA_AWS_REGION the bucket's region?"),
            }
        }
        (401 | 403, _) | (_, "AccessDenied") => StoreError::Refused { act, cause },
        (400 | 404 | 405 | 501, _) | (_, "NotImplemented" | "MethodNotAllowed") => {
            StoreError::Invalid { act, cause }
        }
        _ => StoreError::Unavailable { act, cause },
    }
}

/// Whether the store wants the bucket in the host's name; each says so in its own words.
fn refuses_path_style(code: &str, said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    matches!(
        code,
        "SecondLevelDomainForbidden" | "PathStyleDomainForbidden"
    ) || ["path-style", "path style", "virtual-host", "virtual host"]
        .iter()
        .any(|words| said.contains(words))
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

pub(super) fn unavailable(act: String, cause: &str) -> StoreError {
    StoreError::Unavailable {
        act,
        cause: cause.to_owned(),
    }
}

pub(super) fn unreadable(act: String, path: &Path, cause: &std::io::Error) -> StoreError {
    StoreError::Invalid {
        act,
        cause: format!("{} cannot be read: {cause}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_sentences_that_say_what_to_do() {
        let full = judge("store x".into(), 507, "InsufficientStorage", "no room");
        assert!(matches!(full, StoreError::Full { .. }) && full.retryable());
        let clock = judge("store x".into(), 403, "RequestTimeTooSkewed", "skewed");
        assert!(clock.retryable() && clock.to_string().contains("clock"));
        let region = judge("store x".into(), 400, "AuthorizationHeaderMalformed", "no");
        assert!(region.to_string().contains("HA_AWS_REGION"));
        assert!(matches!(
            judge("x".into(), 403, "AccessDenied", "no"),
            StoreError::Refused { .. }
        ));
        assert!(judge("x".into(), 503, "SlowDown", "").retryable());
    }

    #[test]
    fn a_store_that_refuses_path_style_names_the_setting() {
        for (status, code, said) in [
            (403, "SecondLevelDomainForbidden", ""),
            (403, "PathStyleDomainForbidden", "no"),
            (
                400,
                "InvalidRequest",
                "Path-style requests are not supported.",
            ),
            (400, "InvalidURI", "please use virtual hosted style"),
        ] {
            let refused = judge("list x".into(), status, code, said);
            assert!(!refused.retryable());
            let told = refused.to_string();
            assert!(told.contains("HA_S3_ADDRESSING=host"), "{told}");
        }
    }
}
