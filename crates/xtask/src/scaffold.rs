// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask new NAME PORT`: writes all files of a new exporter, to be filled in.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::assemble::{self, pages};
use crate::lint::tidy;
use crate::workspace::{cargo, exporters, root, run};

/// Writes the files. The new exporter works: it counts the runs of one tracepoint.
///
/// # Errors
/// When the name or the port is not allowed, or one of the files exists.
pub fn new(name: &str, port: u16) -> Result<()> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !well_formed {
        bail!("{name:?}: a name has lower-case letters, digits and dashes, and starts with a letter");
    }
    if let Some(path) = tidy::pieces_of(name, true).iter().find(|path| root().join(path).exists()) {
        bail!("{path} exists");
    }
    // What is the same in all exporters is copied from the first one.
    let model = exporters()?.into_iter().find(|exporter| exporter.built_in);
    let model = model.context("no exporter to learn from")?;
    let read = |path: String| fs::read_to_string(root().join(&path)).with_context(|| format!("no {path}"));
    let unit = read(format!("systemd/{}.service", model.binary))?;
    let description =
        unit.lines().find(|line| line.starts_with("Description=")).unwrap_or_default().to_owned();
    let snake = name.replace('-', "_");
    let pascal: String = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    let fill = |template: &str| {
        template
            .replace("@NAME@", name)
            .replace("@SNAKE@", &snake)
            .replace("@PASCAL@", &pascal)
            .replace("@PORT@", &port.to_string())
    };
    let pieces = [
        (format!("bpf/{name}.bpf.c"), fill(BPF)),
        (
            format!("crates/{name}/Cargo.toml"),
            fill(
                &read(format!("crates/{}/Cargo.toml", model.name))?
                    .replace(&model.binary, "ebpf-@NAME@-exporter"),
            ),
        ),
        (format!("crates/{name}/build.rs"), read(format!("crates/{}/build.rs", model.name))?),
        (format!("crates/{name}/src/main.rs"), fill(MAIN)),
        (format!("crates/{name}/src/headlines.rs"), fill(HEADLINES)),
        (format!("crates/{name}/tests/live.rs"), fill(LIVE)),
        (format!("crates/{name}/tests/golden/headlines.txt"), HEADLINES_SAID.to_owned()),
        (format!("crates/{name}/tests/golden/metrics.prom"), fill(GOLDEN)),
        (
            format!("systemd/ebpf-{name}-exporter.service"),
            unit.replace(&model.binary, &format!("ebpf-{name}-exporter"))
                .replace(&pages::page_of(&model.name), &pages::page_of(name))
                .replace(&description, &fill("Description=Prometheus exporter: @NAME@")),
        ),
        (format!("prometheus/jobs/{name}.yml"), fill(JOB)),
        (format!("alerts/{name}.yml"), fill(ALERTS)),
        (format!("alerts/tests/{name}.yml"), fill(ALERT_TESTS)),
        (format!("rules/{name}.yml"), fill(RULES)),
        (format!("rules/tests/{name}.yml"), fill(RULE_TESTS)),
        (format!("grafana/rows/{name}.json"), fill(ROW)),
        (pages::page_of(name), fill(PAGE)),
    ];
    for (path, text) in &pieces {
        let path = root().join(path);
        fs::create_dir_all(path.parent().context("no parent folder")?)?;
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    // Where lines break depends on the length of the name.
    run(cargo().args(["fmt", "--package", &format!("ebpf-{name}-exporter")]))?;
    assemble::assemble()?;
    for (path, _) in &pieces {
        println!("{path}");
    }
    Ok(())
}

const BPF: &str = r#"// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which question does this answer?
 *
 * Hooks: ...
 * Cost: ...
 * Not seen: ...
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "events.bpf.h"

struct @SNAKE@_counts {
	u64 forks;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct @SNAKE@_counts);
} counts SEC(".maps");

static __always_inline int on_fork(void)
{
	u32 zero = 0;
	struct @SNAKE@_counts *c = bpf_map_lookup_elem(&counts, &zero);

	if (c)
		__sync_fetch_and_add(&c->forks, 1);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int fork_btf(u64 *ctx)
{
	return on_fork();
}

SEC("raw_tp/sched_process_fork")
int fork_raw(u64 *ctx)
{
	return on_fork();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"#;

const MAIN: &str = r#"// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which question does this answer?
//!
//! Hooks, cost and what is not seen: `bpf/@NAME@.bpf.c`.

mod headlines;

use std::process::ExitCode;

use common::process::exporter::Exporter;
use common::spec::{MapSpec, Spec};

common::skeleton!();

#[derive(Default)]
struct @PASCAL@;

impl Exporter for @PASCAL@ {
    type Builder = skel::@PASCAL@SkelBuilder;
    type Flags = common::process::cli::NoFlags;

    fn spec(_: &Self::Flags) -> Spec {
        let counts = MapSpec::new("counts").counter(
            "ebpf_@SNAKE@_forks_total",
            "forks",
            "Processes and threads started.",
        );
        Spec::new("@NAME@", @PORT@, "which question does this answer?")
            .events(&["ebpf_@SNAKE@_forks_total"])
            .headlines(headlines::headlines())
            .required("sched_process_fork", &["fork_btf", "fork_raw"])
            .map(counts)
    }
}

fn main() -> ExitCode {
    common::run::<@PASCAL@>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<@PASCAL@>(&common::process::cli::NoFlags {}, |maps| {
            maps.set("counts", &[], &[("forks", 3.into())])?;
            Ok(())
        });
        golden::<@PASCAL@>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }
}
"#;

const HEADLINES: &str = r#"// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("{value} forks/s", "ebpf_@SNAKE@_forks_total").or("no forks"),
        // A second number that answers the question.
        Headline::gauge("{value} forks in all", "ebpf_@SNAKE@_forks_total").or("no forks"),
    ]
}
"#;

/// What they say of the golden metrics.
const HEADLINES_SAID: &str = "1.5 forks/s | no forks\n3 forks in all | 3 forks in all\n";

const LIVE: &str = r#"// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known workload, compared with what was done and with the kernel's own counter.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use live::exporter::Exporter;
use live::sh;
use live::truth::{agrees, between, stat};

#[live::test]
fn forks_are_counted() {
    let exporter = Exporter::start("@NAME@", &[]);
    let (delta, [kernel]) = between(&exporter, || [stat("processes")], || (0..23).for_each(|_| drop(sh("true"))));
    let ours = delta.of("ebpf_@SNAKE@_forks_total", &[]);
    assert!(ours >= 23.0 && agrees(ours, &kernel, 0.0), "{ours} forks, the kernel counts {kernel:?}");
}

live::main!();
"#;

const GOLDEN: &str = "\
# HELP ebpf_@SNAKE@_forks_total Processes and threads started.
# TYPE ebpf_@SNAKE@_forks_total counter
ebpf_@SNAKE@_forks_total 3
";

const JOB: &str = "\
- job_name: ebpf-@NAME@
  static_configs:
    - targets: [\"localhost:@PORT@\"]
";

const ALERTS: &str = "\
groups:
  - name: ebpf-@NAME@
    rules: []
";

const ALERT_TESTS: &str = "\
rule_files:
  - ../@NAME@.yml

tests: []
";

const RULES: &str = "\
# Recording rules. docs/fleet.md says how they are named.
groups:
  - name: ebpf-@NAME@-rules
    interval: 1m
    rules:
      - record: instance:ebpf_@SNAKE@_forks:rate5m
        expr: sum by (cluster, job, instance) (rate(ebpf_@SNAKE@_forks_total[5m]))
      - record: cluster:ebpf_@SNAKE@_forks:rate5m
        expr: sum by (cluster, job) (instance:ebpf_@SNAKE@_forks:rate5m)
";

const RULE_TESTS: &str = r#"rule_files:
  - ../@NAME@.yml

evaluation_interval: 1m

tests:
  - interval: 1m
    input_series:
      - series: 'ebpf_@SNAKE@_forks_total{cluster="x",job="ebpf-@NAME@",instance="a"}'
        values: "0+60x20"
      - series: 'ebpf_@SNAKE@_forks_total{cluster="x",job="ebpf-@NAME@",instance="b"}'
        values: "0+180x20"
    promql_expr_test:
      - expr: instance:ebpf_@SNAKE@_forks:rate5m
        eval_time: 10m
        exp_samples:
          - labels: 'instance:ebpf_@SNAKE@_forks:rate5m{cluster="x",job="ebpf-@NAME@",instance="a"}'
            value: 1
          - labels: 'instance:ebpf_@SNAKE@_forks:rate5m{cluster="x",job="ebpf-@NAME@",instance="b"}'
            value: 3
      - expr: cluster:ebpf_@SNAKE@_forks:rate5m
        eval_time: 10m
        exp_samples:
          - labels: 'cluster:ebpf_@SNAKE@_forks:rate5m{cluster="x",job="ebpf-@NAME@"}'
            value: 4
"#;

const ROW: &str = r#"{
  "row": "Application",
  "panels": [
    {
      "title": "Forks",
      "description": "Processes and threads started.",
      "type": "timeseries",
      "unit": "ops",
      "width": 8,
      "queries": [
        {
          "expr": "sum by (cluster, instance) (rate(ebpf_@SNAKE@_forks_total{cluster=~\"$cluster\",job=~\"$job\",instance=~\"$instance\"}[$__rate_interval]))",
          "legend": "{{cluster}} {{instance}}"
        }
      ]
    }
  ],
  "fleet": [
    {
      "title": "Most forks",
      "description": "The hosts that start the most processes and threads.",
      "type": "bargauge",
      "unit": "ops",
      "width": 12,
      "queries": [
        {
          "expr": "sort_desc(topk(10, instance:ebpf_@SNAKE@_forks:rate5m{cluster=~\"$cluster\",job=~\"$job\",instance=~\"$instance\"}))",
          "legend": "{{cluster}} {{instance}}"
        }
      ]
    }
  ]
}
"#;

const PAGE: &str = "\
# @NAME@

Which question does this answer? Look first at `ebpf_@SNAKE@_forks_total`.

## What the numbers mean

...

## What it does not see

...

## When it is high

...

## Queries

Forks in a second:

```promql
rate(ebpf_@SNAKE@_forks_total[5m])
```

## How it measures

It hooks the tracepoint `sched_process_fork` by tp_btf, else by raw_tp. An event costs ...

<!-- begin reference: written by cargo xtask assemble -->
<!-- end reference -->
";
