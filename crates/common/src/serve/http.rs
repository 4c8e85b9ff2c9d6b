// SPDX-License-Identifier: MIT OR Apache-2.0
//! An HTTP server with limits.
//!
//! tiny_http's `Server` accepts connections itself and sets no timeouts: a client that sends
//! nothing holds a thread for ever, and their number is not limited. This module accepts
//! connections itself, with limits. tiny_http only parses methods and headers, and prints
//! responses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tiny_http::{HTTPVersion, Header, Method, Response};

use crate::serve::{handed, ports};
use crate::words::counted;

/// Limits on clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections. One more closes the oldest.
    pub connections: usize,
    /// Maximum size of a request's head, in bytes.
    pub head_bytes: usize,
    /// Time limit for receiving a whole request.
    pub receive: Duration,
    /// Time limit for sending a whole response.
    pub send: Duration,
    /// Time a connection may be idle between two requests.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head_bytes: 8 << 10,
            receive: Duration::from_secs(5),
            send: Duration::from_secs(10),
            idle: Duration::from_secs(120),
        }
    }
}

/// A request, without body.
#[derive(Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path, without query.
    pub path: String,
    headers: Vec<Header>,
    version: HTTPVersion,
}

impl Request {
    /// Parses a head: request line and headers, without the empty line.
    ///
    /// # Errors
    /// When it is malformed; the error has the status and the reason to answer.
    pub fn parse(head: &str) -> Result<Self, Bad> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Bad::Status(400, "not a request line"));
        };
        let version = match version {
            "HTTP/1.1" => HTTPVersion(1, 1),
            "HTTP/1.0" => HTTPVersion(1, 0),
            _ => return Err(Bad::Status(505, "only HTTP/1.0 and HTTP/1.1 are supported")),
        };
        let method = method.parse().map_err(|()| Bad::Status(400, "not a method"))?;
        let headers: Vec<Header> = lines
            .map(str::parse)
            .collect::<Result<_, ()>>()
            .map_err(|()| Bad::Status(400, "not a header"))?;
        if !target.starts_with('/') {
            return Err(Bad::Status(400, "not a path"));
        }
        let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
        Ok(Self { method, path, headers, version })
    }

    /// Whether to close the connection after the answer: the client asks for it, speaks HTTP/1.0, or
    /// sends a body, which is not read.
    fn is_last(&self) -> bool {
        let close = self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let body = self.header("Content-Length").is_some_and(|length| length != "0");
        close || body || self.header("Transfer-Encoding").is_some() || self.version < (1, 1)
    }

    /// The value of a header. The case of its name does not matter.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
    }
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A response of one line of plain text.
    pub fn text(status: u16, line: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
    }

    /// A response with a body of this content type.
    pub fn new(status: u16, content_type: impl Into<Cow<'static, str>>, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("Content-Type".into(), content_type.into())], body }
    }

    /// Adds a header.
    pub fn say(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) {
        self.headers.push((name.into(), value.into()));
    }
}

/// Prefix of an address that is a socket which systemd passes.
pub const PASSED: &str = "fd://";

/// The socket `number` of those that systemd passes, counted from 0.
fn passed(number: &str) -> Result<TcpListener> {
    let at: usize =
        number.parse().with_context(|| format!("{PASSED}{number}: not the number of a socket"))?;
    let mut sockets = sd_notify::listen_fds().context("failed to look for sockets that systemd passes")?;
    let there = counted(sockets.len(), "socket");
    let fd = sockets.nth(at).with_context(|| {
        format!(
            "failed to listen on {PASSED}{number}: systemd passes {there}; add a .socket unit, or set \
             another --web.listen-address"
        )
    })?;
    // SAFETY: systemd passes the descriptor to this process, and nothing else takes it: addresses are
    // bound once.
    Ok(unsafe { TcpListener::from_raw_fd(fd) })
}

/// Opens a listening socket for each address `HOST:PORT`. Without HOST, one socket listens on all
/// IPv4 and IPv6 addresses. [`PASSED`] with a number is a socket that systemd passes.
///
/// # Errors
/// When an address is malformed or in use; the error names it.
pub fn bind(addresses: &[String]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        if let Some(number) = address.strip_prefix(PASSED) {
            if addresses[..at].contains(address) {
                bail!("--web.listen-address={address} is given twice");
            }
            listeners.push(passed(number)?);
            continue;
        }
        let found: Vec<SocketAddr> = match address.strip_prefix(':') {
            Some(port) => {
                let port: u16 = port.parse().with_context(|| format!("{address}: not a port"))?;
                vec![([0u16; 8], port).into(), ([0u8; 4], port).into()]
            }
            None => address.to_socket_addrs().with_context(|| format!("{address}: not HOST:PORT"))?.collect(),
        };
        let is_any = address.starts_with(':');
        let mut result = Err((io::ErrorKind::AddrNotAvailable.into(), None));
        for found in found {
            result = listen(found).map_err(|error| (error, Some(found)));
            match &result {
                // The kernel has no IPv6, or it is disabled.
                Err((error, _)) if is_any && error.raw_os_error() == Some(EAFNOSUPPORT) => {}
                Err(_) if !is_any => {}
                _ => break,
            }
        }
        match result {
            Ok(listener) => listeners.push(listener),
            Err((error, Some(wanted))) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "failed to listen on {address}: the port is taken by {}; stop it, set another address with \
                 --web.listen-address, or move the ports of all exporters with {}",
                ports::by_whom(wanted),
                ports::BASE
            ),
            Err((error, _)) => return Err(error).with_context(|| format!("failed to listen on {address}")),
        }
    }
    Ok(listeners)
}

const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An unspecified address then accepts IPv4 too; other addresses are not affected.
        socket.set_only_v6(false)?;
    }
    // Old connections in TIME_WAIT must not block a restart.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Where connections come from.
#[derive(Debug)]
pub enum Source {
    /// A listening socket.
    Socket(Socket),
    /// A supervisor hands them over: see [`handed`].
    Handed(BorrowedFd<'static>),
}

impl From<TcpListener> for Source {
    fn from(listener: TcpListener) -> Self {
        Self::Socket(listener.into())
    }
}

impl Source {
    fn next(&self) -> io::Result<Socket> {
        match self {
            Self::Socket(socket) => socket.accept().map(|(stream, _)| stream),
            Self::Handed(channel) => handed::take(channel),
        }
    }
}

/// Answers requests on connections of `source` with `handler`, in its own threads, while the process lives.
/// Connections that `admit` rejects are closed. The process ends when its supervisor is gone.
///
/// # Errors
/// When the accepting thread cannot be started.
pub fn serve<H>(
    source: Source,
    limits: Limits,
    admit: impl Fn(&Socket) -> bool + Send + 'static,
    handler: H,
) -> Result<()>
where
    H: Fn(&Request) -> Reply + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    let connections = Arc::new(Connections::default());
    let accept = move || {
        loop {
            match source.next() {
                Ok(stream) if !admit(&stream) => {
                    log::debug!("rejected a connection from another process")
                }
                Ok(stream) => {
                    let (handler, connections) = (Arc::clone(&handler), Arc::clone(&connections));
                    if let Err(error) = connection(stream, limits, handler, connections) {
                        log::warn!("failed to set up a connection: {error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    log::error!("the supervisor is gone");
                    std::process::exit(1);
                }
                // Out of descriptors or memory. This passes when connections end.
                Err(error) => {
                    log::warn!("failed to accept a connection: {error}");
                    thread::park_timeout(Duration::from_millis(100));
                }
            }
        }
    };
    thread_of("accept", accept).context("failed to start the thread that accepts connections")?;
    Ok(())
}

fn thread_of(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(f)
}

/// Open connections, in the order of their last requests.
#[derive(Default)]
struct Connections {
    open: Mutex<BTreeMap<u64, Socket>>,
    next: AtomicU64,
}

/// Removes a connection from the list when its thread ends, also by a panic.
struct Slot {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    /// Adds `stream` to the list. If there are too many, closes the oldest: a scrape takes milliseconds,
    /// so the oldest connection is idle, or its client neither sends nor reads.
    fn enter(self: Arc<Self>, stream: &Socket, limit: usize) -> io::Result<Slot> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= limit
            && let Some((_, oldest)) = open.pop_first()
        {
            // It may just have ended by itself.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        open.insert(number, stream.try_clone()?);
        drop(open);
        Ok(Slot { connections: self, number })
    }
}

impl Slot {
    /// Makes the connection the newest, unless it was closed to make room.
    fn renew(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = open.remove(&self.number) {
            self.number = self.connections.next.fetch_add(1, Ordering::Relaxed);
            open.insert(self.number, stream);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

fn connection<H>(
    stream: Socket,
    limits: Limits,
    handler: Arc<H>,
    connections: Arc<Connections>,
) -> io::Result<()>
where
    H: Fn(&Request) -> Reply + Send + Sync + 'static,
{
    // An answer in several writes would wait for the client to acknowledge the first: 40 ms. A Unix socket
    // knows no such delay, and refuses the option.
    let _ = stream.set_tcp_nodelay(true);
    let mut slot = connections.enter(&stream, limits.connections)?;
    thread_of("http", move || {
        converse(&stream, limits, &mut slot, &*handler);
    })?;
    Ok(())
}

/// Serves the requests of a connection. An error ends only this connection.
fn converse(stream: &Socket, limits: Limits, slot: &mut Slot, handler: &dyn Fn(&Request) -> Reply) {
    let mut input = Vec::new();
    loop {
        let request = match receive(stream, limits, &mut input) {
            Ok(request) => request,
            Err(Bad::Silent) => break,
            Err(Bad::Status(status, why)) => {
                let reply = Reply::text(status, why);
                // The client may be gone, or be the cause of the error.
                let _ = send(stream, limits, reply, &HTTPVersion(1, 1), false);
                break;
            }
        };
        slot.renew();
        let head_only = request.method == Method::Head;
        if let Err(error) = send(stream, limits, handler(&request), &request.version, head_only) {
            log::debug!("failed to send a response: {error}");
            break;
        }
        if request.is_last() {
            break;
        }
    }
    // Closing a socket with unread input makes the kernel reset the connection, which can destroy the
    // response before the client reads it.
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = Timed { stream, deadline: Instant::now() + Duration::from_millis(500) };
    let _ = io::copy(&mut (&mut rest).take(64 << 10), &mut io::sink());
}

/// Why no request was received.
#[derive(Clone, Copy, Debug)]
pub enum Bad {
    /// The client closed the connection, or was silent for too long: there is no answer.
    Silent,
    /// The answer has this status and this reason.
    Status(u16, &'static str),
}

/// Receives the next request. `input` holds bytes that were read after the previous one.
fn receive(stream: &Socket, limits: Limits, input: &mut Vec<u8>) -> Result<Request, Bad> {
    let mut timed = Timed { stream, deadline: Instant::now() + limits.idle };
    let mut began = false;
    let mut chunk = [0u8; 1024];
    let end = loop {
        if !began && !input.is_empty() {
            began = true;
            timed.deadline = Instant::now() + limits.receive;
        }
        if let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if input.len() > limits.head_bytes {
            return Err(Bad::Status(431, "the request header is too large"));
        }
        match timed.read(&mut chunk) {
            Ok(0) => return Err(Bad::Silent),
            Ok(n) => input.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if began && is_timeout(&error) => {
                return Err(Bad::Status(408, "the request did not arrive in time"));
            }
            Err(_) => return Err(Bad::Silent),
        }
    };
    let request = str::from_utf8(&input[..end])
        .map_err(|_| Bad::Status(400, "the request header is not UTF-8"))
        .and_then(Request::parse);
    input.drain(..end + 4);
    request
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn send(
    stream: &Socket,
    limits: Limits,
    reply: Reply,
    version: &HTTPVersion,
    head_only: bool,
) -> io::Result<()> {
    let length = reply.body.len();
    let mut headers: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        vec![("Connection".into(), "close".into()), ("Server".into(), "ebpf-exporters".into())];
    headers.extend(reply.headers);
    let header =
        |(name, value): &(Cow<'_, str>, Cow<'_, str>)| Header::from_bytes(name.as_bytes(), value.as_bytes());
    let headers = headers.iter().filter_map(|both| header(both).ok()).collect();
    let response = Response::new(reply.status.into(), headers, reply.body.as_slice(), Some(length), None)
        .with_chunked_threshold(usize::MAX);
    let timed = Timed { stream, deadline: Instant::now() + limits.send };
    let mut writer = io::BufWriter::with_capacity(16 << 10, timed);
    response.raw_print(&mut writer, version.clone(), &[], head_only, None)?;
    writer.flush()
}

/// A stream with one deadline for all reads and writes together.
struct Timed<'s> {
    stream: &'s Socket,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stream = self.stream;
        stream.flush()
    }
}

/// The quality value of the first item in an `Accept`-like header that `matches`; `None` if no item
/// does.
///
/// ```
/// use common::serve::http::quality;
/// assert_eq!(quality("a;q=0.5, b", |item| item == "a"), Some(0.5));
/// assert_eq!(quality("a;q=0.5, b", |item| item == "b"), Some(1.0));
/// assert_eq!(quality("", |_| true), None);
/// ```
pub fn quality(header: &str, matches: impl Fn(&str) -> bool) -> Option<f64> {
    quality_with(header, &[], matches)
}

/// As [`quality`], of the first item that also has all these parameters. An item may have others.
///
/// ```
/// use common::serve::http::quality_with;
/// let header = "a;version=1, a; Version=\"2\";q=0.5";
/// assert_eq!(quality_with(header, &[("version", "2")], |item| item == "a"), Some(0.5));
/// assert_eq!(quality_with(header, &[("version", "3")], |item| item == "a"), None);
/// ```
pub fn quality_with(
    header: &str,
    parameters: &[(&str, &str)],
    matches: impl Fn(&str) -> bool,
) -> Option<f64> {
    header.split(',').find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        parts.next().filter(|name| !name.is_empty() && matches(name))?;
        let given: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |name: &str| {
            let parameter = given.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
            parameter.map(|(_, value)| value.trim_matches('"'))
        };
        let fits = parameters.iter().all(|(name, wanted)| value(name) == Some(wanted));
        fits.then(|| value("q").and_then(|q| q.parse().ok()).unwrap_or(1.0))
    })
}
