// SPDX-License-Identifier: MIT OR Apache-2.0
//! From configs to a running process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caps::Capability;
use common::kernel::preemption::Preemption;
use common::kernel::probes::{Plan, Verdict};
use common::process::cli::{Cli, Common};
use common::process::{exporter, lifetime, logging, notify};
use common::read::engine::Engine;
use common::read::part::Part;
use common::read::self_metrics::Program;
use common::spec::{Need, Probe, Spec, Text};
use common::words::counted;
use log::{LevelFilter, info, warn};

use crate::cgroups::{GroupMap, Watcher};
use crate::config::{self, Config, PREFIX};
use crate::events::{Buffers, Reader};
use crate::flags::Flags;
use crate::objects::mark::post_attach_mark;
use crate::objects::{self, Loaded};
use crate::parts;
use crate::shared::Shared;
use crate::spans::exporter::Settings;
use crate::spans::shipper::Shipper;
use crate::steps::world::{Places, World};

/// How long spans may take to be sent at exit.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Everything that ends when the process does, in this order.
struct Attached {
    _reader: Option<Reader>,
    spans: Option<Arc<Shipper>>,
    _groups: Option<Watcher>,
    _loaded: Vec<Loaded>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self._reader = None;
        if let Some(spans) = &self.spans {
            spans.stop(LAST_SPANS);
        }
    }
}

/// A config whose programs are attached.
struct Running {
    config: Config,
    loaded: Loaded,
}

/// Runs the exporter that `spec` describes.
///
/// # Errors
/// When a config has a mistake that hides all of it, no object can be loaded, or an address is in use.
pub fn start(cli: &Cli<Flags>, mut spec: Spec) -> Result<ExitCode> {
    let Cli { common, own } = cli;
    let mut flags = common.clone();
    flags.check |= own.check;
    if own.no_timestamps {
        logging::leave_out_time();
    }
    if own.debug {
        log::set_max_level(LevelFilter::Debug);
    }
    spec.without_open_metrics = !own.openmetrics;
    if own.debug {
        spec.pages.push("/maps".into());
    }
    let (doors, signals) = exporter::begin(&flags)?;
    notify::status("parsing config...");
    let (mut configs, mut mistakes) = read(own)?;
    notify::status("creating exporter...");
    let needs = World::needs(&configs);
    if needs.symbols {
        // Symbols of modules that come later are read from /proc/kallsyms then.
        spec.keeps.push(Capability::CAP_SYSLOG);
    }
    let world = World::new(&needs, &Places::default());
    configs.iter_mut().for_each(|config| mistakes += parts::check(config, &own.dir, &world));
    let spans = if configs.iter().any(|config| !config.spans.is_empty()) {
        Some(Arc::new(Shipper::start(Settings::from_env()?)?))
    } else {
        None
    };
    // Before programs count: names of the control groups that are gone by the first scrape.
    let groups = watch(&configs, &world)?;
    notify::status("attaching configs...");
    let find = || Preemption::of_programs(flags.btf.as_deref());
    let preemption = flags.preempts.map_or_else(find, Preemption::from);
    let mut running = Vec::new();
    for config in configs {
        running.push(attach(&own.dir, config, &flags, preemption, &world)?);
    }
    if running.iter().all(|one| one.loaded.object.is_err())
        && let Some(Running { config, loaded: Loaded { object: Err(why), .. } }) = running.first()
    {
        bail!("config {}: the object cannot be loaded: {why}", config.name);
    }
    post_attach_mark();
    let plan = plan(&mut spec, &running);
    for one in &running {
        if let (Some(spec), Some(groups), Ok(object)) =
            (&one.config.cgroup_id_map, &groups, &one.loaded.object)
        {
            groups.observe(Box::new(GroupMap::new(spec, object)?));
        }
    }
    let shared = Arc::new(Shared::new(shared_names(&running)));
    let mut buffers = Buffers::default();
    let mut made = Vec::new();
    // One config shows what became of the spans of all.
    let mut shown = spans.clone();
    for one in &running {
        let spec = Spec { name: one.config.name.clone().into(), ..Spec::default() };
        let mut part = Part::new(&spec);
        part.bare_run_time = true;
        part.programs = programs(one)?;
        match &one.loaded.object {
            Ok(object) => {
                let mut opened = parts::Opened {
                    world: &world,
                    buffers: &mut buffers,
                    pages: own.perf_pages,
                    spans: &spans,
                };
                let (mut reading, live, wrong) = parts::reading(&one.config, object, &shared, &mut opened)
                    .with_context(|| format!("config {}", one.config.name))?;
                mistakes += wrong;
                reading.spans = shown.take();
                part.live = live;
                part.source = Some(Box::new(reading));
            }
            Err(why) => warn!("config {} is left out: the object cannot be loaded: {why}", one.config.name),
        }
        made.push(part);
    }
    if own.strict || flags.check {
        refuse(&running, mistakes, own.strict)?;
    }
    let reader = if flags.check { None } else { buffers.start()? };
    let engine = Engine::new(&spec.name, made, flags.disable_exporter_metrics);
    let loaded = running.into_iter().map(|one| one.loaded).collect();
    let attached = Attached { _reader: reader, spans, _groups: groups, _loaded: loaded };
    if own.debug {
        info!("contents of maps are at /maps");
    }
    lifetime::go(&flags, &spec, &plan, attached, engine, None, None, doors, signals)
}

/// Reads the configs, and counts the mistakes that leave out a metric.
fn read(own: &Flags) -> Result<(Vec<Config>, usize)> {
    let names = config::names(&own.dir, own.names.as_deref())?;
    if names.is_empty() {
        bail!(
            "there is no config in {}: put NAME.yaml and NAME.bpf.o there, or name another folder with \
             --config.dir",
            own.dir.display()
        );
    }
    let mut configs = Vec::new();
    let mut mistakes = 0;
    for name in names {
        let (config, findings) = config::load(&own.dir, &name)?;
        for finding in findings {
            mistakes += usize::from(finding.fatal_when_strict);
            warn!("{}:{}: {}", own.dir.join(format!("{name}.yaml")).display(), finding.line, finding.message);
        }
        configs.push(config);
    }
    config::check_together(&configs)?;
    Ok((configs, mistakes))
}

/// Watches control groups, where a config has to do with them.
fn watch(configs: &[Config], world: &World) -> Result<Option<Watcher>> {
    let has_maps = configs.iter().any(|config| config.cgroup_id_map.is_some());
    match world.cgroups().root() {
        Some(root) => Watcher::start(root, world.cgroups(), has_maps).map(Some),
        None if has_maps => bail!("cgroup_id_map: no cgroup2 file system is mounted"),
        None => Ok(None),
    }
}

fn attach(
    dir: &Path,
    config: Config,
    flags: &Common,
    preemption: Preemption,
    world: &World,
) -> Result<Running> {
    let path = dir.join(format!("{}.bpf.o", config.name));
    let symbols = |name: &str| world.address(name);
    let mut loaded = objects::load(&path, &config, flags.btf.as_deref(), preemption, &symbols)
        .with_context(|| format!("config {}", config.name))?;
    loaded.attach();
    Ok(Running { config, loaded })
}

/// A probe and a verdict for each program.
fn plan(spec: &mut Spec, running: &[Running]) -> Plan {
    let mut plan = Plan::default();
    for one in running {
        for program in &one.loaded.programs {
            let name = format!("{}:{}", one.config.name, program.name);
            let programs = vec![program.name.clone()];
            spec.probes.push(Probe {
                name: name.clone().into(),
                candidates: vec![programs.iter().cloned().map(Text::from).collect()],
                view: None,
                need: Need::Optional { feeds: Vec::new() },
            });
            let verdict = match &program.attached {
                Ok(()) => Verdict::Ok { programs },
                Err(why) => Verdict::Unsupported { why: why.clone() },
            };
            plan.verdicts.push((name, verdict));
        }
    }
    plan
}

/// Fails for mistakes in configs, and with `is_strict` for programs that are not attached.
fn refuse(running: &[Running], mistakes: usize, is_strict: bool) -> Result<()> {
    let missing = running.iter().flat_map(|one| {
        let failed = one.loaded.programs.iter().filter(|program| program.attached.is_err());
        failed.map(|program| format!("{}:{}", one.config.name, program.name))
    });
    let missing: Vec<String> = missing.collect();
    if is_strict && !missing.is_empty() {
        bail!("Missed attachments (module:prog): {}", missing.join(", "));
    }
    if mistakes > 0 {
        let configs = if mistakes == 1 { "a config" } else { "configs" };
        bail!("{} in {configs}: see the warnings before", counted(mistakes, "mistake"));
    }
    Ok(())
}

/// Full names of the metrics that occur several times, in one config or in several.
fn shared_names(running: &[Running]) -> BTreeSet<String> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for metric in running.iter().flat_map(|one| one.config.metrics()) {
        *times.entry(&metric.name).or_default() += 1;
    }
    let shared = times.into_iter().filter(|(_, times)| *times > 1);
    shared.map(|(name, _)| format!("{PREFIX}{name}")).collect()
}

fn programs(one: &Running) -> Result<Vec<Program>> {
    let programs = one.loaded.programs.iter().map(|program| {
        let fd = program.loaded.as_ref().map(OwnedFd::try_clone).transpose();
        let fd = fd.context("failed to copy a program descriptor")?;
        let copies = program.links.copies().cloned();
        Program::of(&program.name, &program.section, fd, copies, program.attached.is_ok())
    });
    programs.collect()
}
