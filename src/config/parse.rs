//! How the types of settings are read from text.

use super::{
    Addressing, DisplayRate, Folder, Headers, Host, LogFormat, Parse, Port, Profile, RuntimeKind,
    Secret, Several, Storage, Switch, Url, Whole,
};
use serde_json::Value;
use std::path::PathBuf;

impl<T: Parse> Parse for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const SECRET: bool = T::SECRET;
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(None)
        } else {
            T::parse(text).map(Some)
        }
    }
    fn shown(text: &str) -> String {
        T::shown(text)
    }
}

macro_rules! parse {
    ($($type:ty: $expected:literal, |$text:ident| $body:expr;)*) => {
        $(impl Parse for $type {
            const EXPECTED: &'static str = $expected;
            fn parse($text: &str) -> Option<Self> { $body }
        })*
    };
}

parse! {
    String: "a text", |text| (!text.is_empty()).then(|| text.to_owned());
    PathBuf: "a path", |text| (!text.is_empty()).then(|| text.into());
    u64: "a whole number", |text| text.parse().ok();
    std::net::IpAddr: "an IP address", |text| text.parse().ok();
    Port: "a port between 1 and 65535", |text| text.parse().ok().filter(|port| *port > 0).map(Self);
    Switch: "true or false", |text| match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(Self(true)),
        "false" | "off" | "no" | "0" => Some(Self(false)),
        _ => None,
    };
    Storage: "local or s3", |text| match text.to_ascii_lowercase().as_str() {
        "local" => Some(Self::Local),
        "s3" => Some(Self::S3),
        _ => None,
    };
    DisplayRate: "match or 60", |text| match text.to_ascii_lowercase().as_str() {
        "match" => Some(Self::Match),
        "60" => Some(Self::Sixty),
        _ => None,
    };
    Addressing: "path, host or auto", |text| match text.to_ascii_lowercase().as_str() {
        "auto" => Some(Self::Auto),
        "path" => Some(Self::Path),
        "host" => Some(Self::Host),
        _ => None,
    };
    RuntimeKind: "docker or process", |text| match text {
        "docker" => Some(Self::Docker),
        "process" => Some(Self::Process),
        _ => None,
    };
    Profile: "dev, test or prod", |text| match text {
        "dev" => Some(Self::Dev),
        "test" => Some(Self::Test),
        "prod" => Some(Self::Prod),
        _ => None,
    };
    LogFormat: "text or json", |text| match text {
        "text" => Some(Self::Text),
        "json" => Some(Self::Json),
        _ => None,
    };
    crate::model::timeline::GapMode: "cut or hold", |text| match text {
        "cut" => Some(Self::Cut),
        "hold" => Some(Self::Hold),
        _ => None,
    };
    Folder: "a folder's name", |text| {
        let name = text.trim_matches('/');
        name.split('/').all(|part| crate::model::ids::RecordingId::parse(part).is_ok()).then(|| Self(name.to_owned()))
    };
    Several<ipnet::IpNet>: "networks such as 10.0.0.0/8, separated by commas", |text| {
        several_of(text, |part| part.parse().ok().or_else(|| part.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from)))
    };
}

impl Parse for Host {
    const EXPECTED: &'static str =
        "a host name or an IP address, without scheme and port (the port has a setting of its own)";
    fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .map_or(Some(text), |rest| rest.strip_suffix(']'))?;
        let is_address = bare.parse::<std::net::IpAddr>().is_ok();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_name = !bare.is_empty() && bare == text && bare.chars().all(fits);
        (is_address || is_name).then(|| Self(bare.to_owned()))
    }
}

impl Parse for Url {
    const EXPECTED: &'static str = "an http:// or https:// URL";
    fn parse(text: &str) -> Option<Self> {
        let url = reqwest::Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host())
            .then(|| Self(text.trim_end_matches('/').to_owned()))
    }
    fn shown(text: &str) -> String {
        match Self::parse(text) {
            Some(url) => url.origin(),
            None if text.contains('@') => "***".to_owned(),
            // Path and query may hold a token.
            None => {
                let host = text.find("://").map_or(0, |at| at + 3);
                match text[host..].find(['/', '?', '#']) {
                    Some(end) => format!("{}/…", &text[..host + end]),
                    None => text.to_owned(),
                }
            }
        }
    }
}

impl Parse for Several<Url> {
    const EXPECTED: &'static str = "http:// or https:// URLs separated by commas";
    fn parse(text: &str) -> Option<Self> {
        several_of(text, Url::parse)
    }
    fn shown(text: &str) -> String {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(Url::shown).collect::<Vec<_>>().join(",")
    }
}

impl Parse for Secret {
    const EXPECTED: &'static str = "a text";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::new(text))
    }
}

impl Parse for Headers {
    const EXPECTED: &'static str =
        "headers as {\"Name\":\"value\"}, [\"Name: value\"] or Name:value,Name:value";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        let pair = |text: &str| {
            let (name, value) = text.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let pairs = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map
                .into_iter()
                .map(|(name, value)| Some((name, value.as_str()?.to_owned())))
                .collect::<Option<Vec<_>>>()?,
            Ok(Value::Array(list)) => list
                .iter()
                .map(|item| pair(item.as_str()?))
                .collect::<Option<Vec<_>>>()?,
            _ => listed(text)?
                .iter()
                .map(|item| pair(item))
                .collect::<Option<Vec<_>>>()?,
        };
        let valid = pairs.iter().all(|(name, value)| {
            http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok()
        });
        valid.then_some(Self(pairs))
    }
}

impl<const MIN: u32, const MAX: u32> Parse for Whole<MIN, MAX> {
    const EXPECTED: &'static str = match (MIN, MAX) {
        (1, 60) => "a whole number from 1 to 60",
        (1, 100) => "a whole number from 1 to 100",
        (1, 300) => "a whole number from 1 to 300",
        (1, 1000) => "a whole number from 1 to 1000",
        (1, 365) => "a whole number from 1 to 365",
        (1, 1440) => "a whole number from 1 to 1440",
        (1, 3600) => "a whole number from 1 to 3600",
        (1, 86400) => "a whole number from 1 to 86400",
        _ => "a whole number in range",
    };
    fn parse(text: &str) -> Option<Self> {
        let number = text.parse().ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }
}

/// The items of `['a: b', "c: d"]` as OpenVidu takes them, or of `a: b,c: d`.
fn listed(text: &str) -> Option<Vec<String>> {
    let Some(inner) = text.trim().strip_prefix('[') else {
        return Some(text.split(',').map(str::to_owned).collect());
    };
    let mut items = Vec::new();
    let mut rest = inner.strip_suffix(']')?.trim();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let (item, behind) = match quote {
            Some(quote) => rest[1..].split_once(quote)?,
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        items.push(item.trim().to_owned());
        rest = match behind.trim_start() {
            "" => "",
            behind => behind.strip_prefix(',')?.trim_start(),
        };
    }
    Some(items)
}

fn several_of<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Several<T>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(parse)
        .collect::<Option<Vec<_>>>()
        .map(Several)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_headers_are_read_in_all_three_forms() {
        let expected = Headers(vec![("A".into(), "b: c".into()), ("D".into(), "e".into())]);
        for text in [
            r#"{"A":"b: c","D":"e"}"#,
            r#"["A: b: c","D: e"]"#,
            "A:b: c,D:e",
            "['A: b: c', 'D: e']",
            "[A: b: c,D: e]",
            "['A: b: c',\"D: e\",]",
        ] {
            assert_eq!(Headers::parse(text), Some(expected.clone()), "{text}");
        }
        assert_eq!(Headers::parse("no header"), None);
        assert_eq!(Headers::parse("['A: b"), None);
        let comma = Headers(vec![("A".into(), "b, c".into())]);
        assert_eq!(Headers::parse("['A: b, c']"), Some(comma));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_more() {
        let in_url = |text: &str| Host::parse(text).map(|host| host.in_url());
        for (text, shown) in [
            ("recorder.example.com", "recorder.example.com"),
            ("my_host", "my_host"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "[2001:db8::7]"),
            ("[2001:db8::7]", "[2001:db8::7]"),
        ] {
            assert_eq!(in_url(text).as_deref(), Some(shown));
        }
        for text in [
            "http://192.0.2.7",
            "https://host",
            "host:15443",
            "192.0.2.7:15443",
            "[2001:db8::7]:15443",
            "host/path",
            "[host]",
            "nonsense host name!",
        ] {
            assert_eq!(in_url(text), None, "{text}");
        }
    }

    #[test]
    fn an_origin_holds_no_secret() {
        let url = Url::parse("https://user:pass@host:4443/a?secret=x").unwrap();
        assert_eq!(url.origin(), "https://host:4443");
    }
}
