// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access control and TLS: `--web.config.file`.
//!
//! A separate program without privileges, `ebpf-exporters-web`, reads that file and terminates TLS, so
//! exporters contain no TLS code. It passes connections on over a Unix socket, on which the exporter
//! accepts no other process. The exporter itself checks passwords.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use bcrypt::HashParts;
use rustix::net::sockopt::socket_peercred;
use socket2::Socket;

use crate::serve::http::{Reply, Request, Source};

/// The TLS program.
const PROGRAM: &str = "ebpf-exporters-web";

/// Maximum number of connections over all sockets. Each takes one thread in that program and one here;
/// units allow 128.
const CONNECTIONS: usize = 48;

/// Maximum number of passwords that wait for verification. Only one is verified at a time, because
/// bcrypt is slow by design.
const WAITING: usize = 16;

/// Where clients come from, and what they may do.
#[derive(Debug)]
pub struct Door {
    /// Where connections come from.
    pub source: Source,
    /// The address to which clients connect; `None` if there is none.
    pub address: Option<SocketAddr>,
    /// The access rules.
    pub guard: Arc<Guard>,
    /// The TLS program, if this socket uses TLS.
    pub front: Option<Front>,
}

/// Opens `listeners` with the access rules of the file `config`; without a file, for everybody.
///
/// # Errors
/// When the file, or a file that it names, is not valid, or the TLS program is missing.
pub fn open(config: Option<&Path>, listeners: Vec<TcpListener>) -> Result<Vec<Door>> {
    let limit = CONNECTIONS / listeners.len().max(1);
    let one = |listener: TcpListener| {
        let address = listener.local_addr().context("failed to get the address of the socket")?;
        match config {
            Some(config) => guarded(config, listener, address, limit.max(1)),
            None => Ok(Door {
                source: listener.into(),
                address: Some(address),
                guard: Arc::default(),
                front: None,
            }),
        }
    };
    listeners.into_iter().map(one).collect()
}

/// The door to an exporter that a supervisor started. Only the supervisor comes through it.
pub fn handed(channel: BorrowedFd<'static>) -> Door {
    Door { source: Source::Handed(channel), address: None, guard: Arc::default(), front: None }
}

fn guarded(config: &Path, listener: TcpListener, address: SocketAddr, limit: usize) -> Result<Door> {
    // The name cannot be guessed, so no other process can be bound to it.
    let name = format!("{PROGRAM}/{:016x}", RandomState::new().hash_one(0));
    let inner = net::SocketAddr::from_abstract_name(&name).and_then(|name| UnixListener::bind_addr(&name));
    let inner = inner.context("failed to open a Unix socket")?;
    let plain = listener.try_clone().context("failed to copy the listening socket")?;
    let program = program()?;
    let mut child = Command::new(&program)
        .arg(config)
        .args([&name, &limit.to_string()])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", program.display()))?;
    let lines = child.stdout.take().map(BufReader::new);
    // From here on the program is stopped when this value is dropped.
    let mut front = Front { child, lines, ending: Arc::default() };
    let mut guard = Guard::default();
    loop {
        let mut line = String::new();
        let lines = front.lines.as_mut().context("no standard output")?;
        lines.read_line(&mut line).with_context(|| format!("failed to read from {PROGRAM}"))?;
        match Line::parse(&line) {
            Line::User(name, hash) => guard.add_user(name, hash)?,
            Line::Header(name, value) => guard.headers.push((name.to_owned(), value.to_owned())),
            Line::Limit(interval, burst) => guard.limit = Some(Mutex::new(Bucket::new(interval, burst))),
            Line::Plain => {
                let (source, address) = (plain.into(), Some(address));
                return Ok(Door { source, address, guard: guard.into(), front: None });
            }
            Line::Tls => break,
            Line::Error(why) => bail!("--web.config.file: {why}"),
            Line::Log(level, text) => log::log!(level, "{text}"),
            Line::Ended => bail!("--web.config.file: {PROGRAM} exited without an error message"),
        }
    }
    let source = Source::Socket(OwnedFd::from(inner).into());
    Ok(Door { source, address: Some(address), guard: guard.into(), front: Some(front) })
}

/// Path of the TLS program: next to this program, or where packages install it.
fn program() -> Result<PathBuf> {
    let here = env::current_exe().context("failed to find the path of this program")?;
    let folder = here.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(PROGRAM), folder.join("../lib/ebpf-exporters").join(PROGRAM)];
    let found = places.iter().find(|place| place.exists());
    found.cloned().with_context(|| {
        format!(
            "--web.config.file needs the program {PROGRAM}, which is neither {} nor {}; it comes with the \
             package",
            places[0].display(),
            places[1].display()
        )
    })
}

/// A line of the TLS program's output.
#[derive(Debug, PartialEq, Eq)]
enum Line<'l> {
    User(&'l str, &'l str),
    Header(&'l str, &'l str),
    Limit(u64, u32),
    Plain,
    Tls,
    Error(&'l str),
    Log(log::Level, &'l str),
    Ended,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Self {
        let (what, text) = line.trim_end_matches('\n').split_once(' ').unwrap_or((line, ""));
        let (name, value) = text.split_once('\t').unwrap_or((text, ""));
        match what {
            "" => Self::Ended,
            "user" => Self::User(name, value),
            "header" => Self::Header(name, value),
            "limit" => Self::Limit(name.parse().unwrap_or(u64::MAX), value.parse().unwrap_or(0)),
            "plain" => Self::Plain,
            "tls" => Self::Tls,
            "error" => Self::Error(text),
            "debug" => Self::Log(log::Level::Debug, text),
            "warn" => Self::Log(log::Level::Warn, text),
            _ => Self::Log(log::Level::Warn, line),
        }
    }
}

/// The running TLS program. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Front {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
    ending: Arc<AtomicBool>,
}

impl Door {
    /// A check for new connections: with TLS, only those of the TLS program are admitted.
    pub fn admits(&self) -> impl Fn(&Socket) -> bool + use<> {
        let front = self.front.as_ref().map(|front| front.child.id());
        let is_at = |stream: &Socket, pid: u32| {
            socket_peercred(stream).is_ok_and(|peer| peer.pid.as_raw_nonzero().get().unsigned_abs() == pid)
        };
        move |stream| front.is_none_or(|pid| is_at(stream, pid))
    }
}

impl Front {
    /// Logs the program's output, in a thread with the privileges of the calling one. If the program ends,
    /// no client can connect any more, so this process ends too, and its service manager restarts both.
    ///
    /// # Errors
    /// When the thread cannot be started, or already was.
    pub fn watch(&mut self) -> Result<()> {
        let mut lines = self.lines.take().context("it is already watched")?;
        let ending = Arc::clone(&self.ending);
        let watch = move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                match Line::parse(&line) {
                    Line::Log(level, text) => log::log!(level, "{text}"),
                    Line::Error(why) => log::error!("{PROGRAM}: {why}"),
                    _ => {}
                }
                line.clear();
            }
            if !ending.load(Ordering::Acquire) {
                log::error!("{PROGRAM} exited: the exporter can no longer be scraped");
                std::process::exit(1);
            }
        };
        let thread = thread::Builder::new().name("web".to_owned()).stack_size(64 << 10);
        thread
            .spawn(watch)
            .with_context(|| format!("failed to start the thread that reads from {PROGRAM}"))?;
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Access rules for clients, and headers to add to responses.
#[derive(Debug, Default)]
pub struct Guard {
    users: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    limit: Option<Mutex<Bucket>>,
    waiting: AtomicUsize,
    hashing: Mutex<()>,
    /// Hashes of credentials that were verified before: bcrypt is slow by design.
    known: Mutex<BTreeSet<u64>>,
    seed: RandomState,
}

impl Guard {
    fn add_user(&mut self, name: &str, hash: &str) -> Result<()> {
        if HashParts::from_str(hash).is_err() {
            bail!("--web.config.file: basic_auth_users: the password of user {name} is not a bcrypt hash");
        }
        self.users.insert(name.to_owned(), hash.to_owned());
        Ok(())
    }

    /// The answer of `site`, or a refusal if the client may not ask.
    pub fn answer(&self, request: &Request, site: impl FnOnce(&Request) -> Reply) -> Reply {
        let mut reply = match self.refuse(request) {
            None => site(request),
            Some(reply) => reply,
        };
        for (name, value) in &self.headers {
            // What the page says of itself is stricter: it names what is in it.
            if !reply.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
                reply.say(name.clone(), value.clone());
            }
        }
        reply
    }

    fn refuse(&self, request: &Request) -> Option<Reply> {
        if let Some(limit) = &self.limit
            && !limit.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now())
        {
            return Some(Reply::text(429, "too many requests; see rate_limit"));
        }
        if self.users.is_empty() {
            return None;
        }
        let said = request.header("Authorization");
        let hash = said.map(|said| self.seed.hash_one(said));
        let is_known = |hash: &u64| self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(hash);
        if hash.as_ref().is_some_and(is_known) {
            return None;
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Some(Reply::text(503, "too many passwords to verify at the same time"));
        }
        let one = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_right = said.is_some_and(|said| self.is_right(said));
        drop(one);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if is_right {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(hash);
            return None;
        }
        let mut reply = Reply::text(401, "user and password required");
        reply.say("WWW-Authenticate", "Basic");
        Some(reply)
    }

    fn is_right(&self, said: &str) -> bool {
        let decoded = said.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
        let decoded = decoded.and_then(|(_, text)| BASE64_STANDARD.decode(text.trim()).ok());
        let Some(decoded) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) else { return false };
        let Some((user, password)) = decoded.split_once(':') else { return false };
        // An unknown user takes as long as a known one, so that names cannot be found out.
        let expected = self.users.get(user);
        let Some(hash) = expected.or_else(|| self.users.values().next()) else { return false };
        bcrypt::verify(password, hash).unwrap_or(false) && expected.is_some()
    }
}

/// A limit on the rate of requests: each interval allows one more, up to a maximum.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: u32,
    left: u32,
    since: Instant,
}

impl Bucket {
    fn new(interval: u64, burst: u32) -> Self {
        Self { interval: Duration::from_nanos(interval.max(1)), burst, left: burst, since: Instant::now() }
    }

    fn allows(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.since).as_nanos() / self.interval.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more >= self.burst - self.left {
            (self.left, self.since) = (self.burst, now);
        } else {
            self.left += more;
            self.since += self.interval * more;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(guard: &Guard, authorization: &str) -> Reply {
        let head = format!("GET /metrics HTTP/1.1\r\nAuthorization: {authorization}");
        let request = Request::parse(&head).unwrap_or_else(|_| panic!("{head}"));
        guard.answer(&request, |_| Reply::text(200, "numbers"))
    }

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn only_who_knows_the_password_is_answered() {
        let mut guard = Guard::default();
        assert_eq!(ask(&guard, "").status, 200);
        let hash = bcrypt::hash_with_salt("sesame: open", 4, [7; 16]).expect("hashed");
        guard.add_user("alice", &hash.format_for_version(bcrypt::Version::TwoY)).expect("a hash");
        for _ in 0..2 {
            assert_eq!(ask(&guard, &basic("alice", "sesame: open")).status, 200);
            for wrong in
                [basic("alice", "sesame"), basic("bob", "sesame: open"), "Basic !".into(), "Bearer x".into()]
            {
                let reply = ask(&guard, &wrong);
                assert_eq!(reply.status, 401, "{wrong}");
                assert!(reply.headers.contains(&("WWW-Authenticate".into(), "Basic".into())));
            }
        }
        assert_eq!(guard.known.lock().expect("whole").len(), 1);
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert!(Guard::default().add_user("alice", "sesame").is_err());
    }

    #[test]
    fn passwords_are_not_looked_at_without_end() {
        let mut guard = Guard::default();
        let hash = bcrypt::hash_with_salt("sesame", 4, [7; 16]).expect("hashed").to_string();
        guard.add_user("alice", &hash).expect("a hash");
        guard.waiting = WAITING.into();
        assert_eq!(ask(&guard, &basic("alice", "sesame")).status, 503);
        guard.waiting = (WAITING - 1).into();
        assert_eq!(ask(&guard, &basic("alice", "sesame")).status, 200);
        guard.waiting = WAITING.into();
        // This password was verified before.
        assert_eq!(ask(&guard, &basic("alice", "sesame")).status, 200);
    }

    #[test]
    fn a_bucket_fills_up_and_no_further() {
        let mut bucket = Bucket::new(1_000_000_000, 3);
        let start = bucket.since;
        let mut at = |ms: u64| bucket.allows(start + Duration::from_millis(ms));
        assert_eq!([0, 1, 2, 3].map(&mut at), [true, true, true, false]);
        assert_eq!([999, 1000, 1001, 1999, 2000].map(&mut at), [false, true, false, false, true]);
        assert_eq!([60_000, 60_000, 60_000, 60_000].map(&mut at), [true, true, true, false]);
        let guard = Guard { limit: Some(Mutex::new(Bucket::new(u64::MAX, 1))), ..Guard::default() };
        assert_eq!([ask(&guard, "").status, ask(&guard, "").status], [200, 429]);
    }

    #[test]
    fn headers_are_those_of_the_file() {
        let mut guard = Guard::default();
        guard.headers.push(("X-Frame-Options".to_owned(), "deny".to_owned()));
        assert!(ask(&guard, "").headers.contains(&("X-Frame-Options".into(), "deny".into())));
    }

    #[test]
    fn lines_are_what_they_say() {
        assert_eq!(Line::parse("user a b\t$2y$\n"), Line::User("a b", "$2y$"));
        assert_eq!(Line::parse("tls \n"), Line::Tls);
        assert_eq!(Line::parse("limit 5\t7\n"), Line::Limit(5, 7));
        assert_eq!(Line::parse("warn it is late\n"), Line::Log(log::Level::Warn, "it is late"));
        assert_eq!(Line::parse(""), Line::Ended);
    }
}
