// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unit as the package installs it: with its user, its capabilities and what it hides.

use std::fs;
use std::path::{Path, PathBuf};

use live::cgroup::{self, Group};
use live::exporter::until;
use live::sh;

use crate::folder::{bytes, trigger};
use crate::groups::inside;

/// Where the unit looks for configs.
const FOLDER: &str = "/etc/ebpf-exporters/custom";

/// Port of the unit.
const PORT: u16 = 9435;

/// Configs in the unit's folder. They are removed when this is dropped, and the unit is stopped.
struct Installed(Vec<PathBuf>);

impl Installed {
    fn new(configs: &[&str]) -> Self {
        let files = configs.iter().flat_map(|name| [format!("{name}.yaml"), format!("{name}.bpf.o")]);
        let write = |file: String| {
            let path = Path::new(FOLDER).join(&file);
            fs::write(&path, bytes(&file)).unwrap();
            path
        };
        Self(files.map(write).collect())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        sh("systemctl stop ebpf-custom-exporter");
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A property of the unit.
fn shown(property: &str) -> String {
    sh(&format!("systemctl show -P {property} ebpf-custom-exporter"))
}

// The records are sent by bpf_loop().
#[live::test(kprobes, cgroup2, own_machine, kernel_with("bpf_loop"))]
fn the_unit_runs_what_is_in_its_folder() {
    sh("systemctl start ebpf-custom-exporter");
    assert_eq!((shown("ConditionResult"), shown("ActiveState")), ("no".to_owned(), "inactive".to_owned()));
    // Addresses and names of kernel symbols; records; names of control groups.
    let configs = ["kaddr", "perf", "cgroup_map"];
    let installed = Installed::new(&configs);
    sh("systemctl start ebpf-custom-exporter || { journalctl -u ebpf-custom-exporter; exit 1; }");
    assert_eq!(shown("ActiveState"), "active");
    trigger(97, 5);
    until(PORT, "97 records", |scrape| scrape.get("ebpf_exporter_perf_all_total", &[]) == Some(97.0));
    let _group = Group::new("custom-test-4");
    let path = cgroup::root().unwrap().join("custom-test-4").display().to_string();
    until(PORT, "the new group is in the map", |scrape| {
        inside("custom-test-4", || trigger(0, 0));
        scrape.get("ebpf_exporter_cgroup_map_total", &[("cgroup", &path)]).is_some()
    });
    until(PORT, "everything works", |scrape| {
        assert!(scrape.get("ebpf_exporter_kaddr_total", &[("symbol", "vfs_read")]).is_some());
        let errors = "ebpf_exporter_decoder_errors_total";
        assert!(configs.iter().all(|config| scrape.get(errors, &[("config", config)]) == Some(0.0)));
        let attached = scrape.labels("ebpf_exporter_ebpf_program_attached");
        let is = |program: &str| {
            scrape.get("ebpf_exporter_ebpf_program_attached", &[("program", program)]) == Some(1.0)
        };
        attached.len() >= configs.len() && attached.iter().all(|labels| is(&labels["program"]))
    });
    drop(installed);
    assert_eq!((shown("Result"), shown("ActiveState")), ("success".to_owned(), "inactive".to_owned()));
}
