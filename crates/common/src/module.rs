// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel modules that come and go while an exporter runs.
//!
//! A process lives in one of two states: it waits for its module, or it is attached to
//! it. It changes between them by executing itself anew, so that neither state has
//! remains of the other.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;

/// How often is looked whether a module came or went.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A loaded module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    folder: PathBuf,
    /// Inode of its folder in sysfs: another one after it was loaded again.
    inode: u64,
}

impl Module {
    /// The module, if it is loaded and ready.
    pub fn find(name: &str) -> Option<Self> {
        Self::below(Path::new("/sys/module"), name)
    }

    fn below(root: &Path, name: &str) -> Option<Self> {
        let folder = root.join(name);
        let inode = fs::metadata(&folder).ok()?.ino();
        match fs::read_to_string(folder.join("initstate")) {
            Ok(state) => (state.trim() == "live").then_some(Self { folder, inode }),
            // What is built in has none.
            Err(_) => Some(Self { folder, inode }),
        }
    }

    /// Whether it is still the same.
    pub fn is_loaded(&self) -> bool {
        fs::metadata(&self.folder).is_ok_and(|metadata| metadata.ino() == self.inode)
            && fs::read_to_string(self.folder.join("initstate")).map_or(true, |state| state.trim() == "live")
    }
}

/// Whether the program would have its privileges again if it executed itself.
pub fn can_start_over() -> bool {
    geteuid().is_root()
}

/// Executes this program anew, with the same arguments. Returns only if that fails.
pub fn start_over() -> io::Error {
    match env::current_exe() {
        Ok(program) => Command::new(program).args(env::args_os().skip(1)).exec(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_loaded_again_is_another() {
        let root = env::temp_dir().join(format!("module-{}", std::process::id()));
        let folder = root.join("zfs");
        fs::create_dir_all(&folder).expect("a folder");
        let state = |text: &str| fs::write(folder.join("initstate"), text).expect("written");
        state("coming\n");
        assert_eq!(Module::below(&root, "zfs"), None);
        state("live\n");
        let module = Module::below(&root, "zfs").expect("it is loaded");
        assert!(module.is_loaded());
        state("going\n");
        assert!(!module.is_loaded());
        fs::remove_dir_all(&root).expect("removed");
        assert!(!module.is_loaded());
        assert_eq!(Module::below(&root, "zfs"), None);
    }
}
