//! Who may do what. HTTP Basic for the account and a viewer; for OpenVidu's webhooks a token, or networks, or this machine's
//! own addresses. Who is right is let in, whatever was counted before; wrong guesses are counted by address, and apart for
//! each account that there is.
//! Secrets are compared as digests in constant time and never leave this file.

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

/// Wrong guesses that a guesser has in [`WINDOW`].
const GUESSES: u32 = 10;
/// After this a guesser may guess again.
const WINDOW: Duration = Duration::from_secs(60);
/// Guessers that are remembered at once.
const REMEMBERED: usize = 10_000;

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
    /// A recorder, by its token.
    Recorder,
    /// OpenVidu.
    Webhook,
}

/// The doorkeeper.
pub(super) struct Doorkeeper {
    account: Known,
    viewer: Option<Known>,
    recorder_token: Option<Digested>,
    webhook_token: Option<Digested>,
    webhook_allow: Vec<IpNet>,
    proxies: Vec<IpNet>,
    this_machine: ThisMachine,
    guesses: Mutex<HashMap<Guesser, Guesses>>,
}

/// An account, by the digests of its name and of its name with its password.
struct Known {
    name: Digested,
    pair: Digested,
}

impl Known {
    fn new(name: &str, password: &Secret) -> Self {
        Self {
            name: digest(name),
            pair: digest(&format!("{name}:{}", password.expose())),
        }
    }

    fn is(&self, given: &Digested) -> bool {
        given.ct_eq(&self.pair).into()
    }
}

/// Whose wrong guesses are counted together: an address, and what it tries.
type Guesser = (IpAddr, Tried);

/// What a wrong guess is for. Names that are made up are one: else there would be guesses for each of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Tried {
    Account,
    Viewer,
    NoAccount,
    Token,
}

/// What is remembered of a guesser.
#[derive(Clone, Copy, Default)]
struct Guesses {
    wrong: u32,
    since: Duration,
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
            account: Known::new(name, password),
            viewer: viewer.map(|(name, password)| Known::new(name, password)),
            recorder_token: settings
                .recorder_token
                .as_ref()
                .map(|token| digest(token.expose())),
            webhook_token: settings
                .webhook_token
                .as_ref()
                .map(|token| digest(token.expose())),
            webhook_allow: settings.webhook_allow.0.clone(),
            proxies: settings.trusted_proxies.0.clone(),
            this_machine: ThisMachine::default(),
            guesses: Mutex::default(),
        })
    }

    /// Whether many come by that address: it is this machine's, or a trusted proxy's.
    pub(super) fn brings_others(&self, peer: IpAddr, now: Duration) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|net| net.contains(&peer)) || self.this_machine.has(peer, now)
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
            Access::Recorder => match self.is_recorder(headers) {
                true => Ok(Caller::Recorder),
                false => self.by_account(method, headers, client, now),
            },
            Access::Webhook => self.by_token(headers, client, now),
        }
    }

    /// Whether a request carries the recorders' token.
    fn is_recorder(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| scheme(value, "bearer")).map(digest);
        match (given, &self.recorder_token) {
            (Some(given), Some(expected)) => given.ct_eq(expected).into(),
            _ => false,
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
        let text = given.to_str().ok().and_then(basic).unwrap_or_default();
        let given = digest_of(&text);
        let viewer = self.viewer.as_ref().is_some_and(|known| known.is(&given));
        let caller = match (self.account.is(&given), viewer) {
            (true, _) => Some(Caller::Account),
            (_, true) => Some(Caller::Viewer),
            _ => None,
        };
        match caller {
            Some(Caller::Viewer) if !matches!(*method, Method::GET | Method::HEAD) => Err(
                Fault::new(StatusCode::FORBIDDEN, "this account may only read"),
            ),
            Some(caller) => Ok(caller),
            None => {
                let name = text.split(|byte| *byte == b':').next().unwrap_or_default();
                Err(self.count_wrong(self.tried(name), client, now))
            }
        }
    }

    fn tried(&self, name: &[u8]) -> Tried {
        let name = digest_of(name);
        match &self.viewer {
            _ if name == self.account.name => Tried::Account,
            Some(viewer) if name == viewer.name => Tried::Viewer,
            _ => Tried::NoAccount,
        }
    }

    fn by_token(
        &self,
        headers: &HeaderMap,
        client: IpAddr,
        now: Duration,
    ) -> Result<Caller, Fault> {
        if !self.is_allowed(client, now) {
            let message = "webhooks are not taken from this address; set HA_WEBHOOK_TOKEN here and in \
                           OPENVIDU_WEBHOOK_HEADERS of OpenVidu, or add the address to HA_WEBHOOK_ALLOW";
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
        match bool::from(digest(given).ct_eq(expected)) {
            true => Ok(Caller::Webhook),
            false => Err(self.count_wrong(Tried::Token, client, now)),
        }
    }

    /// Whether webhooks may come from this address: from the networks that are set, else, without a token, from this
    /// machine only.
    fn is_allowed(&self, client: IpAddr, now: Duration) -> bool {
        match (self.webhook_allow.as_slice(), &self.webhook_token) {
            ([], Some(_)) => true,
            ([], None) => self.this_machine.has(client, now),
            (nets, _) => nets.iter().any(|net| net.contains(&client)),
        }
    }

    /// Counts a wrong guess; the answer to it.
    fn count_wrong(&self, tried: Tried, client: IpAddr, now: Duration) -> Fault {
        let guesser = (block(client), tried);
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |it: &Guesses| now.saturating_sub(it.since) >= WINDOW;
        if guesses.len() >= REMEMBERED && !guesses.contains_key(&guesser) {
            guesses.retain(|_, it| !is_old(it));
            if guesses.len() >= REMEMBERED {
                let oldest = guesses.iter().min_by_key(|(_, it)| it.since);
                let oldest = oldest.map(|(guesser, _)| *guesser);
                oldest.and_then(|guesser| guesses.remove(&guesser));
            }
        }
        let entry = guesses.entry(guesser).or_default();
        if entry.wrong == 0 || is_old(entry) {
            *entry = Guesses {
                since: now,
                wrong: 0,
            };
        }
        if entry.wrong < GUESSES {
            entry.wrong += 1;
            return unknown("user name, password or token is wrong");
        }
        let left = WINDOW.saturating_sub(now.saturating_sub(entry.since));
        Fault {
            retry_after: Some(left.as_secs() + 1),
            ..Fault::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong passwords from this address; the right one is still taken",
            )
        }
    }
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

/// The addresses from which this machine speaks: its own, and those of the containers on Docker's bridges.
#[derive(Default)]
struct ThisMachine(Mutex<Option<(Duration, Vec<IpNet>)>>);

/// How long what was read of the interfaces holds; Docker makes new ones at any time.
const INTERFACES_KEPT: Duration = Duration::from_secs(2);

impl ThisMachine {
    fn has(&self, address: IpAddr, now: Duration) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return true;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nets = match known.take() {
            Some((read_at, nets)) if now.saturating_sub(read_at) < INTERFACES_KEPT => {
                (read_at, nets)
            }
            _ => (now, own_networks()),
        };
        known
            .insert(nets)
            .1
            .iter()
            .any(|net| net.contains(&address))
    }
}

/// Each own address as a network of its own, and the networks of Docker's bridges.
fn own_networks() -> Vec<IpNet> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(cause) => {
            log::warn!(
                "cannot read this machine's addresses, webhooks are taken from the loopback interface only: {cause}"
            );
            return Vec::new();
        }
    };
    let nets = interfaces.filter_map(|interface| {
        let address = ip(interface.address.as_ref()?)?;
        let mask = interface.netmask.as_ref().and_then(ip);
        let reaches_further = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        let shared = is_dockers(&interface.interface_name) && !reaches_further;
        match mask.filter(|_| shared) {
            Some(mask) => IpNet::with_netmask(address, mask).ok(),
            None => Some(IpNet::from(address)),
        }
    });
    nets.collect()
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    four.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

/// Whether Docker has made this bridge: nobody but this machine's containers is on it.
fn is_dockers(interface: &str) -> bool {
    let made_for_a_network = |id: &str| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
    matches!(interface, "docker0" | "docker_gwbridge")
        || interface
            .strip_prefix("br-")
            .is_some_and(made_for_a_network)
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
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 61), Err(401));
    }

    #[test]
    fn who_is_right_is_let_in_whatever_others_guessed_from_the_same_address() {
        let keeper = keeper(&[]);
        for _ in 0..20 {
            assert!(ask(&keeper, &Method::GET, &login("ha:x"), 0).is_err());
        }
        assert_eq!(
            ask(&keeper, &Method::GET, &login("ha:right"), 1),
            Ok(Caller::Account)
        );
        assert_eq!(
            ask(&keeper, &Method::GET, &login("eye:look"), 1),
            Ok(Caller::Viewer)
        );
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 1), Err(429));
        assert_eq!(
            ask(&keeper, &Method::GET, &login("eye:x"), 1),
            Err(401),
            "another account's guesses"
        );
    }

    #[test]
    fn names_that_are_made_up_share_their_addresss_guesses_and_take_none_from_an_account() {
        let keeper = keeper(&[]);
        for number in 0..10 {
            let made_up = login(&format!("name{number}:x"));
            assert_eq!(ask(&keeper, &Method::GET, &made_up, 0), Err(401));
        }
        let another = login("another:x");
        assert_eq!(ask(&keeper, &Method::GET, &another, 0), Err(429));
        assert_eq!(keeper.guesses.lock().unwrap().len(), 1);
        assert_eq!(ask(&keeper, &Method::GET, &login("ha:x"), 0), Err(401));
    }

    #[test]
    fn without_a_token_webhooks_come_from_this_machine_only() {
        let ask = |keeper: &Doorkeeper, from: &str| {
            let (method, from) = (Method::POST, from.parse().unwrap());
            let none = HeaderMap::new();
            let asked = keeper.admit(Access::Webhook, &method, &none, from, Duration::ZERO);
            asked.map_err(|fault| fault.status.as_u16())
        };
        let open = keeper(&[]);
        for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(ask(&open, own), Ok(Caller::Webhook), "{own}");
        }
        for address in own_networks().iter().map(|net| net.addr().to_string()) {
            assert_eq!(ask(&open, &address), Ok(Caller::Webhook), "{address}");
        }
        for stranger in ["198.51.100.7", "2001:db8::7"] {
            assert_eq!(ask(&open, stranger), Err(403), "{stranger}");
        }
        let told = keeper(&[("HA_WEBHOOK_ALLOW", "198.51.100.0/24")]);
        assert_eq!(ask(&told, "198.51.100.7"), Ok(Caller::Webhook));
        let token = keeper(&[("HA_WEBHOOK_TOKEN", "t0ken")]);
        assert_eq!(ask(&token, "198.51.100.7"), Err(401));
    }

    #[test]
    fn only_bridges_that_docker_made_are_this_machine() {
        for docker in ["docker0", "docker_gwbridge", "br-0123456789ab"] {
            assert!(is_dockers(docker), "{docker}");
        }
        for other in ["br0", "br-lan", "br-0123456789", "eth0", "docker1x"] {
            assert!(!is_dockers(other), "{other}");
        }
    }

    #[test]
    fn this_machine_and_trusted_proxies_bring_others_connections() {
        let keeper = keeper(&[("HA_TRUSTED_PROXIES", "198.51.100.0/24")]);
        let brings = |peer: &str| keeper.brings_others(peer.parse().unwrap(), Duration::ZERO);
        assert!(brings("127.0.0.1") && brings("::ffff:127.0.0.1") && brings("198.51.100.7"));
        assert!(!brings("192.0.2.1"));
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
    fn a_recorder_s_token_opens_what_recorders_need_and_nothing_else() {
        let keeper = keeper(&[("HA_RECORDER_TOKEN", "t0ken")]);
        let ask = |access: Access, headers: &HeaderMap| {
            let from = "10.0.0.1".parse().unwrap();
            let admitted = keeper.admit(access, &Method::PUT, headers, from, Duration::ZERO);
            admitted.map_err(|fault| fault.status.as_u16())
        };
        let bearer = |token: &str| with(&[("authorization", &format!("Bearer {token}"))]);
        assert_eq!(
            ask(Access::Recorder, &bearer("t0ken")),
            Ok(Caller::Recorder)
        );
        assert_eq!(
            ask(Access::Recorder, &login("ha:right")),
            Ok(Caller::Account)
        );
        for access in [Access::Account, Access::Operator] {
            assert_eq!(ask(access, &bearer("t0ken")), Err(401));
        }
        assert_eq!(ask(Access::Recorder, &bearer("other")), Err(401));
        let without = self::keeper(&[]);
        let from = "10.0.0.1".parse().unwrap();
        let empty = without.admit(
            Access::Recorder,
            &Method::PUT,
            &bearer(""),
            from,
            Duration::ZERO,
        );
        assert!(empty.is_err());
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
