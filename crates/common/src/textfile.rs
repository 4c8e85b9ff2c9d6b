// SPDX-License-Identifier: MIT OR Apache-2.0
//! The exposition as a file for node_exporter's textfile collector.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Replaces `path` by `text`, so that a reader sees the old file or the new one, whole.
///
/// # Errors
/// When the folder cannot be written; the old file is as it was then.
pub fn write(path: &Path, text: &str) -> Result<()> {
    // Hidden and of another ending: the collector does not look at it.
    let name = path.file_name().context("the path has no file name")?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_new(&temporary, text)
        .with_context(|| format!("failed to write {}", temporary.display()))
        .and_then(|()| {
            fs::rename(&temporary, path).with_context(|| format!("failed to rename to {}", path.display()))
        });
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
    fn a_missing_folder_is_named() {
        let error = write(Path::new("/nonexistent/x.prom"), "").expect_err("no such folder");
        assert!(format!("{error:#}").contains("/nonexistent/"), "{error:#}");
    }
}
