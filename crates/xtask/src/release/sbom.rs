// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of all that is linked into the binaries, in the format of CycloneDX 1.5, for tools that look for known
//! vulnerabilities.

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::release::notices::{LIBRARIES, linked};
use crate::workspace::output;

/// The list for the binaries of `packages`.
///
/// # Errors
/// When cargo or dpkg fails.
pub fn of(packages: &[String], revision: &str) -> Result<String> {
    let mut components = Vec::new();
    for one in linked(packages)? {
        // Cargo's old way to write OR.
        let licence = one.licence.replace('/', " OR ");
        let purl = format!("pkg:cargo/{}@{}", one.name, one.version);
        components.push(component(&one.name, &one.version, &purl, &[json!({ "expression": licence })]));
    }
    for (library, package) in LIBRARIES {
        let version =
            output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]))?;
        let purl = format!("pkg:deb/debian/{package}@{version}");
        components.push(component(library, &version, &purl, &[]));
    }
    let subject = json!({
        "type": "application",
        "name": "ebpf-exporters",
        "version": env!("CARGO_PKG_VERSION"),
        "properties": [{ "name": "revision", "value": revision }],
    });
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": subject },
        "components": components,
    });
    Ok(format!("{list:#}\n"))
}

fn component(name: &str, version: &str, purl: &str, licences: &[Value]) -> Value {
    let mut component =
        json!({ "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl });
    if !licences.is_empty() {
        component["licenses"] = licences.into();
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_once() {
        let packages = ["ebpf-exporters".to_owned(), "ebpf-exporters-web".to_owned()];
        let text = of(&packages, "x").expect("a list");
        assert_eq!(text, of(&packages, "x").expect("the same"));
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let refs =
            list["components"].as_array().expect("some").iter().filter_map(|one| one["bom-ref"].as_str());
        let mut refs: Vec<&str> = refs.collect();
        let all = refs.len();
        assert!(refs.iter().any(|one| one.starts_with("pkg:cargo/rustls@")), "{text}");
        assert!(refs.iter().any(|one| one.starts_with("pkg:deb/debian/libc6-dev@")), "{text}");
        assert!(!refs.iter().any(|one| one.starts_with("pkg:cargo/tempfile@")), "{text}");
        refs.sort_unstable();
        refs.dedup();
        assert_eq!(refs.len(), all);
    }
}
