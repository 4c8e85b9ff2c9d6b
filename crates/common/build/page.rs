// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes one compressed file of the landing page: of `src/serve/page/page.html` and the style and scripts that it
//! names.
//!
//! Comments, indentation and empty lines are left out. Nothing else is changed, so no parser is needed. A line of a
//! script is one or none: what goes over several lines must not depend on its indentation.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};
use zopfli::{Format, Options};

/// Maximum size, in bytes: of the page, and of it as the binaries contain it.
const MOST: usize = 60_000;
const MOST_COMPRESSED: usize = 16_000;

const STYLE: [&str; 2] = ["<link rel=\"stylesheet\" href=\"", "\">"];
const SCRIPT: [&str; 2] = ["<script src=\"", "\"></script>"];

/// Writes `OUT_DIR/page.z`, the page in zlib's format, and `OUT_DIR/policy.txt`, the Content-Security-Policy that
/// allows its style and script and nothing else.
///
/// # Errors
/// When a file is missing, or the page is too large.
pub fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=src/serve/page");
    println!("cargo::rerun-if-changed=build");
    let folder = Path::new("src/serve/page");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: run by cargo only")?);
    let (mut page, mut style, mut script) = (String::new(), String::new(), String::new());
    for line in without_comments(&read(folder, "page.html")?, "<!--", "-->")?.lines() {
        if let Some(name) = between(line, STYLE) {
            style += &without_comments(&read(folder, name)?, "/*", "*/")?;
            page += &format!("<style>{style}</style>\n");
        } else if let Some(name) = between(line, SCRIPT) {
            script += &without_line_comments(name, &read(folder, name)?)?;
        } else {
            if line == "</body>" {
                page += &format!("<script>{script}</script>\n");
            }
            page += &format!("{line}\n");
        }
    }
    let mut compressed = Vec::new();
    zopfli::compress(Options::default(), Format::Zlib, page.as_bytes(), &mut compressed)?;
    if page.len() > MOST || compressed.len() > MOST_COMPRESSED {
        bail!(
            "the landing page has {} bytes, {} compressed; {MOST} and {MOST_COMPRESSED} may be",
            page.len(),
            compressed.len()
        );
    }
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(&script),
        hash(&style)
    );
    fs::write(out.join("page.z"), compressed)?;
    fs::write(out.join("policy.txt"), policy)?;
    Ok(())
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}

fn between<'l>(line: &'l str, [before, after]: [&str; 2]) -> Option<&'l str> {
    line.strip_prefix(before)?.strip_suffix(after)
}

/// The lines of a file without comments, which begin and end with a line.
fn without_comments(text: &str, begin: &str, end: &str) -> Result<String> {
    let mut kept = String::new();
    let mut within = false;
    for line in text.lines().map(str::trim) {
        within |= line.starts_with(begin);
        if !within && !line.is_empty() {
            kept += &format!("{line}\n");
        }
        within &= !line.ends_with(end);
    }
    if within {
        bail!("a comment does not end: {text}");
    }
    Ok(kept)
}

/// The lines of a script without those that are comments.
fn without_line_comments(name: &str, text: &str) -> Result<String> {
    let mut kept = String::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.starts_with("/*") || line.matches('`').count() % 2 == 1 {
            bail!("{name}:{}: comments are of lines, and a text ends in the line in which it begins", at + 1);
        }
        if !line.is_empty() && !line.starts_with("//") {
            kept += &format!("{line}\n");
        }
    }
    Ok(kept)
}
