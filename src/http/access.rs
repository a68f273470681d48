//! Who may do what. HTTP Basic for the account and a viewer, a token and networks for OpenVidu's webhooks, and a limit on
//! how often an address may guess. Secrets are compared as digests in constant time and never leave this file.

use super::answer::Fault;
use super::route::Access;
use crate::config::{Faults, Secret, Settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, StatusCode, header};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Wrong guesses that an address has in [`WINDOW`].
const GUESSES: u32 = 10;
/// After this an address may guess again.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once.
const ADDRESSES: usize = 10_000;

type Digested = [u8; 32];

/// Who was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody was asked for.
    Anyone,
    /// The account.
    Account,
    /// The account that may only read.
    Viewer,
    /// OpenVidu.
    Webhook,
}

/// The doorkeeper.
pub(super) struct Doorkeeper {
    account: Digested,
    viewer: Option<Digested>,
    webhook_token: Option<Digested>,
    webhook_allow: Vec<IpNet>,
    proxies: Vec<IpNet>,
    guesses: Mutex<HashMap<IpAddr, Guesses>>,
}

/// What is remembered of an address.
#[derive(Clone, Copy, Default)]
struct Guesses {
    wrong: u32,
    since: Duration,
    /// It was right before: a known client is not locked out by a neighbour's wrong guesses.
    known: bool,
}

impl Doorkeeper {
    /// A doorkeeper for these settings.
    ///
    /// # Errors
    /// When the account is missing.
    pub(super) fn new(settings: &Settings) -> Result<Self, Faults> {
        let (name, password) = settings.account()?;
        let viewer = settings
            .viewer_username
            .as_deref()
            .zip(settings.viewer_password.as_ref());
        Ok(Self {
            account: pair(name, password),
            viewer: viewer.map(|(name, password)| pair(name, password)),
            webhook_token: settings
                .webhook_token
                .as_ref()
                .map(|token| digest(token.expose())),
            webhook_allow: settings.webhook_allow.0.clone(),
            proxies: settings.trusted_proxies.0.clone(),
            guesses: Mutex::default(),
        })
    }

    /// The client's address: the peer's, or what trusted proxies say of it.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: &IpAddr| self.proxies.iter().any(|net| net.contains(address));
        let mut client = peer.to_canonical();
        let forwarded = headers.get_all("x-forwarded-for").iter();
        let hops = forwarded
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','));
        let hops = hops
            .map(|hop| hop.trim().parse::<IpAddr>())
            .collect::<Vec<_>>();
        for hop in hops.into_iter().rev() {
            match hop {
                Ok(hop) if trusted(&client) => client = hop.to_canonical(),
                _ => break,
            }
        }
        client
    }

    /// Lets a request in, or says why not.
    pub(super) fn admit(
        &self,
        access: Access,
        method: &Method,
        headers: &HeaderMap,
        client: IpAddr,
        now: Duration,
    ) -> Result<Caller, Fault> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            same_site(headers)?;
        }
        match access {
            Access::Open => Ok(Caller::Anyone),
            Access::Account | Access::Operator => self.by_account(method, headers, client, now),
            Access::Webhook => self.by_token(headers, client, now),
        }
    }

    fn by_account(
        &self,
        method: &Method,
        headers: &HeaderMap,
        client: IpAddr,
        now: Duration,
    ) -> Result<Caller, Fault> {
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(unknown("user name and password are required"));
        };
        let given = given
            .to_str()
            .ok()
            .and_then(basic)
            .map(|text| digest_of(&text));
        let is = |known: &Digested| given.is_some_and(|given| bool::from(given.ct_eq(known)));
        let caller = match (is(&self.account), self.viewer.as_ref().is_some_and(is)) {
            (true, _) => Some(Caller::Account),
            (_, true) => Some(Caller::Viewer),
            _ => None,
        };
        match self.judge(caller, client, now)? {
            Caller::Viewer if !matches!(*method, Method::GET | Method::HEAD) => Err(Fault::new(
                StatusCode::FORBIDDEN,
                "this account may only read",
            )),
            caller => Ok(caller),
        }
    }

    fn by_token(
        &self,
        headers: &HeaderMap,
        client: IpAddr,
        now: Duration,
    ) -> Result<Caller, Fault> {
        let nets = &self.webhook_allow;
        if !nets.is_empty() && !nets.iter().any(|net| net.contains(&client)) {
            let message = "webhooks are not taken from this address; see HA_WEBHOOK_ALLOW";
            return Err(Fault::new(StatusCode::FORBIDDEN, message));
        }
        let Some(expected) = &self.webhook_token else {
            return Ok(Caller::Webhook);
        };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| scheme(value, "bearer"));
        let Some(given) = bearer.or_else(|| text("x-webhook-token")) else {
            return Err(unknown(
                "the webhook's token is required; see HA_WEBHOOK_TOKEN",
            ));
        };
        let right = bool::from(digest(given).ct_eq(expected));
        self.judge(right.then_some(Caller::Webhook), client, now)
    }

    /// Counts a wrong guess, and turns away who had too many.
    fn judge(
        &self,
        caller: Option<Caller>,
        client: IpAddr,
        now: Duration,
    ) -> Result<Caller, Fault> {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let key = block(client);
        let mut entry = guesses.get(&key).copied().unwrap_or_default();
        if now.saturating_sub(entry.since) >= WINDOW {
            entry = Guesses {
                since: now,
                wrong: 0,
                ..entry
            };
        }
        let spent = entry.wrong >= GUESSES;
        match caller {
            Some(caller) if entry.known || !spent => {
                if !entry.known {
                    entry.known = true;
                    remember(&mut guesses, key, entry);
                }
                Ok(caller)
            }
            None if !spent => {
                entry.wrong += 1;
                remember(&mut guesses, key, entry);
                Err(unknown("user name, password or token is wrong"))
            }
            _ => {
                let left = WINDOW.saturating_sub(now.saturating_sub(entry.since));
                Err(Fault {
                    retry_after: Some(left.as_secs() + 1),
                    ..Fault::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "too many wrong passwords from this address; wait, then try again",
                    )
                })
            }
        }
    }
}

fn remember(guesses: &mut HashMap<IpAddr, Guesses>, key: IpAddr, entry: Guesses) {
    if guesses.len() >= ADDRESSES && !guesses.contains_key(&key) {
        guesses.retain(|_, old| old.known || entry.since.saturating_sub(old.since) < WINDOW);
        if guesses.len() >= ADDRESSES {
            guesses.clear();
        }
    }
    guesses.insert(key, entry);
}

/// What counts as one address: an IPv6 host has a whole /64 to guess from.
fn block(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let top = u128::from(six) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(top))
        }
    }
}

/// A browser sends the account's password with every request, also those that another site's page makes it send.
fn same_site(headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let foreign = match text("sec-fetch-site") {
        Some(site) => !matches!(site, "same-origin" | "none"),
        None => text("origin").is_some_and(|origin| {
            let host = origin.split_once("://").map_or(origin, |(_, host)| host);
            Some(host) != text("host")
        }),
    };
    if foreign {
        let message = "another site's page may not do this";
        return Err(Fault::new(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

fn unknown(message: &str) -> Fault {
    Fault {
        authenticate: Some("Basic realm=\"ov2-ha-recorder\", charset=\"UTF-8\""),
        ..Fault::new(StatusCode::UNAUTHORIZED, message)
    }
}

fn scheme<'t>(value: &'t str, wanted: &str) -> Option<&'t str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

fn basic(value: &str) -> Option<Vec<u8>> {
    STANDARD.decode(scheme(value, "basic")?).ok()
}

fn pair(name: &str, password: &Secret) -> Digested {
    digest(&format!("{name}:{}", password.expose()))
}

fn digest(text: &str) -> Digested {
    digest_of(text.as_bytes())
}

fn digest_of(bytes: &[u8]) -> Digested {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    fn keeper(more: &[(&str, &str)]) -> Doorkeeper {
        let account = [
            ("HA_CONTROLLER_USERNAME", "ha"),
            ("HA_CONTROLLER_PASSWORD", "right"),
            ("HA_VIEWER_USERNAME", "eye"),
            ("HA_VIEWER_PASSWORD", "look"),
        ];
        let all = account.iter().chain(more).copied();
        Doorkeeper::new(&Variables::of(all).settings().unwrap()).unwrap()
    }

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn login(text: &str) -> HeaderMap {
        with(&[("authorization", &format!("Basic {}", STANDARD.encode(text)))])
    }

    fn ask(
        keeper: &Doorkeeper,
        method: &Method,
        headers: &HeaderMap,
        at: u64,
    ) -> Result<Caller, u16> {
        let from = "10.0.0.1".parse().unwrap();
        keeper
            .admit(
                Access::Account,
                method,
                headers,
                from,
                Duration::from_secs(at),
            )
            .map_err(|fault| fault.status.as_u16())
    }

    #[test]
    fn the_account_may_all_the_viewer_may_read_and_others_nothing() {
        let keeper = keeper(&[]);
        assert_eq!(
            ask(&keeper, &Method::PUT, &login("ha:right"), 0),
            Ok(Caller::Account)
        );
        assert_eq!(
            ask(&keeper, &Method::GET, &login("eye:look"), 0),
            Ok(Caller::Viewer)
        );
        assert_eq!(ask(&keeper, &Method::PUT, &login("eye:look"), 0), Err(403));
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:look"), 0), Err(401));
        assert_eq!(ask(&keeper, &Method::GET, &HeaderMap::new(), 0), Err(401));
        assert_eq!(
            ask(
                &keeper,
                &Method::GET,
                &with(&[("authorization", "Basic ***")]),
                0
            ),
            Err(401)
        );
    }

    #[test]
    fn guessing_ends_after_ten_tries_for_a_minute() {
        let keeper = keeper(&[]);
        for _ in 0..10 {
            assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 0), Err(401));
        }
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 1), Err(429));
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:right"), 1), Err(429));
        assert_eq!(
            ask(&keeper, &Method::GET, &login("ha:right"), 61),
            Ok(Caller::Account)
        );
    }

    #[test]
    fn a_known_client_is_not_locked_out_by_a_neighbours_guesses() {
        let keeper = keeper(&[]);
        assert!(ask(&keeper, &Method::GET, &login("ha:right"), 0).is_ok());
        for _ in 0..20 {
            assert!(ask(&keeper, &Method::GET, &login("ha:x"), 0).is_err());
        }
        assert_eq!(
            ask(&keeper, &Method::GET, &login("ha:right"), 1),
            Ok(Caller::Account)
        );
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 1), Err(429));
    }

    #[test]
    fn a_forwarded_address_is_believed_from_a_trusted_proxy_only() {
        let keeper = keeper(&[("HA_TRUSTED_PROXIES", "10.0.0.0/8")]);
        let headers = with(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.9.9.9")]);
        let seen = |peer: &str| keeper.client(peer.parse().unwrap(), &headers).to_string();
        assert_eq!(seen("10.0.0.1"), "1.2.3.4");
        assert_eq!(seen("9.9.9.9"), "9.9.9.9");
    }

    #[test]
    fn a_webhook_needs_its_token_and_its_network() {
        let keeper = keeper(&[
            ("HA_WEBHOOK_TOKEN", "t0ken"),
            ("HA_WEBHOOK_ALLOW", "10.0.0.0/8"),
        ]);
        let ask = |headers: HeaderMap, from: &str| {
            keeper
                .admit(
                    Access::Webhook,
                    &Method::POST,
                    &headers,
                    from.parse().unwrap(),
                    Duration::ZERO,
                )
                .map_err(|fault| fault.status.as_u16())
        };
        assert_eq!(
            ask(with(&[("authorization", "Bearer t0ken")]), "10.1.1.1"),
            Ok(Caller::Webhook)
        );
        assert_eq!(
            ask(with(&[("x-webhook-token", "t0ken")]), "10.1.1.1"),
            Ok(Caller::Webhook)
        );
        assert_eq!(
            ask(with(&[("x-webhook-token", "other")]), "10.1.1.1"),
            Err(401)
        );
        assert_eq!(ask(HeaderMap::new(), "10.1.1.1"), Err(401));
        assert_eq!(
            ask(with(&[("x-webhook-token", "t0ken")]), "11.1.1.1"),
            Err(403)
        );
    }

    #[test]
    fn another_sites_page_cannot_use_the_browsers_password() {
        assert!(same_site(&with(&[("sec-fetch-site", "cross-site")])).is_err());
        assert!(same_site(&with(&[("origin", "https://evil"), ("host", "ha:15443")])).is_err());
        assert!(
            same_site(&with(&[
                ("origin", "https://ha:15443"),
                ("host", "ha:15443")
            ]))
            .is_ok()
        );
        assert!(same_site(&with(&[("host", "ha:15443")])).is_ok());
    }
}
