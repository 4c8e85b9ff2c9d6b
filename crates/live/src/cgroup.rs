// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cgroups for tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::machine::comes_true;

/// Mount point of the cgroup2 file system.
pub fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields[2] == "cgroup2").map(|fields| fields[1].into())
}

/// A cgroup below the root. When this is dropped, its processes are killed and it is removed.
#[derive(Debug)]
pub struct Group {
    name: String,
    path: PathBuf,
}

impl Group {
    /// Creates it.
    ///
    /// # Panics
    /// When cgroup2 is not mounted, or there is a cgroup with this name.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let path = root().expect("cgroup2 is mounted").join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: format!("/{name}"), path }
    }

    /// Its path below the root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// A command for a shell line that runs in the cgroup from its first instruction.
    pub fn shell(&self, line: &str) -> Command {
        let procs = self.path.join("cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-ec", "echo $$ > \"$1\"; shift; exec sh -ec \"$1\"", "sh"]).arg(procs).arg(line);
        command
    }

    /// Ids of the processes in it.
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that is killed leaves its cgroup a moment later.
        comes_true(Duration::from_secs(10), || {
            for pid in
                self.processes().into_iter().filter_map(|pid| rustix::process::Pid::from_raw(pid as i32))
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            fs::remove_dir(&self.path).is_ok()
        });
    }
}
