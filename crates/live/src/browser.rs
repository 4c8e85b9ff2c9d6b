// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page in a browser without a window: Chromium, by its DevTools protocol.
//!
//! Messages are JSON, each ended by a NUL, through a pipe. Chromium reads them from descriptor 3 and
//! answers on 4.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::machine::{Folder, comes_true};

/// The browser.
pub const PROGRAM: &str = "chromium";

/// Makes the pipe of standard input and output, and starts the browser.
const START: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1";

/// Time limit for a condition of a page.
const LIMIT: Duration = Duration::from_secs(60);

/// Time limit for it to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// A browser with one page. It is ended, and its files are removed, when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    number: u64,
    session: Option<String>,
    complaints: Vec<String>,
    _profile: Folder,
}

impl Browser {
    /// Starts the browser with an empty page of this width and height, in pixels. Certificates of an
    /// unknown authority are good.
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    #[track_caller]
    pub fn start(width: u32, height: u32) -> Self {
        let profile = Folder::new();
        let mut command = Command::new("sh");
        command.args(["-c", START, PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-dev-shm-usage", "--ignore-certificate-errors", "--remote-debugging-pipe"]);
        // Of no use to a page of ours, and they ask for hosts elsewhere.
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.path("profile")));
        command.env("HOME", profile.path("")).env("TMPDIR", profile.path("")).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh starts");
        let requests = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let complaints = Vec::new();
        let mut this =
            Self { child, requests, answers, number: 0, session: None, complaints, _profile: profile };
        let target = this.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached =
            this.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        this.session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this.resize(width, height);
        this
    }

    /// Changes the size of the page.
    ///
    /// # Panics
    /// When the browser refuses.
    #[track_caller]
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Prefers the dark, or the light.
    ///
    /// # Panics
    /// When the browser refuses.
    #[track_caller]
    pub fn prefer(&mut self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", feature);
    }

    /// Opens an address.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn open(&mut self, address: &str) {
        let opened = self.call("Page.navigate", json!({"url": address}));
        assert!(opened["errorText"].is_null(), "{address}: {opened}");
        self.until(
            "the page is loaded",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        );
    }

    /// The value of an expression in the page; of a promise, what it becomes.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let request = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", request);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// The value of an expression, as text.
    ///
    /// # Panics
    /// When it throws, or is no text.
    #[track_caller]
    pub fn text(&mut self, expression: &str) -> String {
        let value = self.evaluate(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression}: {value}")).to_owned()
    }

    /// Waits until an expression in the page is true.
    ///
    /// # Panics
    /// When it is not within a minute.
    #[track_caller]
    pub fn until(&mut self, what: &str, expression: &str) {
        let met = comes_true(LIMIT, || self.evaluate(&format!("!!({expression})")) == true);
        if !met {
            let shown = self.evaluate("document.body.innerText");
            panic!("{what}: not within {LIMIT:?}: {shown}; complaints: {:?}", self.complaints);
        }
    }

    /// Moves the mouse to a place in the page.
    ///
    /// # Panics
    /// When the browser refuses.
    #[track_caller]
    pub fn point(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": x, "y": y}));
    }

    /// Presses a key, such as `Tab`, `Enter` or `ArrowLeft`.
    ///
    /// # Panics
    /// When the browser refuses.
    #[track_caller]
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            _ => panic!("no code for the key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Writes what is seen to a file, a PNG.
    ///
    /// # Panics
    /// When the folder cannot be written.
    #[track_caller]
    pub fn picture(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("text")).expect("base64");
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    /// What the page did wrong so far: exceptions, and what the browser logged as an error, such as a
    /// breach of the page's policy. An answer that does not come is one too.
    pub fn complaints(&mut self) -> Vec<String> {
        // The answer comes after all events before it.
        self.evaluate("0");
        std::mem::take(&mut self.complaints)
    }

    /// Sends a request and returns the result. Events in between are looked at.
    #[track_caller]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut request = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let sent = self.requests.write_all(format!("{request}\0").as_bytes());
        sent.unwrap_or_else(|error| {
            panic!("{PROGRAM} does not run: {error}; scripts/packages test installs it")
        });
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes).expect("readable");
            assert_eq!(bytes.pop(), Some(0), "{PROGRAM} ended; scripts/packages test installs it");
            let mut message: Value = serde_json::from_slice(&bytes).expect("JSON");
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            let is_error = message["params"]["entry"]["level"] == "error";
            if message["method"] == "Runtime.exceptionThrown" || is_error {
                self.complaints.push(message["params"].to_string());
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already. Asked to, it waits for its other processes, which write to its folder.
        let _ = self.requests.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        comes_true(ENDING, || !matches!(self.child.try_wait(), Ok(None)));
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
