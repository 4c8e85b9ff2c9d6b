// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are attached.

use std::collections::BTreeMap;

use libbpf_rs::{ErrorKind, Link, Object, ProgramMut};

use crate::hook::{Hook, Hooks};
use crate::kernel::Facts;
use crate::logging;
use crate::probes::Plan;
use crate::symbols::{Symbols, likely_symbols};

/// The links of each program: several where compilers made several symbols of a function.
pub type Links = BTreeMap<String, Vec<Link>>;

/// Attaches the programs of a plan.
///
/// # Errors
/// On the first that the kernel refuses: returns its name and why. Links made
/// before are gone then.
pub fn attach(object: &Object, plan: &Plan, hooks: &Hooks, facts: &Facts) -> Result<Links, (String, String)> {
    let wanted = plan.programs();
    let mut links = Links::new();
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if wanted.contains(name.as_str()) {
            let made = match hooks.get(&name) {
                Some(hook) if hook.is_breakpoint() => by_breakpoint(&program, hook, facts),
                _ => program.attach().map(|link| vec![link]).map_err(|error| logging::with_details(&error)),
            };
            match made {
                Ok(made) => links.insert(name, made),
                Err(why) => return Err((name, why)),
            };
        }
    }
    Ok(links)
}

fn by_breakpoint(program: &ProgramMut<'_>, hook: &Hook, facts: &Facts) -> Result<Vec<Link>, String> {
    // None: the kernel has no such function.
    let attach = |symbol: &str| match program.attach_kprobe(matches!(hook, Hook::Kretprobe(_)), symbol) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(logging::with_details(&error)),
    };
    if facts.symbols.is_some() {
        let links = facts.places(hook)?.into_iter().map(|symbol| {
            attach(symbol)?.ok_or_else(|| format!("neither kernel nor modules have a function {symbol}"))
        });
        return links.collect();
    }
    let function = hook.function().unwrap_or_default();
    let (mut symbols, mut links) = (Vec::new(), Vec::new());
    for symbol in likely_symbols(function) {
        if let Some(link) = attach(&symbol)? {
            symbols.push(symbol);
            links.push(link);
        }
    }
    // What the program has taken for arguments meanwhile goes with its maps, as it is refused.
    Symbols::of_one(function, symbols).places(hook)?;
    Ok(links)
}
