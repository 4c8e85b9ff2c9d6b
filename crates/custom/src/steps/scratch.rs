// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up files for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

/// A folder that is removed in the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder. `name` is the test's own.
    pub fn new(name: &str) -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/scratch");
        let folder = target.join(format!("steps-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("target is writable");
        Self(folder.canonicalize().expect("just made"))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and the folders that it is in.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().expect("in the folder")).expect("writable");
        fs::write(&file, text).expect("writable");
        file
    }

    /// Makes a folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.0.join(name);
        fs::create_dir_all(&folder).expect("writable");
        folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
