// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporters of a supervisor, `ebpf-exporters run`: it answers for all of them at one address.

use std::thread;

use anyhow::Result;
use headlines::{LIST, Listed, RUNNING, list_from_json};

use crate::address::{Address, Subject};
use crate::config::Config;
use crate::http::Client;

/// The subjects, with the exporters of a supervisor in place of the supervisor.
///
/// # Errors
/// When a file of the settings is of no use.
pub fn expand(subjects: Vec<Subject>, config: &Config) -> Result<Vec<Subject>> {
    let client = &Client::new(config)?;
    let expanded = thread::scope(|scope| {
        let threads: Vec<_> = subjects
            .into_iter()
            .map(|subject| scope.spawn(move || exporters(client, &subject).unwrap_or_else(|| vec![subject])))
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    Ok(expanded)
}

/// The exporters of a supervisor; `None` if it is not one.
fn exporters(client: &Client, subject: &Subject) -> Option<Vec<Subject>> {
    let address = subject.at.as_ref().ok()?;
    let answer = client.get(address, LIST).ok().filter(|answer| answer.status == 200)?;
    Some(subjects_of(&list_from_json(&answer.body).ok()?, address))
}

/// What is shown of the exporters of the supervisor at an address.
pub fn subjects_of(list: &[Listed], address: &Address) -> Vec<Subject> {
    let subject = |one: &Listed| Subject {
        name: one.exporter.clone(),
        at: match one.state.as_str() {
            RUNNING => Ok(Address { below: format!("{LIST}/{}", one.exporter), ..address.clone() }),
            // The line says that it is not running.
            "unsupported" => Err(one.says.clone()),
            state => Err(format!("{state}: {}", one.says)),
        },
        wanted: true,
        note: String::new(),
    };
    list.iter().map(subject).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_supervisor_stands_for_its_exporters() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let n = client.read(&mut request).expect("a request");
            let list = r#"[{"exporter":"dns","state":"unsupported","says":"no hook"},{"exporter":"tcp","state":"running"}]"#;
            write!(client, "HTTP/1.0 200 OK\r\n\r\n{list}").expect("sent");
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let address = Address::new("127.0.0.1".to_owned(), port, None);
        let subject =
            Subject { name: "?".to_owned(), at: Ok(address.clone()), wanted: false, note: String::new() };
        let nobody = Subject { at: Err("gone".to_owned()), ..subject.clone() };
        let found = expand(vec![nobody, subject], &Config::default()).expect("expanded");
        assert!(server.join().expect("served").starts_with("GET /exporters HTTP/1.0\r\n"));
        let shown: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.at.clone())).collect();
        let below = "/exporters/tcp".to_owned();
        assert_eq!(
            shown,
            [
                ("?", Err("gone".to_owned())),
                ("dns", Err("no hook".to_owned())),
                ("tcp", Ok(Address { below, ..address })),
            ]
        );
    }
}
