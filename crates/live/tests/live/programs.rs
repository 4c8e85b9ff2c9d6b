// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every program of every exporter, with every setting of its flags, even if it is not used here. If
//! the kernel has its hook, the verifier must accept it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::process::{Command, Output};
use std::sync::OnceLock;

use live::{Folder, has_module, needs, sh, tell};

/// The exporters in `PATH` that contain their programs, each with its `--help`. The others have a folder for
/// those of users.
fn exporters() -> &'static BTreeMap<String, String> {
    static FOUND: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = env::var_os("PATH").unwrap();
        let entries = env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let exporters: BTreeMap<String, String> = names
            .filter(|name| name.starts_with("ebpf-") && name.ends_with("-exporter"))
            .map(|name| (sh(&format!("{name} --help")), name))
            .filter(|(help, _)| !help.contains("--config.dir"))
            .map(|(help, name)| (name, help))
            .collect();
        assert!(exporters.len() >= 15, "{:?}", exporters.keys());
        exporters
    })
}

/// The possible values of a flag in its help: listed in a line, or each with a description.
fn possible_values(flag: &str) -> Vec<&str> {
    if let Some((_, rest)) = flag.split_once("[possible values: ") {
        return rest.split(']').next().unwrap().split(", ").collect();
    }
    let Some((_, rest)) = flag.split_once("Possible values:") else { return Vec::new() };
    rest.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split(':').next()).collect()
}

/// Every setting in `--help` of the exporter's own flags that have a few possible values. Their names
/// begin with the exporter's name.
fn settings(exporter: &str, help: &str) -> Vec<Vec<String>> {
    let own = format!("--{}.", exporter.trim_start_matches("ebpf-").trim_end_matches("-exporter"));
    let mut all = vec![Vec::new()];
    for flag in help.split("\n      ").filter(|flag| flag.starts_with(&own)) {
        let name = flag.split_whitespace().next().unwrap();
        let values = possible_values(flag);
        let choices: Vec<Option<String>> = if !values.is_empty() {
            values.iter().map(|value| Some(format!("{name}={value}"))).collect()
        } else if flag.contains('<') {
            continue;
        } else {
            vec![None, Some(name.to_owned())]
        };
        let with = |choice: &Option<String>| {
            let with = |setting: &Vec<String>| setting.iter().chain(choice).cloned().collect();
            all.iter().map(with).collect::<Vec<_>>()
        };
        all = choices.iter().flat_map(with).collect();
    }
    all
}

/// Runs a shell line that ends in `"$@"`, which stands for `command`.
fn run(line: &str, command: &[&str]) -> Output {
    Command::new("unshare").args(["-m", "sh", "-ec", line, "sh"]).args(command).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the kernel lacks the exporter's module. A module that can be loaded is not lacking.
fn lacks_module(said: &str) -> bool {
    let Some((_, rest)) = said.split_once("cannot run: kernel module ") else { return false };
    let module = rest.split(' ').next().unwrap();
    if !has_module(module) {
        return true;
    }
    sh(&format!("modprobe {module}"));
    false
}

/// Whether a line reports a program that should load and does not. Kernels that cannot attach
/// programs to functions may refuse these before the verifier checks them.
fn is_fault(line: &str) -> bool {
    let by_verifier = line.contains("verifier: ");
    let at_function = line.contains(" at fentry/") || line.contains(" at fexit/");
    line.contains(": refused: ") && (by_verifier || !at_function || needs::has_fentry())
}

/// Loads all programs of all exporters with a shell line that ends in the exporter's command. Returns
/// the programs that the kernel accepted.
fn loaded(line: &str, flags: &[&str]) -> BTreeSet<String> {
    let mut loaded = BTreeSet::new();
    let mut refused = Vec::new();
    for (exporter, help) in exporters() {
        for setting in settings(exporter, help) {
            let own = setting.iter().map(String::as_str);
            let words = [exporter.as_str(), "--check", "--check.programs"];
            let words: Vec<&str> = words.into_iter().chain(flags.iter().copied()).chain(own).collect();
            let mut output = run(line, &words);
            if lacks_module(&text(&output.stderr)) {
                tell(&format!("{exporter} is not tried: its module is not there"));
                break;
            }
            if text(&output.stderr).contains("cannot run: kernel module ") {
                output = run(line, &words);
            }
            let said = text(&output.stdout);
            let mine = said.lines().filter_map(|line| line.strip_suffix(": loads"));
            loaded.extend(mine.filter_map(|line| Some(format!("{exporter} {}", line.split(' ').next()?))));
            let names: Vec<&str> = said.lines().filter(|line| is_fault(line)).collect();
            if said.is_empty() || !names.is_empty() {
                // Again with the verifier's log, which takes long to write.
                let log = run(line, &[words.as_slice(), &["--log.level", "debug"]].concat());
                let log = text(&output.stderr) + &text(&log.stderr);
                let ends =
                    log.lines().filter(|line| line.contains("PROG LOAD LOG") || line.contains("level=error"));
                let ends = ends.map(|line| {
                    let lines: Vec<&str> = line.split("\\n").collect();
                    lines[lines.len().saturating_sub(12)..].join("\n")
                });
                let ends: Vec<String> = ends.collect();
                refused.push(format!("{exporter} {setting:?}: {names:#?}\n{}", ends.join("\n")));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    loaded
}

#[live::test]
fn every_program_that_has_its_hook_loads() {
    let loaded = loaded("exec \"$@\"", &[]);
    // Both twins load, although an exporter uses only one.
    for program in ["switch_btf", "switch_raw"] {
        assert!(loaded.contains(&format!("ebpf-schedlat-exporter {program}")), "{loaded:?}");
    }
}

/// Hides the kernel's BTF. The user then passes a BTF file.
const HIDE: &str = "mount -t tmpfs none /sys/kernel/btf; exec \"$@\"";

#[live::test]
fn bare_twins_do_where_the_kernel_has_no_btf() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    let flags = ["--btf.path", btf.as_str()];
    let loaded = loaded(HIDE, &flags);
    let mut runs = BTreeSet::new();
    for exporter in exporters().keys() {
        let mut command = vec![exporter.as_str(), "--check"];
        command.extend(flags);
        let output = run(HIDE, &command);
        let said = text(&output.stderr);
        if lacks_module(&said) {
            continue;
        }
        // Without the second, the offsets of members of ZFS's structs are not known.
        let lacks = ["does not exist here", "failed to read BTF from"].iter().any(|why| said.contains(why));
        assert!(output.status.success() || lacks && !said.contains("verifier"), "{exporter}: {said}");
        if output.status.success() {
            runs.insert(exporter.as_str());
        }
    }
    tell(&format!("without BTF of the kernel's own run {runs:?}"));
    for exporter in ["ebpf-schedlat-exporter", "ebpf-process-exporter"] {
        assert!(runs.contains(exporter), "{runs:?}");
        assert!(loaded.iter().any(|program| program.starts_with(exporter)), "{loaded:?}");
    }
}
