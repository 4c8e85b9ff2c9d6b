// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel modules that are loaded and unloaded while an exporter runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to check whether the module was loaded or unloaded.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A loaded module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    folder: PathBuf,
    /// Inode of its sysfs directory: changes when the module is loaded again.
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
        is_live(&folder).then_some(Self { folder, inode })
    }

    /// Whether the same module is still loaded.
    pub fn is_loaded(&self) -> bool {
        fs::metadata(&self.folder).is_ok_and(|metadata| metadata.ino() == self.inode) && is_live(&self.folder)
    }
}

/// Whether the module with this sysfs directory can be used. A module that is built in has neither
/// `initstate` nor the directories below. A module that is being unloaded loses `initstate` before
/// these directories (kernel/module/sysfs.c: `mod_sysfs_teardown`).
fn is_live(folder: &Path) -> bool {
    match fs::read_to_string(folder.join("initstate")) {
        Ok(state) => state.trim() == "live",
        Err(_) => !["holders", "sections", "notes"].iter().any(|name| folder.join(name).exists()),
    }
}

#[cfg(test)]
mod tests {
    use std::env;

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
        for last in ["holders", "sections"] {
            fs::create_dir(folder.join(last)).expect("a folder");
        }
        fs::remove_file(folder.join("initstate")).expect("removed");
        assert!(!module.is_loaded());
        assert_eq!(Module::below(&root, "zfs"), None);
        fs::remove_dir_all(&root).expect("removed");
        assert!(!module.is_loaded());
        assert_eq!(Module::below(&root, "zfs"), None);
    }
}
