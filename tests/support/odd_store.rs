//! An S3 store in memory that does what some stores in the field do. It checks `Content-MD5`, but no signatures.

use super::stores::BUCKET;
use super::target;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// What is odd about a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A key management service encrypts: ETags look like MD5s and are none.
    ManagedKeys,
    /// The same, and no answer says so.
    SealedEtags,
    /// What is asked to be deleted together is answered with this status and code, and stays.
    NoBatchDelete(u16, &'static str),
    /// It answers lists as the first version does, this many keys a page.
    FirstVersionLists(usize),
    /// Each list ends after this many keys, says that there is more, and cannot be asked for it.
    CutLists(usize),
    /// A bucket is to be named in the host's name.
    NoPathStyle,
    /// Objects are taken whole only.
    NoParts,
}

/// The store, until it is dropped.
pub struct OddStore {
    pub endpoint: String,
    shelf: Arc<Shelf>,
    task: tokio::task::JoinHandle<()>,
}

struct Shelf {
    oddities: Vec<Oddity>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    parts: BTreeMap<(String, u32), Bytes>,
    requests: Vec<String>,
}

impl OddStore {
    pub async fn start(oddities: &[Oddity]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shelf = Arc::new(Shelf {
            oddities: oddities.to_vec(),
            state: Mutex::default(),
        });
        let shared = Arc::clone(&shelf);
        let task = tokio::spawn(target::serve(listener, move |request| {
            let shelf = Arc::clone(&shared);
            async move { shelf.answer(request).await }
        }));
        Self {
            endpoint,
            shelf,
            task,
        }
    }

    /// The same behind TLS, with these files in PEM form: its `https://` endpoint.
    pub async fn secured(&self, certificate: &Path, key: &Path) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let acceptor = target::acceptor(certificate, key);
        let plain = self.endpoint.trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever does not trust the certificate goes away.
                let Ok(mut client) = acceptor.accept(stream).await else {
                    continue;
                };
                let plain = plain.clone();
                tokio::spawn(async move {
                    let mut store = TcpStream::connect(plain).await?;
                    copy_bidirectional(&mut client, &mut store).await
                });
            }
        });
        endpoint
    }

    /// The keys of what it has.
    pub fn keys(&self) -> Vec<String> {
        let state = self.shelf.state.lock().unwrap();
        state.objects.keys().cloned().collect()
    }

    /// Puts an object there by another way.
    pub fn place(&self, key: &str, body: &[u8]) {
        let mut state = self.shelf.state.lock().unwrap();
        let body = Bytes::copy_from_slice(body);
        state.objects.insert(key.to_owned(), body);
    }

    /// How many requests there were whose method and address contain `words`.
    pub fn requests(&self, words: &str) -> usize {
        let state = self.shelf.state.lock().unwrap();
        state
            .requests
            .iter()
            .filter(|it| it.contains(words))
            .count()
    }
}

impl Drop for OddStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request as a store sees it.
struct Asked {
    method: String,
    key: String,
    query: HashMap<String, String>,
    md5: Option<String>,
    body: Bytes,
}

type Answer = Response<Full<Bytes>>;

impl Shelf {
    fn is(&self, oddity: Oddity) -> bool {
        self.oddities.contains(&oddity)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let named = parts.headers.get("host").map(|it| it.to_str().unwrap());
        let host = parts.uri.host().or(named).unwrap_or_default();
        let path = decoded(parts.uri.path().trim_start_matches('/'));
        let in_host = host.starts_with(&format!("{BUCKET}."));
        let key = match in_host {
            true => path,
            false => path.split_once('/').map_or("", |(_, key)| key).to_owned(),
        };
        let line = format!("{} {}", parts.method, parts.uri);
        self.state.lock().unwrap().requests.push(line);
        let url = format!("http://store/?{}", parts.uri.query().unwrap_or_default());
        let url = reqwest::Url::parse(&url).unwrap();
        let header = |name: &str| Some(parts.headers.get(name)?.to_str().unwrap().to_owned());
        let asked = Asked {
            method: parts.method.to_string(),
            key,
            query: url.query_pairs().into_owned().collect(),
            md5: header("content-md5"),
            body,
        };
        if !in_host && self.is(Oddity::NoPathStyle) {
            return fault(403, "SecondLevelDomainForbidden");
        }
        match asked.key.is_empty() {
            true => self.bucket(&asked),
            false => self.object(&asked),
        }
    }

    fn object(&self, asked: &Asked) -> Answer {
        let is_for_parts = ["uploads", "uploadId"]
            .iter()
            .any(|name| asked.query.contains_key(*name));
        if is_for_parts && self.is(Oddity::NoParts) {
            return fault(501, "NotImplemented");
        }
        let digest = BASE64.encode(Md5::digest(&asked.body));
        if asked.md5.as_ref().is_some_and(|md5| *md5 != digest) {
            return fault(400, "BadDigest");
        }
        let mut state = self.state.lock().unwrap();
        let key = asked.key.clone();
        match (asked.method.as_str(), is_for_parts) {
            ("POST", _) if asked.query.contains_key("uploads") => {
                let text = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
                self.say(200, Bytes::from_static(text.as_bytes()), None)
            }
            ("POST", true) => {
                let of_it = |(part, _): &(String, u32)| *part == key;
                let parts = state.parts.iter().filter(|(part, _)| of_it(part));
                let whole: Vec<u8> = parts.flat_map(|(_, body)| body.to_vec()).collect();
                state.parts.retain(|part, _| !of_it(part));
                state.objects.insert(key, whole.into());
                let text = "<CompleteMultipartUploadResult><ETag>\"whole-2\"</ETag></CompleteMultipartUploadResult>";
                self.say(200, Bytes::from_static(text.as_bytes()), None)
            }
            ("PUT", true) => {
                let number = asked.query["partNumber"].parse().unwrap();
                state.parts.insert((key, number), asked.body.clone());
                self.say(200, Bytes::new(), Some(&asked.body))
            }
            ("PUT", false) => {
                state.objects.insert(key, asked.body.clone());
                self.say(200, Bytes::new(), Some(&asked.body))
            }
            ("DELETE", _) => {
                state.objects.remove(&key);
                self.say(204, Bytes::new(), None)
            }
            _ => match state.objects.get(&key).cloned() {
                None => fault(404, "NoSuchKey"),
                // A HEAD's answer has the length alone: hyper sends no body with it.
                Some(body) => self.say(200, body.clone(), Some(&body)),
            },
        }
    }

    fn bucket(&self, asked: &Asked) -> Answer {
        if asked.method == "POST" && asked.query.contains_key("delete") {
            return self.delete_together(asked);
        }
        match asked.method.as_str() {
            "GET" => self.list(asked),
            _ => self.say(200, Bytes::new(), None),
        }
    }

    fn delete_together(&self, asked: &Asked) -> Answer {
        let refused = self.oddities.iter().find_map(|oddity| match oddity {
            Oddity::NoBatchDelete(status, code) => Some((*status, *code)),
            _ => None,
        });
        match refused {
            Some((200, _)) => return self.say(200, Bytes::new(), None),
            Some((status, code)) => return fault(status, code),
            None => {}
        }
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let keys = text.split("<Key>").skip(1);
        let keys = keys.filter_map(|rest| rest.split_once("</Key>").map(|(key, _)| key));
        let mut said = String::new();
        let mut state = self.state.lock().unwrap();
        for key in keys {
            state.objects.remove(key);
            said.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
        }
        let text = format!("<DeleteResult>{said}</DeleteResult>");
        self.say(200, text.into(), None)
    }

    fn list(&self, asked: &Asked) -> Answer {
        let most = self.oddities.iter().find_map(|oddity| match oddity {
            Oddity::FirstVersionLists(most) => Some((*most, true)),
            Oddity::CutLists(most) => Some((*most, false)),
            _ => None,
        });
        let (most, goes_on) = most.unwrap_or((usize::MAX, true));
        let of = |name: &str| asked.query.get(name).cloned().unwrap_or_default();
        let (prefix, marker) = (of("prefix"), of("marker"));
        let state = self.state.lock().unwrap();
        let left: Vec<_> = state
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && (!goes_on || **key > marker))
            .collect();
        let rows: String = left
            .iter()
            .take(most)
            .map(|(key, body)| {
                let bytes = body.len();
                format!("<Contents><Key>{key}</Key><Size>{bytes}</Size></Contents>")
            })
            .collect();
        let text = format!(
            "<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{}</IsTruncated>{rows}</ListBucketResult>",
            left.len() > most
        );
        self.say(200, text.into(), None)
    }

    /// An answer, with the ETag of `object` if it is about one.
    fn say(&self, status: u16, body: Bytes, object: Option<&Bytes>) -> Answer {
        let mut answer = Response::builder().status(status);
        if self.is(Oddity::ManagedKeys) {
            answer = answer.header("x-amz-server-side-encryption", "aws:kms");
        }
        if let Some(object) = object {
            let sealed = self.is(Oddity::ManagedKeys) || self.is(Oddity::SealedEtags);
            let seal: &[u8] = if sealed { b"sealed" } else { b"" };
            let digest = Md5::digest([object, seal].concat());
            let etag: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            answer = answer.header("etag", format!("\"{etag}\""));
        }
        answer.body(Full::new(body)).unwrap()
    }
}

fn fault(status: u16, code: &str) -> Answer {
    let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    let answer = Response::builder().status(status);
    answer.body(Full::new(text.into())).unwrap()
}

/// A path with its escapes resolved.
fn decoded(path: &str) -> String {
    let url = reqwest::Url::parse(&format!("http://store/?{}", path.replace('+', "%2B"))).unwrap();
    let first = url.query_pairs().next();
    first.map_or_else(String::new, |(text, _)| text.into_owned())
}
