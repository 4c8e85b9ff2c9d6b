// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the exporter with 1,000 control groups that come and go for an hour: 240 scrapes, and between two of them
//! each twentieth group is removed and another one made, as in 15 s of a busy host of containers. That hour is done as
//! fast as it goes. Fails when the exporter takes more memory than its limit, or does not follow. The exporter is the one in `PATH`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a panic ends a bench as well")]

use std::collections::VecDeque;
use std::fs;
use std::process::Command;
use std::time::Instant;

use live::cgroup::Group;
use live::exporter::Exporter;
use live::exposition::Exposition;

const GROUPS: usize = 1000;
const SCRAPES: usize = 240;
const REPLACED: usize = GROUPS / 20;
/// At least so many are shown. Each group has a histogram of 28.
const SERIES: usize = 10_000;
const MEMORY_BYTES: u64 = 8_000_000;

/// Goes through groups, waits for a CPU in each, and ends in the group in which it began. Groups are its arguments.
const VISITOR: &str = r#"
    my ($home, @groups) = @ARGV;
    for my $group (@groups, $home) {
        open my $procs, '>', "$group/cgroup.procs" or die "$group: $!";
        syswrite $procs, $$ or die "$group: $!";
        select undef, undef, undef, 0.0001 for 1 .. 3;
    }
"#;

fn main() {
    let exporter = Exporter::start("schedlat", &["--schedlat.cgroup", "--max-series=2048"]);
    // Reading the kernel's BTF takes 10 MB for a moment: from here on the most is that of scrapes.
    fs::write(format!("/proc/{}/clear_refs", exporter.pid()), "5").unwrap();
    let began = Instant::now();
    let mut made = 0;
    let mut groups = VecDeque::new();
    add(&mut groups, GROUPS, &mut made);
    let mut after_a_minute = 0;
    let mut last = exporter.scrape();
    for scrape in 1..=SCRAPES {
        groups.drain(..REPLACED);
        add(&mut groups, REPLACED, &mut made);
        last = exporter.scrape();
        if scrape == SCRAPES / 60 {
            after_a_minute = memory(&exporter, "VmRSS:");
        }
    }
    let shown = of_groups(&last);
    let (now, most) = (memory(&exporter, "VmRSS:"), memory(&exporter, "VmHWM:"));
    println!(
        "schedlat with {shown} series of {GROUPS} groups, {made} in all: {:.1} MB after a minute, {:.1} MB after an \
         hour, at most {:.1} MB; done in {:.0?}",
        after_a_minute as f64 / 1e6,
        now as f64 / 1e6,
        most as f64 / 1e6,
        began.elapsed()
    );
    assert!(shown >= SERIES, "{shown} series, {SERIES} are wanted");
    assert!(most <= MEMORY_BYTES, "more memory than {MEMORY_BYTES} bytes");
}

/// Makes groups, and lets a process wait in each.
fn add(groups: &mut VecDeque<Group>, number: usize, made: &mut usize) {
    let new: Vec<Group> = (0..number).map(|n| Group::new(&format!("churn-{}", *made + n))).collect();
    *made += number;
    let home = live::cgroup::root().expect("cgroup2 is mounted");
    let paths = new.iter().map(|group| home.join(group.name().trim_start_matches('/')));
    let mut visitor = Command::new("perl");
    visitor.args(["-e", VISITOR]).arg(&home).args(paths);
    assert!(visitor.status().unwrap().success());
    groups.extend(new);
}

/// Series of groups that were made here.
fn of_groups(page: &Exposition) -> usize {
    let family = "ebpf_sched_cgroup_runqueue_latency_microseconds";
    ["bucket", "sum", "count"]
        .iter()
        .map(|end| {
            let name = format!("{family}_{end}");
            page.samples(&name).filter(|(labels, _)| labels["cgroup"].starts_with("/churn-")).count()
        })
        .sum()
}

/// A line of the exporter's status, in bytes.
fn memory(exporter: &Exporter, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
