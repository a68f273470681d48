//! The table of routes. Each is declared once, with its method, its pattern, who may use it and the warp filter that does
//! the work. warp's own `or` chain tries every filter in turn and cannot say which methods a path has; looking the route
//! up first gives 404, 405 with `Allow`, `HEAD`, the name for the metrics and the access rule from one declaration.

use super::answer::{Fault, rejected};
use crate::model::ids::RecordingId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::sync::Arc;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reject::Rejection;
use warp::reply::Response;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Open,
    /// The account; the viewer too where nothing is changed.
    Account,
    /// The account, for something a person does: it leaves a line in the log.
    Operator,
    /// Recorders with their token, and the account.
    Recorder,
    /// OpenVidu: from the allowed networks, with the token where one is set.
    Webhook,
}

/// One row of the table.
pub(super) struct Route {
    /// The method.
    pub(super) method: Method,
    /// The path, with `{id}` for any segment and `{*}` for any rest.
    pub(super) pattern: &'static str,
    /// Who may use it.
    pub(super) access: Access,
    work: Work,
}

type Work = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response> + Send + Sync>;

/// What stands in a path where its pattern has a parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Param(String);

/// The table: the paths that are spelled out, and those with a parameter.
#[derive(Default)]
pub(super) struct Routes {
    literal: HashMap<&'static str, Vec<Route>>,
    with_parameter: Vec<Route>,
}

impl Routes {
    /// Adds `<method> <pattern>`.
    pub(super) fn add<F>(&mut self, access: Access, route: &'static str, filter: F)
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        let (method, pattern) = route.split_once(' ').unwrap_or(("GET", route));
        let service =
            TowerToHyperService::new(warp::service(filter.recover(rejected).unify().boxed()));
        let rows = if pattern.contains('{') {
            &mut self.with_parameter
        } else {
            self.literal.entry(pattern).or_default()
        };
        rows.push(Route {
            method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET),
            pattern,
            access,
            work: Arc::new(move |request| {
                let answer = service.call(request);
                async move { answer.await.unwrap_or_else(|never| match never {}) }.boxed()
            }),
        });
    }

    /// Adds a route for the account.
    pub(super) fn account<F>(&mut self, route: &'static str, filter: F)
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        self.add(Access::Account, route, filter);
    }

    /// Adds a route for what a person does.
    pub(super) fn operator<F>(&mut self, route: &'static str, filter: F)
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        self.add(Access::Operator, route, filter);
    }

    /// Adds a route for recorders.
    pub(super) fn recorder<F>(&mut self, route: &'static str, filter: F)
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        self.add(Access::Recorder, route, filter);
    }

    /// Adds a route for everybody.
    pub(super) fn open<F>(&mut self, route: &'static str, filter: F)
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        self.add(Access::Open, route, filter);
    }

    /// The route for a request, with what stands for its parameter. A path that is spelled out in the table is no
    /// parameter of another row, whatever the method.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<(&Route, Param), Fault> {
        let here: Vec<(&Route, &str)> = match self.literal.get(path) {
            Some(routes) => routes.iter().map(|route| (route, "")).collect(),
            None => {
                let all = self.with_parameter.iter();
                all.filter_map(|route| Some((route, matched(route.pattern, path)?)))
                    .collect()
            }
        };
        let wanted = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        match here.iter().find(|(route, _)| route.method == wanted) {
            Some((route, param)) => Ok((route, Param((*param).to_owned()))),
            None if here.is_empty() => Err(Fault::not_found("there is no such resource")),
            None => {
                let methods = here.iter().map(|(route, _)| route.method.as_str());
                Err(wrong_method(method, methods.collect()))
            }
        }
    }
}

impl Route {
    /// Does the work.
    pub(super) fn call(&self, request: Request<Incoming>) -> BoxFuture<'static, Response> {
        (self.work)(request)
    }
}

fn wrong_method(method: &Method, mut allowed: Vec<&str>) -> Fault {
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    allowed.dedup();
    let allowed = allowed.join(", ");
    Fault {
        allow: Some(allowed.clone()),
        ..Fault::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not possible here; {allowed} is"),
        )
    }
}

/// What stands for the pattern's parameter; `None` when the path is another one.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (before, rest) = pattern.split_once('{')?;
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let inner = path.strip_prefix(before)?.strip_suffix(after)?;
    let any_rest = rest.starts_with('*');
    (!inner.is_empty() && (any_rest || !inner.contains('/'))).then_some(inner)
}

/// The parameter's text, percent-decoded.
pub(super) fn param() -> BoxedFilter<(String,)> {
    warp::ext::get::<Param>()
        .and_then(|Param(raw)| async move {
            decoded(&raw).ok_or_else(|| Rejection::from(Fault::bad("the path is not valid UTF-8")))
        })
        .boxed()
}

/// The parameter as a recording's id.
pub(super) fn id() -> BoxedFilter<(RecordingId,)> {
    param()
        .and_then(|text: String| async move {
            RecordingId::parse(text).map_err(|cause| Rejection::from(Fault::bad(cause.to_string())))
        })
        .boxed()
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                u8::from_str_radix(digits, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_one_segment_and_a_star_takes_the_rest() {
        assert_eq!(matched("/api/{id}/stop", "/api/a~1/stop"), Some("a~1"));
        assert_eq!(matched("/api/{id}/stop", "/api/a/b/stop"), None);
        assert_eq!(matched("/api/{id}", "/api/"), None);
        assert_eq!(matched("/page/{*}", "/page/a/b.js"), Some("a/b.js"));
    }

    #[test]
    fn a_literal_wins_over_a_parameter_and_head_is_get() {
        let mut routes = Routes::default();
        let work = || warp::any().and_then(|| async { Ok::<_, Rejection>(Response::default()) });
        routes.account("GET /a/{id}", work());
        routes.account("GET /a/all", work());
        routes.account("PUT /a/{id}", work());
        let found = |method: &Method, path: &str| routes.find(method, path).map(|(r, _)| r.pattern);
        assert_eq!(found(&Method::GET, "/a/all").ok(), Some("/a/all"));
        assert_eq!(found(&Method::HEAD, "/a/x").ok(), Some("/a/{id}"));
        let fault = found(&Method::POST, "/a/x").unwrap_err();
        assert_eq!(fault.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(fault.allow.as_deref(), Some("GET, HEAD, PUT"));
        let fault = found(&Method::PUT, "/a/all").unwrap_err();
        assert_eq!(fault.allow.as_deref(), Some("GET, HEAD"));
        assert_eq!(
            found(&Method::GET, "/b").unwrap_err().status,
            StatusCode::NOT_FOUND
        );
    }

    #[test]
    fn percent_escapes_are_decoded_and_broken_ones_refused() {
        assert_eq!(decoded("a%7E1").as_deref(), Some("a~1"));
        assert_eq!(decoded("%2e%2E").as_deref(), Some(".."));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
