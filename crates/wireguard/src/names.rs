// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configured names of peers: a TOML file of public keys and names, or the comments of a
//! wg-quick(8) file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::netlink::Key;

/// Names by public key, read again when their file changes.
#[derive(Debug, Default)]
pub struct Names {
    path: Option<PathBuf>,
    changed: Option<SystemTime>,
    names: BTreeMap<Key, String>,
}

impl Names {
    /// Reads the names from the file at `path`; none without a path.
    ///
    /// # Errors
    /// When it cannot be read, or is neither TOML nor for wg-quick.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let mut names = Self { path: path.map(ToOwned::to_owned), ..Self::default() };
        names.read()?;
        Ok(names)
    }

    fn read(&mut self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let about = || format!("--wireguard.peer-names {}", path.display());
        let changed = fs::metadata(path).and_then(|data| data.modified()).with_context(about)?;
        if self.changed != Some(changed) {
            // A file for wg-quick has a private key in it.
            let text = Zeroizing::new(fs::read_to_string(path).with_context(about)?);
            self.names = parse(&text).with_context(about)?;
            self.changed = Some(changed);
        }
        Ok(())
    }

    /// Reads the file again if it has changed. If it is invalid, keeps the old names.
    pub fn refresh(&mut self) {
        if let Err(error) = self.read() {
            log::warn!("{error:#}: keeping the old peer names");
        }
    }

    /// The name of a peer; empty if it has none.
    pub fn of(&self, key: &Key) -> &str {
        self.names.get(key).map_or("", String::as_str)
    }
}

/// A public key as text, as `wg` writes it.
pub fn encode(key: &Key) -> String {
    STANDARD.encode(key)
}

fn decode(text: &str) -> Result<Key> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    // The text is not repeated: it may be a private key in the wrong place.
    bytes.context("not a public key (44 characters of base64)")
}

fn parse(text: &str) -> Result<BTreeMap<Key, String>> {
    let is_section = |line: &str| {
        let line = line.trim();
        line.eq_ignore_ascii_case("[peer]") || line.eq_ignore_ascii_case("[interface]")
    };
    if text.lines().any(is_section) { of_wg_quick(text) } else { of_toml(text) }
}

fn of_toml(text: &str) -> Result<BTreeMap<Key, String>> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        // Without the lines that it would quote.
        Err(error) => bail!("{}", toml::de::Error::message(&error)),
    };
    let mut names = BTreeMap::new();
    for (number, (key, name)) in table.iter().enumerate() {
        let at = || format!("entry {}", number + 1);
        let key = decode(key).with_context(at)?;
        let name = name.as_str().with_context(at).context("a name must be quoted text")?;
        names.insert(key, name.to_owned());
    }
    Ok(names)
}

/// `# friendly_name = NAME` and `PublicKey = KEY` in a section `[Peer]`.
fn of_wg_quick(text: &str) -> Result<BTreeMap<Key, String>> {
    let mut names = BTreeMap::new();
    let (mut key, mut name) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            (key, name) = (None, None);
        }
        let comment = line.strip_prefix('#');
        let Some((word, value)) = comment.unwrap_or(line).split_once('=') else { continue };
        let word = word.trim();
        if comment.is_some() && word == "friendly_name" {
            name = Some(value.trim().to_owned());
        } else if comment.is_none() && word.eq_ignore_ascii_case("PublicKey") {
            key = Some(decode(value.trim()).with_context(|| format!("line {}", number + 1))?);
        }
        if let (Some(key), Some(name)) = (key, &name) {
            names.insert(key, name.clone());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

    #[test]
    fn toml_has_keys_and_names() {
        let names = parse(&format!("# people\n\"{A}\" = \"alice's phone\"\n\"{B}\" = \"bob\"\n"));
        let names = names.expect("names");
        assert_eq!(names.get(&[1; 32]).map(String::as_str), Some("alice's phone"));
        assert_eq!(names.get(&[2; 32]).map(String::as_str), Some("bob"));
        assert_eq!(encode(&[1; 32]), A);
        for bad in ["\"short\" = \"x\"".to_owned(), format!("\"{A}\" = 7"), "what is this".to_owned()] {
            let error = parse(&bad).expect_err(&bad);
            assert!(!format!("{error:#}").is_empty());
        }
        assert!(parse("").expect("none").is_empty());
    }

    #[test]
    fn wg_quick_has_them_in_comments() {
        let text = format!(
            "[Interface]\nPrivateKey = {B}\n\n[Peer]\n# friendly_name=Alice = the first\nPublicKey = {A}\n\
             AllowedIPs = 10.0.0.2/32\n\n[Peer]\nPublicKey = {B}\n"
        );
        let names = parse(&text).expect("names");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), [([1; 32], "Alice = the first".to_owned())]);
        let after = format!("[Peer]\nPublicKey={B}\n#friendly_name = Bob\n");
        assert_eq!(parse(&after).expect("names").get(&[2; 32]).map(String::as_str), Some("Bob"));
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let error = parse(&format!("[Peer]\nPublicKey = {A}{A}\n")).expect_err("too long");
        assert!(!format!("{error:#}").contains(A), "{error:#}");
        assert!(format!("{error:#}").starts_with("line 2"), "{error:#}");
        let error = parse(&format!("private = {A}\n")).expect_err("no TOML");
        assert!(!format!("{error:#}").contains(A), "{error:#}");
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let file = std::env::temp_dir().join(format!("names-{}.toml", std::process::id()));
        fs::write(&file, format!("\"{A}\" = \"alice\"\n")).expect("written");
        let mut names = Names::new(Some(&file)).expect("names");
        assert_eq!(names.of(&[1; 32]), "alice");
        let later = |text: String, seconds: u64| {
            fs::write(&file, text).expect("written");
            let time = SystemTime::now() + std::time::Duration::from_secs(seconds);
            fs::File::options()
                .write(true)
                .open(&file)
                .and_then(|file| file.set_modified(time))
                .expect("set");
        };
        later(format!("\"{A}\" = \"alice\"\n\"{B}\" = \"bob\"\n"), 10);
        names.refresh();
        assert_eq!(names.of(&[2; 32]), "bob");
        later("no TOML".to_owned(), 20);
        names.refresh();
        assert_eq!(names.of(&[2; 32]), "bob");
        fs::remove_file(&file).expect("removed");
        assert!(Names::new(Some(&file)).is_err());
    }
}
