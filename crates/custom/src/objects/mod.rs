// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users' BPF objects: loaded from files and attached, each program on its own.

mod file;
mod maps;
pub mod mark;
mod section;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use common::kernel::copies::{self, First};
use common::kernel::ftrace;
use common::kernel::globals::{self, Variable};
use common::kernel::hook::{self, Hook, Hooks};
use common::kernel::links::{self, Attached};
use common::kernel::perf;
use common::kernel::preemption::Preemption;
use common::kernel::probes::{self, Refused};
use common::kernel::refusal::{self, Obstacles};
use common::kernel::together::{self, WhyNot};
use common::words::counted;
use libbpf_rs::{Link, Object, OpenObject, ProgramAttachType, ProgramMut, ProgramType};
use log::warn;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::config::Config;
use file::ObjectFile;
use section::{Sampling, Section};

/// A loaded object. When it is dropped, its programs are detached, in their order in the file.
#[derive(Debug)]
pub struct Loaded {
    /// Its programs. Those that the file marks with `?` are left out.
    pub programs: Vec<Program>,
    /// Its maps; or why the kernel refused the object as a whole, such as for a map of a type that it
    /// does not have.
    pub object: Result<Object, String>,
    hooks: Hooks,
    /// Programs that are to be attached as several copies.
    firsts: BTreeMap<String, First>,
}

/// A program of an object.
#[derive(Debug)]
pub struct Program {
    /// Name of its function.
    pub name: String,
    /// ELF section, such as `tp_btf/sys_enter`.
    pub section: String,
    /// None if the kernel refused to load it.
    pub loaded: Option<OwnedFd>,
    /// Why it is not attached.
    pub attached: Result<(), String>,
    /// While these exist, it is attached.
    pub links: Attached,
}

/// Loads the object of a config. What the kernel refuses is left out: see [`Program::loaded`] and
/// [`Loaded::object`]. `btf` replaces the kernel's own BTF; `preemption` is that of this kernel;
/// `symbols` returns the address of a kernel symbol, or why it is not known.
///
/// # Errors
/// When the file is no BPF object or does not have what the config names. The error names the file.
pub fn load(
    path: &Path,
    config: &Config,
    btf: Option<&Path>,
    preemption: Preemption,
    symbols: &dyn Fn(&str) -> Result<u64, String>,
) -> Result<Loaded> {
    let file = ObjectFile::read(path)?;
    let at = || file.path().display().to_string();
    let open = file.open(btf)?;
    maps::check(&open, config).with_context(at)?;
    let addresses = addresses(&open, &file, config, symbols).with_context(at)?;
    let hooks = hook::hooks(&open);
    let danger = hooks.values().any(Hook::is_by_ftrace).then(|| ftrace::danger_here(btf)).flatten();
    let endangers = |name: &str| danger.clone().filter(|_| hooks.get(name).is_some_and(Hook::is_by_ftrace));
    let mut refused = Refused::new();
    let mut firsts = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    let mut programs = Vec::new();
    for program in open.progs().filter(|program| program.autoload()) {
        let name = program.name().to_string_lossy().into_owned();
        let section = program.section().to_string_lossy().into_owned();
        match Section::parse(&section).err().or_else(|| endangers(&name)) {
            None => drop(wanted.insert(name.clone())),
            Some(why) => drop(refused.insert(name.clone(), why)),
        }
        let attached = Err("not attached yet".to_owned());
        programs.push(Program { name, section, loaded: None, attached, links: Attached::default() });
    }
    drop(open);
    let prepared = |programs: &BTreeSet<&str>| -> Result<OpenObject> {
        let mut open = file.open(btf)?;
        probes::choose(&mut open, programs);
        set_types(&mut open);
        for (variable, address) in &addresses {
            globals::set_variable(&mut open, variable, &address.to_ne_bytes()).with_context(at)?;
        }
        refusal::forget_details();
        Ok(open)
    };
    let object = loop {
        let some: BTreeSet<&str> =
            wanted.iter().map(String::as_str).filter(|name| !refused.contains_key(*name)).collect();
        let preempted =
            hooks.iter().filter(|(name, hook)| some.contains(&***name) && preemption.at(hook, false));
        let preempted: Vec<String> = preempted.map(|(name, _)| name.clone()).collect();
        let mut open = prepared(&some)?;
        let loaded = copies::prepare(&mut open, &preempted)
            .and_then(|firsts| open.load().map(|object| (object, firsts)));
        let mut error = match loaded {
            Ok((object, made)) => {
                firsts = made;
                break Ok(object);
            }
            Err(error) => error,
        };
        if !preempted.is_empty() {
            let why = refusal::with_details(&error);
            error = match prepared(&some)?.load() {
                Ok(object) => {
                    warn!("{}: {}: {why}", at(), links::ONCE);
                    break Ok(object);
                }
                Err(error) => error,
            };
        }
        let alone = |programs: &BTreeSet<&str>| Ok(prepared(programs)?.load().err());
        match together::why_not_loaded(&error, &some, alone)? {
            WhyNot::Programs(programs) => {
                let explain = |(name, why): (String, String)| (name, Obstacles::now().explain(&why));
                refused.extend(programs.into_iter().map(explain));
            }
            WhyNot::Object(why) => {
                refused.extend(wanted.iter().map(|name| (name.clone(), why.clone())));
                break Err(why);
            }
        }
    };
    for program in &mut programs {
        if let Some(why) = refused.remove(&program.name) {
            program.attached = Err(why);
            continue;
        }
        // Names are those of functions, so there is one with this name.
        let named = |found: &libbpf_rs::Program<'_>| found.name().to_string_lossy() == program.name;
        if let Some(found) = object.iter().flat_map(|object| object.progs()).find(named) {
            let fd = found.as_fd().try_clone_to_owned().context("failed to copy a program descriptor")?;
            program.loaded = Some(fd);
        }
    }
    Ok(Loaded { programs, object, hooks, firsts })
}

/// Tells libbpf the types of programs in sections that it does not know.
fn set_types(open: &mut OpenObject) {
    for mut program in open.progs_mut().filter(|program| program.prog_type() == ProgramType::Unspec) {
        match Section::parse(&program.section().to_string_lossy()) {
            Ok(Section::Perf(_)) => program.set_prog_type(ProgramType::PerfEvent),
            Ok(Section::Xdp(_)) => {
                program.set_prog_type(ProgramType::Xdp);
                program.set_attach_type(ProgramAttachType::Xdp);
            }
            _ => {}
        }
    }
}

/// The variables `kaddr_SYMBOL` and their values.
fn addresses(
    open: &OpenObject,
    file: &ObjectFile,
    config: &Config,
    symbols: &dyn Fn(&str) -> Result<u64, String>,
) -> Result<Vec<(Variable, u64)>> {
    if config.kaddrs.is_empty() {
        return Ok(Vec::new());
    }
    let known = globals::variables(open)?.unwrap_or_default();
    let address = |symbol: &String| {
        let name = format!("kaddr_{symbol}");
        let variable = known.iter().find(|variable| variable.name == name).cloned();
        let variable = variable.or_else(|| file.variable(&name)).with_context(|| {
            format!("kaddrs: the object has no variable `{name}`: declare `const volatile u64 {name} = 0;`")
        })?;
        if variable.size < size_of::<u64>() {
            let size = counted(variable.size, "byte");
            bail!("kaddrs: variable `{name}` has {size}, not 8: declare it as u64");
        }
        let address = symbols(symbol).map_err(|why| anyhow!("kaddrs: {why}"))?;
        Ok((variable, address))
    };
    config.kaddrs.iter().map(address).collect()
}

impl Loaded {
    /// Attaches each loaded program on its own, in their order in the file: see [`Program::attached`].
    pub fn attach(&mut self) {
        let Ok(object) = &mut self.object else { return };
        for program in self.programs.iter_mut().filter(|program| program.loaded.is_some()) {
            let found = object.progs_mut().find(|other| other.name().to_string_lossy() == program.name);
            let Some(found) = found else { continue };
            let hook = self.hooks.get(&program.name);
            let first = self.firsts.remove(&program.name);
            let copies =
                first.zip(hook).and_then(|(first, hook)| links::several(first, &found, hook, object));
            let attached = match copies {
                Some(copies) => Ok(copies),
                None => attach(&found, &program.section, hook)
                    .map(|links| Attached::Links(links.into_iter().map(Arc::new).collect())),
            };
            program.attached = match attached {
                Ok(links) => {
                    program.links = links;
                    Ok(())
                }
                Err(why) => Err(Obstacles::now().explain(&why)),
            };
        }
    }
}

fn attach(program: &ProgramMut<'_>, section: &str, hook: Option<&Hook>) -> Result<Vec<Link>, String> {
    match Section::parse(section)? {
        Section::Perf(sampling) => at_samples(program, sampling),
        Section::Xdp(interface) => at_interface(program, &interface).map(|link| vec![link]),
        Section::Libbpf => {
            links::attach_by_section(program, hook.unwrap_or(&Hook::Other(section.to_owned())))
        }
    }
}

fn at_samples(
    program: &ProgramMut<'_>,
    Sampling { kind, config, frequency }: Sampling,
) -> Result<Vec<Link>, String> {
    let on = |cpu: u32| {
        let event = perf::open_sampled(kind, config, frequency, cpu).map_err(|error| {
            format!("failed to open a perf event of type {kind}, config {config} on CPU {cpu}: {error}")
        })?;
        refusal::forget_details();
        let link = program.attach_perf_event(event.as_raw_fd());
        let link = link.map_err(|error| format!("CPU {cpu}: {}", refusal::with_details(&error)))?;
        // The link closes it.
        let _ = event.into_raw_fd();
        Ok(link)
    };
    let cpus = perf::online_cpus().map_err(|error| format!("{error:#}"))?;
    cpus.into_iter().map(on).collect()
}

fn at_interface(program: &ProgramMut<'_>, interface: &str) -> Result<Link, String> {
    let index = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::name_to_index(socket, interface))
        .map_err(|error| format!("interface {interface}: {error}"))?;
    let index = i32::try_from(index).map_err(|error| error.to_string())?;
    refusal::forget_details();
    program
        .attach_xdp(index)
        .map_err(|error| format!("interface {interface}: {}", refusal::with_details(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_object_moves_to_other_threads() {
        const fn moves<T: Send>() {}
        moves::<Loaded>();
    }
}
