//! A real Chromium of one's own, driven by chromedriver: what a person does with the page, and what they would see.

use crate::support::controller::{Controller, USER, free_port};
use crate::support::wait::until;
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::process::Child;

/// How long the page may take to show what happened.
pub const SOON: Duration = Duration::from_secs(15);

/// The accessibility checker that the page is held against.
const AXE: &str = "axe-core@4.14.1";

/// An open page.
pub struct Browser {
    pub client: Client,
    driver: String,
    _child: Child,
    profile: tempfile::TempDir,
}

impl Drop for Browser {
    /// chromedriver ends without the browser that it started; one that a failed test leaves would go on loading its page.
    fn drop(&mut self) {
        let own = format!("user-data-dir={}", self.profile.path().display());
        let _ = Command::new("pkill")
            .args(["-KILL", "-f", "--", &own])
            .status();
    }
}

impl Browser {
    /// Opens the controller's page as `user`.
    ///
    /// # Errors
    /// When there is no chromedriver or no Chromium.
    pub async fn open(controller: &Controller, user: &str, password: &str) -> Result<Self, String> {
        let browser = Self::start().await?;
        let host = format!("127.0.0.1:{}", controller.port);
        // The browser keeps the password for the site; the page itself has a clean address, as after the prompt.
        let goto = |url: String| async {
            let url = url;
            browser
                .client
                .goto(&url)
                .await
                .map_err(|cause| cause.to_string())
        };
        goto(format!("http://{user}:{password}@{host}/static/icon.svg")).await?;
        goto(format!("http://{host}/")).await?;
        Ok(browser)
    }

    /// Opens the page with the controller's own account.
    pub async fn of(controller: &Controller) -> Result<Self, String> {
        Self::open(controller, USER, &controller.password).await
    }

    async fn start() -> Result<Self, String> {
        let port = free_port();
        let child = tokio::process::Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| format!("chromedriver cannot be started: {cause}"))?;
        let driver = format!("http://127.0.0.1:{port}");
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--autoplay-policy=no-user-gesture-required",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let Value::Object(wanted) = wanted else {
            unreachable!()
        };
        let (_, client) = until("a browser", Duration::from_secs(30), || async {
            let mut builder = ClientBuilder::new(hyper_util_connector());
            builder
                .capabilities(wanted.clone())
                .connect(&driver)
                .await
                .ok()
        })
        .await;
        Ok(Self {
            client,
            driver,
            _child: child,
            profile,
        })
    }

    /// Runs `script` in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// A command of Chrome's own.
    pub async fn chrome(&self, command: &str, members: Value) -> Value {
        let body = json!({ "cmd": command, "params": members });
        self.extension("goog/cdp/execute", body).await
    }

    async fn extension(&self, path: &str, body: Value) -> Value {
        let id = self.client.session_id().await.unwrap().unwrap();
        let url = format!("{}/session/{id}/{path}", self.driver);
        let second = Duration::from_secs(1);
        let client = ov2_ha_recorder::outbound::client(second, 30 * second).unwrap();
        let answer = client.post(url).json(&body).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["value"].take()
    }

    /// Everything the console says that is worse than information.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.extension("se/log", json!({ "type": "browser" })).await;
        let all = log.as_array().cloned().unwrap_or_default();
        let bad = all
            .iter()
            .filter(|line| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING")));
        bad.map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The text of the first element that `selector` finds, when there is one.
    pub async fn text(&self, selector: &str) -> Option<String> {
        let script = "return document.querySelector(arguments[0])?.innerText ?? null";
        let text = self
            .client
            .execute(script, vec![selector.into()])
            .await
            .ok()?;
        text.as_str().map(str::to_owned)
    }

    /// Waits until the text at `selector` is as `wanted` says.
    pub async fn sees(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.sees_within(SOON, selector, wanted).await
    }

    /// The same where it takes longer.
    pub async fn sees_within(
        &self,
        bound: Duration,
        selector: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let what = format!("what is waited for at {selector}");
        let see = || async {
            let text = self.text(selector).await?;
            wanted(&text).then_some(text)
        };
        until(&what, bound, see).await.1
    }

    pub async fn click(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await.unwrap();
        found
            .click()
            .await
            .unwrap_or_else(|cause| panic!("cannot click {selector}: {cause}"));
    }

    /// Types into whatever has the focus.
    pub async fn types(&self, keys: &str) {
        self.client
            .active_element()
            .await
            .unwrap()
            .send_keys(keys)
            .await
            .unwrap();
    }

    pub async fn press(&self, key: Key) {
        self.types(&char::from(key).to_string()).await;
    }

    /// Presses Tab until what `selector` finds has the focus.
    pub async fn tab_to(&self, selector: &str) {
        for _ in 0..120 {
            let there = format!("return document.activeElement?.matches({selector:?}) ?? false");
            if self.run(&there).await == json!(true) {
                return;
            }
            self.press(Key::Tab).await;
        }
        panic!("{selector} is not reached by Tab");
    }

    /// The window's size, and day or night.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.chrome("Emulation.setDeviceMetricsOverride", size)
            .await;
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.chrome("Emulation.setEmulatedMedia", feature).await;
    }

    /// Keeps a picture beside the test's other artefacts; where.
    pub async fn picture(&self, name: &str) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, self.client.screenshot().await.unwrap()).unwrap();
        path
    }

    /// What the accessibility checker holds serious or worse.
    ///
    /// # Errors
    /// When the checker cannot be had.
    pub async fn barriers(&self) -> Result<Vec<String>, String> {
        let script = format!(
            "{}; const done = arguments[arguments.length - 1];
             axe.run().then((found) => done(found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))
               .map((one) => `${{one.id}}: ${{one.nodes.map((node) => node.html + ' ' + node.failureSummary).slice(0, 3).join(' | ')}}`)),
               (fault) => done([String(fault)]));",
            axe()?
        );
        let found = self.client.execute_async(&script, Vec::new()).await;
        let found = found.map_err(|cause| cause.to_string())?;
        Ok(serde_json::from_value(found).unwrap())
    }

    pub async fn close(self) {
        self.client.clone().close().await.unwrap();
    }
}

/// The connector that fantoccini wants: plain HTTP on the loopback interface.
fn hyper_util_connector() -> hyper_util::client::legacy::connect::HttpConnector {
    hyper_util::client::legacy::connect::HttpConnector::new()
}

/// The checker's source, fetched once from npm into the target folder.
fn axe() -> Result<&'static str, String> {
    static SOURCE: OnceLock<Result<String, String>> = OnceLock::new();
    let source = SOURCE.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("axe");
        let file = folder.join("package/axe.min.js");
        if !file.exists() {
            fs::create_dir_all(&folder).map_err(|cause| cause.to_string())?;
            shell(
                Command::new("npm")
                    .args(["pack", AXE, "--silent"])
                    .current_dir(&folder),
            )?;
            let packed = format!("{}.tgz", AXE.replace('@', "-"));
            shell(
                Command::new("tar")
                    .args(["xzf", &packed])
                    .current_dir(&folder),
            )?;
        }
        fs::read_to_string(file).map_err(|cause| cause.to_string())
    });
    source.as_deref().map_err(Clone::clone)
}

fn shell(command: &mut Command) -> Result<(), String> {
    let ended = command.stdin(Stdio::null()).output();
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(cause) => Err(format!("{}: {cause}", command.get_program().display())),
    }
}
