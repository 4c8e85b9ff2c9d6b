// SPDX-License-Identifier: MIT OR Apache-2.0
//! The exposition as a file for node_exporter's textfile collector.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Replaces the file at `path` with `text` atomically: a reader sees the old file or the new one.
///
/// # Errors
/// When the folder cannot be written; the old file is then unchanged.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().context("the path has no file name")?.to_string_lossy();
    // A hidden name with another ending, which the collector ignores. The name is random and the file
    // must be new, because others may be able to write to the folder and could plant a link.
    let temporary = path.with_file_name(format!(".{name}.{:016x}", RandomState::new().hash_one(0)));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let file = file.with_context(|| format!("failed to create {}", temporary.display()))?;
    let written =
        fill(file, text).with_context(|| format!("failed to write {}", temporary.display())).and_then(|()| {
            fs::rename(&temporary, path).with_context(|| format!("failed to rename to {}", path.display()))
        });
    if written.is_err() {
        // There is no other place to report an error here.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    // Independent of the umask.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_but_the_file_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.prom");
        write(&path, "a 1\n").expect("written");
        write(&path, "a 2\n").expect("replaced");
        assert_eq!(fs::read_to_string(&path).expect("there"), "a 2\n");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_link_that_another_planted_is_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, victim) = (folder.path().join("x.prom"), folder.path().join("victim"));
        fs::write(&victim, "precious").expect("written");
        // An attacker can know the process id.
        symlink(&victim, folder.path().join(format!(".x.prom.{}", std::process::id()))).expect("planted");
        symlink(&victim, &path).expect("planted");
        write(&path, "a 1\n").expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("there"), "precious");
        assert_eq!(fs::read_to_string(&path).expect("there"), "a 1\n");
        assert!(fs::symlink_metadata(&path).expect("there").is_file());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write(Path::new("/nonexistent/x.prom"), "").expect_err("no such folder");
        assert!(format!("{error:#}").contains("/nonexistent/"), "{error:#}");
    }
}
