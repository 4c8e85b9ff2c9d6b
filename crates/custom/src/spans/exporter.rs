// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where spans go: the environment variables of OpenTelemetry.

use std::collections::BTreeMap;
use std::env;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use ureq::http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use ureq::http::{Uri, uri::Scheme};

/// Names and values of variables.
pub type Variables = BTreeMap<String, String>;

/// What to do instead of what is not supported.
const HINT: &str = "send http/protobuf to a collector on this host, which can forward it by grpc or https: \
                    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318";

/// `service.name` of ebpf_exporter.
const SERVICE: &str = "ebpf_exporter";

/// Headers that the exporter itself sets.
const OWN_HEADERS: [HeaderName; 6] =
    [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];

/// How spans are queued, and where they go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they go.
    pub destination: Destination,
    /// What is said about the source of all spans.
    pub resource: Resource,
    /// How long a span waits for others to be sent with it.
    pub schedule_delay: Duration,
    /// How many spans may wait.
    pub max_queue_size: usize,
    /// How many spans are sent at once.
    pub max_export_batch_size: usize,
    /// How long a batch may take, with all attempts to send it.
    pub export_timeout: Duration,
}

/// Where spans go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To a collector.
    Collector(Endpoint),
    /// To standard output, one line of JSON each.
    Console,
    /// Nowhere, and why: for the log.
    Nowhere(&'static str),
}

/// A collector.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// URL of requests.
    pub url: Uri,
    /// Headers to add. The values may be secret: `Debug` does not show them.
    pub headers: HeaderMap,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// How long a request may take.
    pub timeout: Duration,
}

/// What is said about the source of spans.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `service.name` of spans without one.
    pub service: String,
    /// Other attributes.
    pub attributes: Vec<(String, String)>,
}

impl Settings {
    /// Reads the environment of this process. Call it only if a config has spans.
    ///
    /// # Errors
    /// When a variable has a value that the exporter does not support.
    pub fn from_env() -> Result<Self> {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self::parse(&env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    /// The settings that `variables` give. A variable that is empty counts as not set.
    ///
    /// # Errors
    /// When a variable has a value that the exporter does not support. The text names the variable.
    pub fn parse(variables: &Variables) -> Result<Self> {
        let max_queue_size = count(variables, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)?;
        let batch = count(variables, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?;
        Ok(Self {
            destination: destination(variables)?,
            resource: resource(variables)?,
            schedule_delay: milliseconds(variables, "OTEL_BSP_SCHEDULE_DELAY", 0, 5000)?,
            max_queue_size,
            max_export_batch_size: batch.min(max_queue_size),
            export_timeout: milliseconds(variables, "OTEL_BSP_EXPORT_TIMEOUT", 1, 30_000)?,
        })
    }
}

/// The value of a variable, unless it is empty or blank.
fn value<'v>(variables: &'v Variables, name: &str) -> Option<&'v str> {
    variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

/// Name and value of a variable of the OTLP exporter: the one for traces wins over the general one.
fn otlp<'v>(variables: &'v Variables, name: &str) -> Option<(String, &'v str)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.into_iter().find_map(|name| value(variables, &name).map(|value| (name, value)))
}

fn destination(variables: &Variables) -> Result<Destination> {
    match value(variables, "OTEL_TRACES_EXPORTER") {
        None | Some("otlp") => {}
        Some("console") => return Ok(Destination::Console),
        Some("none") => return Ok(Destination::Nowhere("OTEL_TRACES_EXPORTER is none")),
        Some(other) => bail!("OTEL_TRACES_EXPORTER={other}: must be otlp, console or none"),
    }
    match otlp(variables, "PROTOCOL") {
        None | Some((_, "http/protobuf")) => {}
        Some((name, protocol)) => bail!("{name}={protocol}: must be http/protobuf; {HINT}"),
    }
    let gzip = match otlp(variables, "COMPRESSION") {
        None | Some((_, "none")) => false,
        Some((_, "gzip")) => true,
        Some((name, other)) => bail!("{name}={other}: must be gzip or none"),
    };
    let timeout = match otlp(variables, "TIMEOUT") {
        None => Duration::from_secs(10),
        Some((name, _)) => milliseconds(variables, &name, 1, 10_000)?,
    };
    let headers = match otlp(variables, "HEADERS") {
        None => HeaderMap::new(),
        Some((name, list)) => headers(list).with_context(|| name)?,
    };
    let Some((name, url)) = otlp(variables, "ENDPOINT") else {
        return Ok(Destination::Nowhere("no OTEL_EXPORTER_OTLP_ENDPOINT is set"));
    };
    let is_base = name == "OTEL_EXPORTER_OTLP_ENDPOINT";
    // The URL itself is not shown: it may have a password in it.
    let url = endpoint(url, is_base).with_context(|| name)?;
    Ok(Destination::Collector(Endpoint { url, headers, gzip, timeout }))
}

/// The URL of requests.
fn endpoint(text: &str, is_base: bool) -> Result<Uri> {
    let url: Uri = text.parse().with_context(|| format!("not a URL; {HINT}"))?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        bail!("must begin with http://; {HINT}");
    };
    if *scheme != Scheme::HTTP {
        bail!("{scheme}:// is not supported; {HINT}");
    }
    if authority.as_str().contains('@') {
        bail!("must have no user and password: set OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20...");
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if authority.host().is_empty() || (has_port && authority.port_u16().is_none_or(|port| port == 0)) {
        bail!("must be http://HOST:PORT with a port from 1 to 65535; {HINT}");
    }
    if !is_base {
        return Ok(url);
    }
    let path = url.path().trim_end_matches('/');
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("http://{authority}{path}/v1/traces{query}").parse()?)
}

/// The headers of a list `NAME=VALUE,...`.
fn headers(list: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (number, pair) in pairs(list).enumerate() {
        // Only the name is shown: the value may be secret.
        let (name, value) = pair.with_context(|| format!("item {} must be NAME=VALUE", number + 1))?;
        let Ok(header) = name.parse::<HeaderName>() else { bail!("{name:?} is not a name of a header") };
        if OWN_HEADERS.contains(&header) {
            bail!("{name} is set by the exporter itself: leave it out");
        }
        let Ok(mut value) = HeaderValue::from_bytes(&value) else {
            bail!("the value of {name} has characters that no header may have");
        };
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn resource(variables: &Variables) -> Result<Resource> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = BTreeMap::new();
    for (number, pair) in pairs(value(variables, name).unwrap_or_default()).enumerate() {
        let (key, value) = pair.with_context(|| format!("{name}: item {} must be NAME=VALUE", number + 1))?;
        let Ok(value) = String::from_utf8(value) else { bail!("{name}: the value of {key} is not UTF-8") };
        attributes.insert(key.to_owned(), value);
    }
    // As ebpf_exporter does: the service of a span or OTEL_SERVICE_NAME wins, and so does its default.
    attributes.remove("service.name");
    Ok(Resource {
        service: value(variables, "OTEL_SERVICE_NAME").unwrap_or(SERVICE).to_owned(),
        attributes: attributes.into_iter().collect(),
    })
}

/// The items of a list `NAME=VALUE,...`: names and percent-decoded values, `None` for a malformed one.
fn pairs(list: &str) -> impl Iterator<Item = Option<(&str, Vec<u8>)>> {
    list.split(',').filter(|item| !item.trim().is_empty()).map(|item| {
        let (name, value) = item.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name, percent_decode_str(value.trim()).collect()))
    })
}

/// A number of spans.
fn count(variables: &Variables, name: &str, default: usize) -> Result<usize> {
    let number = number(variables, name, "spans", 1..=1_000_000)?;
    Ok(number.and_then(|number| number.try_into().ok()).unwrap_or(default))
}

/// A time of at most a day.
fn milliseconds(variables: &Variables, name: &str, min: u64, default: u64) -> Result<Duration> {
    let number = number(variables, name, "milliseconds", min..=86_400_000)?;
    Ok(Duration::from_millis(number.unwrap_or(default)))
}

fn number(variables: &Variables, name: &str, of: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
    let Some(value) = value(variables, name) else { return Ok(None) };
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => bail!("{name}={value}: must be a number of {of} from {} to {}", range.start(), range.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Settings> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::parse(&variables.iter().map(owned).collect())
    }

    fn collector(variables: &[(&str, &str)]) -> Endpoint {
        match parse(variables).unwrap().destination {
            Destination::Collector(endpoint) => endpoint,
            other => panic!("{variables:?}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_opentelemetry_but_nothing_is_sent() {
        for variables in [&[][..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", " "), ("OTEL_TRACES_EXPORTER", "")]] {
            let settings = parse(variables).unwrap();
            assert!(matches!(settings.destination, Destination::Nowhere(why) if why.contains("ENDPOINT")));
            assert_eq!(settings.resource.service, "ebpf_exporter");
            assert_eq!(settings.resource.attributes, []);
            assert_eq!(settings.schedule_delay, Duration::from_secs(5));
            assert_eq!((settings.max_queue_size, settings.max_export_batch_size), (2048, 512));
            assert_eq!(settings.export_timeout, Duration::from_secs(30));
        }
        let endpoint = collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]);
        assert_eq!((endpoint.gzip, endpoint.timeout), (false, Duration::from_secs(10)));
        assert!(endpoint.headers.is_empty());
    }

    #[test]
    fn base_url_gets_a_path_and_the_one_for_traces_does_not() {
        let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let cases = [
            (base, "http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            (base, " http://127.0.0.1:4318/ ", "http://127.0.0.1:4318/v1/traces"),
            (base, "HTTP://collector/in/", "http://collector/in/v1/traces"),
            (base, "http://[::1]:4318/in?key=1", "http://[::1]:4318/in/v1/traces?key=1"),
            (traces, "http://collector:4318", "http://collector:4318/"),
            (traces, "http://collector:4318/", "http://collector:4318/"),
            (traces, "http://collector/in/?key=1", "http://collector/in/?key=1"),
        ];
        for (name, value, expected) in cases {
            let endpoint = collector(&[(name, value)]);
            assert_eq!(endpoint.url.to_string(), expected, "{name}={value}");
        }
        let endpoint = collector(&[(base, "https://unused"), (traces, "http://used:1/x")]);
        assert_eq!(endpoint.url.to_string(), "http://used:1/x");
    }

    #[test]
    fn variables_for_traces_win() {
        let general = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1, B = two%20words%2C ,a=3,"),
        ];
        let endpoint = collector(&general);
        assert!(endpoint.gzip);
        assert_eq!(endpoint.timeout, Duration::from_millis(250));
        assert_eq!(endpoint.headers.len(), 2);
        assert_eq!(
            (&endpoint.headers["a"], &endpoint.headers["b"]),
            (&HeaderValue::from_static("3"), &HeaderValue::from_static("two words,"))
        );
        assert!(!format!("{endpoint:?}").contains("two words"));
        let mut all = general.to_vec();
        all.extend([
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "c=x=y"),
        ]);
        let endpoint = collector(&all);
        assert!(!endpoint.gzip);
        assert_eq!(endpoint.timeout, Duration::from_millis(7));
        assert_eq!(endpoint.headers.len(), 1);
        assert_eq!(endpoint.headers["c"], "x=y");
    }

    #[test]
    fn what_is_not_sent_by_otlp_needs_no_valid_otlp() {
        let wrong = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let none = parse(&[wrong, ("OTEL_TRACES_EXPORTER", "none")]).unwrap();
        assert!(matches!(none.destination, Destination::Nowhere("OTEL_TRACES_EXPORTER is none")));
        let console = parse(&[wrong, ("OTEL_TRACES_EXPORTER", "console")]).unwrap();
        assert!(matches!(console.destination, Destination::Console));
    }

    #[test]
    fn resource_has_all_attributes_but_the_service() {
        let list = " b=2%203 ,a=1,service.name=ignored,empty=,a=%C3%A9";
        let resource = parse(&[("OTEL_RESOURCE_ATTRIBUTES", list)]).unwrap().resource;
        assert_eq!(resource.service, "ebpf_exporter");
        let expected = [("a", "\u{e9}"), ("b", "2 3"), ("empty", "")];
        assert_eq!(resource.attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let named = parse(&[("OTEL_SERVICE_NAME", "shop"), ("OTEL_RESOURCE_ATTRIBUTES", list)]).unwrap();
        assert_eq!(named.resource.service, "shop");
    }

    #[test]
    fn batches_are_never_larger_than_the_queue() {
        let settings = parse(&[
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "1"),
        ]);
        let settings = settings.unwrap();
        assert_eq!((settings.max_queue_size, settings.max_export_batch_size), (10, 10));
        assert_eq!(settings.schedule_delay, Duration::ZERO);
        assert_eq!(settings.export_timeout, Duration::from_millis(1));
        let settings = parse(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")]).unwrap();
        assert_eq!(settings.max_export_batch_size, 3);
    }

    #[test]
    fn wrong_values_name_their_variable_and_what_to_do() {
        let hint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318";
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let headers = "OTEL_EXPORTER_OTLP_HEADERS";
        let attributes = "OTEL_RESOURCE_ATTRIBUTES";
        let cases = [
            ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp, console or none"),
            ("OTEL_TRACES_EXPORTER", "otlp,console", "must be otlp, console or none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", hint),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", hint),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "must be gzip or none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "a number of milliseconds from 1 to 86400000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "a number of milliseconds from 1 to 86400000"),
            (endpoint, "https://collector:4318", hint),
            (endpoint, "grpc://collector:4317", hint),
            (endpoint, "unix:///run/collector", hint),
            (endpoint, "127.0.0.1:4318", hint),
            (endpoint, "localhost:4318", hint),
            (endpoint, "/v1/traces", hint),
            (endpoint, "http://", hint),
            (endpoint, "http://:4318", hint),
            (endpoint, "http://h:", hint),
            (endpoint, "http://h:0", hint),
            (endpoint, "http://h:99999", hint),
            (endpoint, "http://h:x", hint),
            (endpoint, "http://a b", hint),
            (endpoint, "http://me:secret@h", "must have no user and password"),
            (headers, "a", "item 1 must be NAME=VALUE"),
            (headers, "a=1,=secret", "item 2 must be NAME=VALUE"),
            (headers, "a b=secret", "\"a b\" is not a name of a header"),
            (headers, "a=secret%0a", "the value of a has characters that no header may have"),
            (headers, "Content-Type=secret", "Content-Type is set by the exporter itself"),
            (attributes, "a=b,c", "item 2 must be NAME=VALUE"),
            (attributes, "a=%ff", "the value of a is not UTF-8"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1", "a number of milliseconds from 0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "a number of spans from 1 to 1000000"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many", "a number of spans from 1 to 1000000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "99999999999999999999", "a number of milliseconds from 1"),
        ];
        for (name, value, expected) in cases {
            let error = format!("{:#}", parse(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name) && error.contains(expected), "{name}={value}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
