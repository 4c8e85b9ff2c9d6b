// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is told of cgroups that come and go.

use std::path::Path;
use std::sync::Arc;

use crate::steps::groups::Cgroups;

/// Is told of each cgroup once when it came, and once when it went. An id is not used again.
pub trait Observer: Send {
    /// There is a new cgroup. It may be gone already.
    fn came(&mut self, id: u64, path: &Path);

    /// A cgroup is gone.
    fn went(&mut self, id: u64, path: &Path);
}

/// Names for decoders.
impl Observer for Arc<Cgroups> {
    fn came(&mut self, id: u64, path: &Path) {
        self.saw(id, path);
    }

    fn went(&mut self, id: u64, _: &Path) {
        self.lost(id);
    }
}
