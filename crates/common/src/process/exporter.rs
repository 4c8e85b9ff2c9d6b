// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main function of every exporter.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::exposition::metric::Families;
use crate::kernel::copies;
use crate::kernel::facts::Facts;
use crate::kernel::hook::{self, Hook, Hooks};
use crate::kernel::links::{self, Links};
use crate::kernel::module::Module;
use crate::kernel::permissions;
use crate::kernel::preemption::Preemption;
use crate::kernel::probes::{self, Plan, Refused};
use crate::kernel::refusal::{self, Obstacles};
use crate::kernel::together::{self, WhyNot};
use crate::process::cli::{self, Cli, Common, Ebpf};
use crate::process::{lifetime, logging, memory, notify};
use crate::read::engine::Engine;
use crate::read::layout;
use crate::read::live::Live;
use crate::read::maps::LiveMaps;
use crate::read::part::{self, Part, Reader, Source};
use crate::read::ratio;
use crate::read::render::Renderer;
use crate::read::roster::Rosters;
use crate::read::self_metrics::Program;
use crate::serve::web::{self, Door};
use crate::serve::{handed, http, ports};
use crate::spec::Spec;

/// An opened skeleton of exporter `E`.
pub type OpenOf<'o, E> = <<E as Exporter>::Builder as SkelBuilder<'o>>::Output;

/// The definition of an exporter. Everything optional has a default.
///
/// The value of the type is the state of the running exporter.
pub trait Exporter: Default + Send + 'static {
    /// The generated skeleton's builder.
    type Builder: for<'o> SkelBuilder<'o> + Default;
    /// Flags of its own; [`cli::NoFlags`] for none.
    type Flags: Args + Clone + Default + Send + 'static;

    /// Whether keys of maps may have cgroups, with [`crate::spec::Decode::Cgroup`]. Entries of removed ones then
    /// make room when a map is full.
    const CGROUPS: bool = false;

    /// Probes and maps. Name, port and summary are those with default flags.
    fn spec(flags: &Self::Flags) -> Spec;

    /// Opens other sources than maps, with all privileges of the process.
    ///
    /// # Errors
    /// When a source is refused that the exporter needs.
    fn new(flags: &Self::Flags) -> Result<Self> {
        let _ = flags;
        Ok(Self::default())
    }

    /// Programs that do not fit this machine, and why.
    fn unusable(&self) -> Refused {
        Refused::new()
    }

    /// Sets read-only data and sizes of maps before loading.
    ///
    /// # Errors
    /// When the exporter cannot run with these facts or flags.
    fn configure(&self, open: &mut OpenOf<'_, Self>, facts: &Facts, flags: &Self::Flags) -> Result<()> {
        let _ = (open, facts, flags);
        Ok(())
    }

    /// Inserts entries before attaching, so that their counters start at 0 instead of appearing at
    /// the first event.
    ///
    /// # Errors
    /// When an entry cannot be inserted.
    fn seed(live: &Live) -> Result<()> {
        let _ = live;
        Ok(())
    }

    /// Reads the initial state once, right after attaching.
    ///
    /// # Errors
    /// When the state cannot be read and the exporter needs it.
    fn attached(&mut self, live: &Live) -> Result<()> {
        let _ = live;
        Ok(())
    }

    /// How often to call [`Exporter::gather`] between scrapes.
    fn interval(flags: &Self::Flags) -> Option<Duration> {
        let _ = flags;
        None
    }

    /// Updates maps before they are read.
    ///
    /// # Errors
    /// When an update fails and the scrape must fail instead of showing old values.
    fn gather(&mut self, live: &Live) -> Result<()> {
        let _ = live;
        Ok(())
    }

    /// Labels of the entries of maps that are [`named`](crate::spec::MapSpec::named).
    fn rosters(&self) -> &Rosters {
        static NOBODY: Rosters = BTreeMap::new();
        &NOBODY
    }

    /// The metrics that need no eBPF, from /proc, /sys, kstats or netlink. They must be metrics of
    /// the spec with the same meaning. None if there are none.
    ///
    /// # Errors
    /// When a source of these metrics is refused.
    fn fallback(flags: &Self::Flags) -> Result<Option<Reader>> {
        let _ = flags;
        Ok(None)
    }

    /// The reader to use after the programs are detached on request (SIGUSR1). It has the files that
    /// were opened before privileges were dropped. None: use [`Exporter::fallback`].
    fn release(&mut self) -> Option<Reader> {
        None
    }

    /// Adds metrics that are in no map, each time the maps are read.
    ///
    /// # Errors
    /// When a metric cannot be read and the scrape must fail instead of leaving it out.
    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        let _ = (live, families);
        Ok(())
    }
}

impl<E: Exporter> Source for E {
    fn gather(&mut self, live: &Live) -> Result<()> {
        Exporter::gather(self, live)
    }

    fn rosters(&self) -> &Rosters {
        Exporter::rosters(self)
    }

    fn release(&mut self) -> Option<Reader> {
        Exporter::release(self)
    }

    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        Exporter::extra(self, live, families)
    }
}

/// Runs exporter `E` with this process's command line.
pub fn run<E: Exporter>() -> ExitCode {
    run_with(&E::spec(&E::Flags::default()), start::<E>)
}

/// Runs `start` with this process's command line, which has the flags that all exporters have and
/// those of `F`. Name, port and summary in `--help` are those of `spec`.
pub fn run_with<F: Args>(spec: &Spec, start: impl FnOnce(&Cli<F>) -> Result<ExitCode>) -> ExitCode {
    let base = std::env::var_os(ports::BASE);
    let cli = match cli::parse::<F>(spec, std::env::args_os(), base.as_deref()) {
        Ok(cli) => cli,
        // Prints; 0 after --help and --version, 2 after wrong usage.
        Err(error) => error.exit(),
    };
    logging::start(cli.common.log_level, cli.common.log_format);
    refusal::listen();
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            let why = format!("{error:#}");
            log::error!("{why}");
            notify::status(&why);
            ExitCode::FAILURE
        }
    }
}

/// Why the object could not be loaded or attached.
enum Failure {
    /// The kernel refused these programs; others may work.
    Programs(Refused),
    /// The kernel takes the programs alone, and not as copies.
    Copies(String),
    /// The kernel refuses eBPF altogether.
    Refused(anyhow::Error),
    Fatal(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Fatal(error)
    }
}

/// What every process does before it loads anything: returns where it listens, and the signals that
/// it received since.
///
/// # Errors
/// When an address is in use or the web configuration is wrong.
pub fn begin(flags: &Common) -> Result<(Vec<Door>, Signals)> {
    memory::one_heap();
    if flags.supervised {
        handed::begin();
        // A program that hangs would not notice that the supervisor is gone. The setting is lost when executing
        // restores capabilities, and made again here.
        set_parent_process_death_signal(Some(Signal::KILL)).context("failed to bind to the supervisor")?;
    }
    // Signals are recorded from here on. The thread that waits for them starts after privileges
    // are dropped.
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).context("failed to watch for signals")?;
    if let Some(channel) = handed::channel() {
        return Ok((vec![web::handed(channel)], signals));
    }
    // Listen before attaching: a port in use is the most likely failure.
    let listeners = if serves(flags) { http::bind(&flags.listen)? } else { Vec::new() };
    Ok((web::open(flags.web_config.as_deref(), listeners)?, signals))
}

fn start<E: Exporter>(cli: &Cli<E::Flags>) -> Result<ExitCode> {
    let spec = E::spec(&cli.own);
    let flags = &cli.common;
    let (doors, signals) = begin(flags)?;
    let module = match spec.module.as_deref().map(|name| (name, Module::find(name))) {
        Some((name, None)) => return lifetime::wait_for(name, flags, &spec, doors, signals),
        found => found.and_then(|(_, module)| module),
    };
    let waits = !flags.check && flags.once.is_none();
    match start_now::<E>(cli, &spec, module.clone(), doors, signals) {
        // The module was unloaded while programs were being attached to its functions.
        Err(error) if waits && module.is_some_and(|module| !module.is_loaded()) => {
            log::warn!("{error:#}");
            lifetime::start_over(&spec, false).map(|()| ExitCode::SUCCESS)
        }
        started => started?,
    }
}

/// Starts an exporter whose module is loaded, or that needs none. The outer result is an error if
/// the exporter did not start. The inner result tells how the run ended.
fn start_now<E: Exporter>(
    cli: &Cli<E::Flags>,
    spec: &Spec,
    module: Option<Module>,
    doors: Vec<Door>,
    signals: Signals,
) -> Result<Result<ExitCode>> {
    let flags = &cli.common;
    if flags.ebpf == Ebpf::Off {
        let reader = E::fallback(&cli.own)?.with_context(|| {
            format!("cannot run without eBPF: {} has no other source for its metrics", spec.name)
        })?;
        return Ok(without_programs(cli, spec, reader, module, doors, signals));
    }
    notify::status("choosing probes...");
    let mut exporter = E::new(&cli.own)?;
    let mut found: Option<Facts> = None;
    let mut refused = exporter.unusable();
    let why = loop {
        let mut storage = MaybeUninit::uninit();
        let open = open::<E>(&mut storage, flags)?;
        let hooks = hook::hooks(open.open_object());
        probes::validate(spec, &hooks)?;
        let facts: &Facts = match &mut found {
            Some(facts) => facts,
            none => {
                let mut facts = Facts::collect(
                    hooks.values(),
                    &spec.enumerators,
                    flags.btf.as_deref(),
                    spec.module.as_deref(),
                )?;
                if let Some(preempts) = flags.preempts {
                    facts.preemption = preempts.into();
                }
                none.insert(facts)
            }
        };
        if flags.check_programs {
            return Ok(check_programs(&exporter, cli, spec, &hooks, facts, &refused));
        }
        let plan = Plan::new(spec, &hooks, facts, &refused);
        if let Some((probe, why)) = plan.missing(spec) {
            if flags.check {
                lifetime::print_check(spec, &plan)?;
            }
            break anyhow!("cannot run: probe {probe} cannot be attached: {}", Obstacles::now().explain(why));
        }
        match bring_up::<E>(&mut exporter, open, cli, spec, &plan, &hooks, facts) {
            Ok((attached, mut part)) => {
                let used = plan.programs().into_iter().filter_map(|program| hooks.get(program));
                if let Some(doubt) = facts.doubt(used) {
                    log::warn!("{doubt}");
                }
                let own = cli.own.clone();
                part.source = Some(Box::new(exporter));
                part.fallback = Some(Box::new(move || E::fallback(&own)));
                let engine = Engine::new(&spec.name, vec![part], flags.disable_exporter_metrics);
                let steps = [E::interval(&cli.own), (!spec.ratios.is_empty()).then_some(ratio::STEP)];
                let step = steps.into_iter().flatten().min();
                return Ok(lifetime::go(flags, spec, &plan, attached, engine, step, module, doors, signals));
            }
            Err(Failure::Programs(programs)) => refused.extend(programs),
            Err(Failure::Copies(why)) => {
                log::warn!("{}: {why}", links::ONCE);
                if let Some(facts) = &mut found {
                    facts.preemption = Preemption::default();
                }
            }
            Err(Failure::Refused(error)) => break error,
            Err(Failure::Fatal(error)) => return Err(error),
        }
    };
    // If privileges are missing, fail: the user should add them instead of getting fewer metrics.
    if flags.ebpf == Ebpf::Auto
        && !flags.check
        && permissions::missing().is_empty()
        && let Some(reader) = E::fallback(&cli.own)?
    {
        log::warn!("{why:#}");
        return Ok(without_programs(cli, spec, reader, module, doors, signals));
    }
    Err(why)
}

fn without_programs<F: Args>(
    cli: &Cli<F>,
    spec: &Spec,
    reader: Reader,
    module: Option<Module>,
    doors: Vec<Door>,
    signals: Signals,
) -> Result<ExitCode> {
    log::warn!("running without eBPF: exporting only metrics that do not need it, see METRICS.md");
    let engine = Engine::without_programs(spec, reader, cli.common.disable_exporter_metrics);
    let step = (!spec.ratios.is_empty()).then_some(ratio::STEP);
    lifetime::go(&cli.common, spec, &Plan::default(), (), engine, step, module, doors, signals)
}

fn serves(flags: &Common) -> bool {
    !flags.check && flags.once.is_none() && flags.textfile.is_none()
}

fn open<'o, E: Exporter>(storage: &'o mut MaybeUninit<OpenObject>, flags: &Common) -> Result<OpenOf<'o, E>> {
    let mut builder = E::Builder::default();
    if let Some(path) = &flags.btf {
        builder.object_builder_mut().btf_custom_path(path).context("--btf.path")?;
    }
    builder.open(storage).context("failed to open the BPF object")
}

/// All steps between open and load.
fn prepare<E: Exporter>(
    exporter: &E,
    open: &mut OpenOf<'_, E>,
    cli: &Cli<E::Flags>,
    spec: &Spec,
    wanted: &BTreeSet<&str>,
    facts: &Facts,
) -> Result<()> {
    let object = open.open_object_mut();
    probes::choose(object, wanted);
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if spec.maps.iter().any(|map| map.bounded && *map.map == name) {
            map.set_max_entries(cli.common.max_series).with_context(|| format!("map `{name}`"))?;
        }
    }
    exporter.configure(open, facts, &cli.own)
}

type SkelOf<'o, E> = <OpenOf<'o, E> as OpenSkel<'o>>::Output;

/// Keeps the programs attached; dropping it detaches them.
type Attached<'o, E> = (SkelOf<'o, E>, Links);

fn bring_up<'o, E: Exporter>(
    exporter: &mut E,
    mut open: OpenOf<'o, E>,
    cli: &Cli<E::Flags>,
    spec: &Spec,
    plan: &Plan,
    hooks: &Hooks,
    facts: &Facts,
) -> Result<(Attached<'o, E>, Part), Failure> {
    notify::status("loading and attaching probes...");
    let layouts = layout::of(open.open_object())?;
    let wanted = plan.programs();
    prepare(exporter, &mut open, cli, spec, &wanted, facts)?;
    let interrupted = |name: &str| spec.interrupted.iter().any(|program| program == name);
    let preempted = hooks
        .iter()
        .filter(|(name, hook)| wanted.contains(&***name) && facts.preemption.at(hook, interrupted(name)));
    let preempted: Vec<String> = preempted.map(|(name, _)| name.clone()).collect();
    let loaded = copies::prepare(open.open_object_mut(), &preempted)
        .and_then(|firsts| open.load().map(|skeleton| (firsts, skeleton)));
    let (firsts, skeleton) = match loaded {
        Ok(loaded) => loaded,
        Err(error) if !preempted.is_empty() && load_only(exporter, cli, spec, &wanted, facts)?.is_none() => {
            return Err(Failure::Copies(refusal::with_details(&error)));
        }
        Err(error) => return Err(why_not_loaded(exporter, &error, cli, spec, &wanted, facts)),
    };
    let object = skeleton.object();
    let mut live = Live {
        maps: LiveMaps::of(object, &layouts)?,
        layouts,
        iterators: BTreeMap::new(),
        probes: Mutex::default(),
    };
    E::seed(&live)?;
    let links = links::attach(object, firsts, plan, hooks, facts)
        .map_err(|(program, why)| Failure::Programs([(program, why)].into()))?;
    let iterators = links.iter().filter(|(program, _)| hooks.get(*program).is_some_and(Hook::is_iterator));
    for (program, link) in
        iterators.filter_map(|(program, attached)| Some((program, attached.links().first()?)))
    {
        let link = link.as_fd().try_clone_to_owned().context("failed to copy a link's descriptor")?;
        live.iterators.insert(program.clone(), link);
    }
    let attached = plan.verdicts.iter().filter(|(_, verdict)| !verdict.programs().is_empty());
    live.probes = Mutex::new(attached.map(|(probe, _)| probe.clone()).collect());
    exporter.attached(&live)?;
    let programs = Program::list(object, plan, hooks, &links)?;
    let renderer = Renderer::new(spec, &live.layouts, &plan.unfed(spec))?;
    let mut part = Part::new(spec);
    part.sweep = E::CGROUPS.then_some(part::sweep_cgroups);
    (part.renderer, part.programs, part.live) = (renderer, programs, live);
    Ok(((skeleton, links), part))
}

/// Loads only `programs`, and returns the error if the kernel refuses them. Loads only the maps if
/// there are none.
fn load_only<E: Exporter>(
    exporter: &E,
    cli: &Cli<E::Flags>,
    spec: &Spec,
    programs: &BTreeSet<&str>,
    facts: &Facts,
) -> Result<Option<libbpf_rs::Error>> {
    let mut storage = MaybeUninit::uninit();
    let mut open = open::<E>(&mut storage, &cli.common)?;
    prepare(exporter, &mut open, cli, spec, programs, facts)?;
    Ok(open.load().err())
}

/// Loads each candidate of each probe and prints the result.
fn check_programs<E: Exporter>(
    exporter: &E,
    cli: &Cli<E::Flags>,
    spec: &Spec,
    hooks: &Hooks,
    facts: &Facts,
    unusable: &Refused,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let programs = spec.probes.iter().flat_map(|probe| probe.candidates.iter().flatten());
    let programs: BTreeMap<&str, Option<String>> = programs
        .map(|program| (&**program, probes::why_not(program, spec, hooks, facts, unusable)))
        .collect();
    let hooked = programs.iter().filter(|(_, why_not)| why_not.is_none()).map(|(program, _)| *program);
    // Each load reads the kernel's BTF again. So load the programs one by one only if loading all
    // of them together fails.
    let all_load = load_only(exporter, cli, spec, &hooked.collect(), facts)?.is_none();
    for (program, why_not) in programs {
        let verdict = match why_not {
            Some(why) => format!("no hook: {why}"),
            None if all_load => "loads".to_owned(),
            None => match load_only(exporter, cli, spec, &[program].into(), facts)? {
                None => "loads".to_owned(),
                Some(error) => {
                    code = ExitCode::FAILURE;
                    format!("refused: {}", refusal::with_details(&error))
                }
            },
        };
        let hook = hooks.get(program).map(ToString::to_string).unwrap_or_default();
        lifetime::print(format_args!("{program} at {hook}: {verdict}"))?;
    }
    Ok(code)
}

/// Finds the programs that the kernel refuses.
fn why_not_loaded<E: Exporter>(
    exporter: &E,
    error: &libbpf_rs::Error,
    cli: &Cli<E::Flags>,
    spec: &Spec,
    wanted: &BTreeSet<&str>,
    facts: &Facts,
) -> Failure {
    match together::why_not_loaded(error, wanted, |programs| load_only(exporter, cli, spec, programs, facts))
    {
        Ok(WhyNot::Programs(refused)) => Failure::Programs(refused),
        Ok(WhyNot::Object(why)) => Failure::Refused(anyhow!("cannot run: {why}")),
        Err(error) => Failure::Fatal(error),
    }
}
