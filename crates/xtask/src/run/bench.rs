// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make bench`: measures the cost per event, compared with an empty program on the same hook in the
//! same run, and the cost of a process and of a scrape.
//!
//! The kernel measures the times (`kernel.bpf_stats_enabled`). They include two clock reads per run,
//! as do those of the empty program. The workload of an exporter is its `benches/workload`. Each line
//! `# flags: FLAGS` in it asks for one more run with these flags; `# peer: COMMAND` names a tool of
//! libbpf-tools to run at the same time. `benches/NAME.rs` is a bench of cargo's, which measures the
//! exporter in `PATH` in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Typedef;
use libbpf_rs::query::{ProgInfoIter, ProgramInfo};

use crate::release;
use crate::run::running::{Running, label, owned, samples};
use crate::workspace::{Exporter, cargo_at, exporters, files, root, run as run_command};

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Number of runs of the workload; the fastest counts.
const ROUNDS: usize = 5;

/// After this time a tool that compiles nothing has loaded its programs.
const PEER_START: Duration = Duration::from_secs(10);

/// Measures the exporters in `only`; or, if it is empty, all that have a workload, and a scrape.
///
/// # Errors
/// When the kernel refuses to measure programs, or the build or the bench of a scrape fails.
pub fn run(only: &[String]) -> Result<()> {
    release::build(&release::revision(), only)?;
    let stats = Stats::on()?;
    for exporter in exporters()?.iter().filter(|e| only.is_empty() || only.contains(&e.name)) {
        let path = root().join("crates").join(&exporter.name).join("benches/workload");
        let Ok(text) = fs::read_to_string(&path) else {
            if own(exporter)?.is_empty() {
                println!("{}: no benches/workload", exporter.name);
            }
            continue;
        };
        // The first run is with default flags.
        let more = text.lines().filter_map(|line| line.strip_prefix("# flags: "));
        let peer = text.lines().find_map(|line| line.strip_prefix("# peer: "));
        for (flags, peer) in std::iter::once(("", peer)).chain(more.map(|flags| (flags, None))) {
            if let Err(error) = events(exporter, flags, peer, &mut Command::new(&path)) {
                println!("{} {flags}: not measured: {error:#}", exporter.name);
            }
        }
    }
    // The kernel does not measure programs now, which takes time.
    drop(stats);
    for exporter in exporters()?.iter().filter(|e| only.is_empty() || only.contains(&e.name)) {
        own(exporter)?.into_iter().try_for_each(|bench| run_own(exporter, &bench))?;
    }
    if !only.is_empty() {
        return Ok(());
    }
    run_command(cargo_at("bench").args(["--package=common", "--bench=scrape"]))
}

/// Names of an exporter's own benches.
fn own(exporter: &Exporter) -> Result<Vec<String>> {
    let folder = format!("crates/{}/benches", exporter.name);
    if !root().join(&folder).exists() {
        return Ok(Vec::new());
    }
    let stems = files(&folder, ".rs")?.into_iter().map(|path| path.file_stem().map(ToOwned::to_owned));
    Ok(stems.flatten().map(|stem| stem.to_string_lossy().into_owned()).collect())
}

/// Runs a bench as tests are built: only what it measures is built for users.
fn run_own(exporter: &Exporter, bench: &str) -> Result<()> {
    let mut path = root().join("dist/bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    println!("{} {bench}:", exporter.name);
    let mut cargo = cargo_at("bench");
    cargo.args(["--profile=dev", "--package", &exporter.binary, "--bench", bench]).env("PATH", path);
    run_command(&mut cargo)
}

/// The kernel measures the run time of programs while this lives.
struct Stats(String);

impl Stats {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("failed to read {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("failed to write {STATS}: run as root"))?;
        Ok(Self(before))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        // It was writable before.
        let _ = fs::write(STATS, self.0.trim());
    }
}

fn events(exporter: &Exporter, flags: &str, peer: Option<&str>, workload: &mut Command) -> Result<()> {
    let alone = fastest(workload)?;
    let arguments = flags.split_whitespace().chain(["--web.listen-address", "127.0.0.1:0"]);
    let running = Running::start(&root().join("dist/bin"), &exporter.binary, &arguments.collect::<Vec<_>>())?;
    let text = running.get("/metrics")?;
    let mut empty = BTreeMap::new();
    for program in samples(&text, "ebpf_exporter_ebpf_program_info") {
        let hook = label(program, "hook").to_owned();
        if let Some(name) = hook.strip_prefix("tp_btf/") {
            empty.insert(hook.clone(), Empty::attach(name)?);
        }
    }
    let peer = peer.map(Peer::start).transpose();
    let watched = fastest(workload)?;
    let text = running.get("/metrics")?;
    println!("{} {flags}: ns for each run of a program, over the workload's", exporter.name);
    println!("  {:<34} {:>9} {:>7} {:>7} {:>7} {:>7}", "hook", "runs", "empty", "ours", "net", "ratio");
    for program in samples(&text, "ebpf_exporter_ebpf_program_info") {
        let (name, hook) = (label(program, "program"), label(program, "hook"));
        let of = |metric: &str| -> Result<f64> {
            let own = samples(&text, metric).find(|line| label(line, "program") == name);
            let value = own.and_then(|line| line.rsplit(' ').next()).context("no statistics of a program")?;
            value.parse().context("not a number")
        };
        let runs = of("ebpf_exporter_ebpf_program_run_count_total")?;
        let ours = of("ebpf_exporter_ebpf_program_run_time_seconds_total")? * 1e9 / runs.max(1.0);
        if runs < 1000.0 && !hook.starts_with("iter/") {
            println!("  {hook:<34} {runs:>9} too few to tell");
            continue;
        }
        match empty.get(hook).map(Empty::nanoseconds).transpose()? {
            Some(base) => {
                let (net, ratio) = (ours - base, ours / base);
                println!("  {hook:<34} {runs:>9} {base:>7.1} {ours:>7.1} {net:>7.1} {ratio:>7.2}");
            }
            None => println!("  {hook:<34} {runs:>9} {:>7} {ours:>7.1}", "-"),
        }
    }
    match peer {
        Ok(Some(peer)) => peer.report(),
        Ok(None) => {}
        Err(error) => println!("  no comparison: {error:#}"),
    }
    println!(
        "  workload {:.0} ms without, {:.0} ms with exporter and empty programs",
        alone * 1e3,
        watched * 1e3
    );
    Ok(())
}

/// A tool that does the same work as the exporter, running at the same time.
struct Peer {
    child: Child,
    name: String,
    /// Ids of the programs that existed before it started.
    others: BTreeSet<u32>,
}

impl Peer {
    fn start(line: &str) -> Result<Self> {
        let others = ProgInfoIter::default().map(|program| program.id).collect();
        let mut words = line.split_whitespace();
        let name = words.next().context("no command")?.to_owned();
        let mut command = Command::new(&name);
        let child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{name} (package libbpf-tools)"))?;
        let mut peer = Self { child, name, others };
        let deadline = Instant::now() + PEER_START;
        while peer.programs().next().is_none() {
            if let Some(status) = peer.child.try_wait()? {
                bail!("{} does not run here: {status}", peer.name);
            }
            if Instant::now() > deadline {
                bail!("{} loads no program", peer.name);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(peer)
    }

    fn programs(&self) -> impl Iterator<Item = ProgramInfo> {
        ProgInfoIter::default().filter(|program| !self.others.contains(&program.id))
    }

    fn report(&self) {
        for program in self.programs().filter(|program| program.run_cnt >= 1000) {
            let (name, runs) = (program.name.to_string_lossy(), program.run_cnt);
            let each = program.run_time_ns as f64 / runs as f64;
            println!("  {:<34} {runs:>9} {:>7} {each:>7.1}", format!("{}: {name}", self.name), "-");
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fastest(workload: &mut Command) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run_command(workload)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A program that only returns 0, attached to a tracepoint.
struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    fn attach(tracepoint: &str) -> Result<Self> {
        let btf = Btf::from_vmlinux().context("failed to read the kernel's BTF")?;
        let handler: Option<Typedef<'_>> = btf.type_by_name(&format!("btf_trace_{tracepoint}"));
        let handler = handler.with_context(|| format!("no tracepoint {tracepoint}"))?;
        // r0 = 0; exit
        let code = [(0xb7, 0), (0x95, 0)].map(|(code, imm)| libbpf_sys::bpf_insn {
            code,
            imm,
            ..Default::default()
        });
        let mut options = libbpf_sys::bpf_prog_load_opts {
            sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
            expected_attach_type: libbpf_sys::BPF_TRACE_RAW_TP,
            attach_btf_id: handler.type_id().into(),
            ..Default::default()
        };
        let (name, license) = (CString::new("empty")?, CString::new("GPL")?);
        // SAFETY: all pointers are to values that outlive the call; the count is that of the instructions.
        let program = unsafe {
            libbpf_sys::bpf_prog_load(
                libbpf_sys::BPF_PROG_TYPE_TRACING,
                name.as_ptr(),
                license.as_ptr(),
                code.as_ptr(),
                code.len() as u64,
                &raw mut options,
            )
        };
        let program = owned(program).context("failed to load an empty program")?;
        // SAFETY: the name is null, as it has to be for this type of program.
        let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program.as_raw_fd()) };
        let link = owned(link).with_context(|| format!("failed to attach to {tracepoint}"))?;
        Ok(Self { program, _link: link })
    }

    fn nanoseconds(&self) -> Result<f64> {
        let mut info = libbpf_sys::bpf_prog_info::default();
        let mut size = size_of_val(&info) as u32;
        // SAFETY: the kernel writes at most `size` bytes into `info`.
        let result = unsafe {
            libbpf_sys::bpf_prog_get_info_by_fd(self.program.as_raw_fd(), &raw mut info, &raw mut size)
        };
        if result < 0 {
            bail!("failed to ask about an empty program");
        }
        Ok(info.run_time_ns as f64 / (info.run_cnt as f64).max(1.0))
    }
}
