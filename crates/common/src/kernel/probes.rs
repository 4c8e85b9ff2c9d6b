// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decides which program of each probe is used. [`Plan::new`] makes the decision from facts, without
//! side effects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail};
use libbpf_rs::OpenObject;

use crate::kernel::facts::{Facts, KPROBES};
use crate::kernel::hook::{Hook, Hooks};
use crate::kernel::types::KERNEL_BTF;
use crate::spec::{Need, Probe, Shape, Spec, View};

/// Programs that the kernel refused, and why.
pub type Refused = BTreeMap<String, String>;

/// The decision about a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The best candidate is used.
    Ok {
        /// Names of its programs.
        programs: Vec<String>,
    },
    /// Another candidate is used.
    Fallback {
        /// Names of its programs.
        programs: Vec<String>,
        /// Their kind of hook.
        kind: String,
        /// Why the best candidate is not used.
        why: String,
    },
    /// No candidate can be used.
    Unsupported {
        /// The reasons, for all candidates.
        why: String,
    },
    /// Like [`Verdict::Unsupported`], but nothing is missing because of it.
    NotApplicable {
        /// Why not.
        why: String,
    },
}

impl Verdict {
    /// The programs that are used; empty if none can be.
    pub fn programs(&self) -> &[String] {
        match self {
            Self::Ok { programs } | Self::Fallback { programs, .. } => programs,
            Self::Unsupported { .. } | Self::NotApplicable { .. } => &[],
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { .. } => f.write_str("ok"),
            Self::Fallback { kind, why, .. } => write!(f, "fallback: {kind} ({why})"),
            Self::Unsupported { why } => write!(f, "unsupported: {why}"),
            Self::NotApplicable { why } => write!(f, "not applicable: {why}"),
        }
    }
}

/// A verdict for each probe of a spec, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Probe name and verdict.
    pub verdicts: Vec<(String, Verdict)>,
}

impl Plan {
    /// Decides from facts and earlier refusals. Pure.
    pub fn new(spec: &Spec, hooks: &Hooks, facts: &Facts, refused: &Refused) -> Self {
        let why_not = |program: &str| why_not(program, spec, hooks, facts, refused);
        let hidden = |view: View| facts.hidden.get(&view).cloned();
        let decide = |probe: &Probe| {
            let verdict = match probe.view.and_then(hidden) {
                Some(why) => Verdict::Unsupported { why },
                None if probe.view.is_some() => Verdict::Ok { programs: Vec::new() },
                None => verdict(probe, hooks, why_not),
            };
            (probe.name.to_string(), verdict)
        };
        Self { verdicts: spec.probes.iter().map(decide).collect() }
    }

    /// Programs to load.
    pub fn programs(&self) -> BTreeSet<&str> {
        self.verdicts.iter().flat_map(|(_, verdict)| verdict.programs()).map(String::as_str).collect()
    }

    /// The first required probe that cannot be attached, and why.
    pub fn missing<'p>(&'p self, spec: &'p Spec) -> Option<(&'p str, &'p str)> {
        spec.probes.iter().zip(&self.verdicts).find_map(|(probe, (name, verdict))| match verdict {
            Verdict::Unsupported { why } if probe.need == Need::Required => {
                Some((name.as_str(), why.as_str()))
            }
            _ => None,
        })
    }

    /// Maps and members (`MAP.MEMBER`) that would be wrong because their probe is unsupported. They
    /// are not exported, instead of being shown as zero.
    pub fn unfed(&self, spec: &Spec) -> BTreeSet<String> {
        let probes = spec.probes.iter().zip(&self.verdicts);
        let unfed = probes.filter_map(|(probe, (_, verdict))| match (&probe.need, verdict) {
            (Need::Optional { feeds }, Verdict::Unsupported { .. }) => Some(feeds),
            _ => None,
        });
        unfed.flatten().map(ToString::to_string).collect()
    }
}

/// Why `program` cannot be used, as far as is known before loading.
pub fn why_not(
    program: &str,
    spec: &Spec,
    hooks: &Hooks,
    facts: &Facts,
    refused: &Refused,
) -> Option<String> {
    match (hooks.get(program), refused.get(program)) {
        (None, _) => Some("the object has no such program".to_owned()),
        (Some(_), Some(why)) => Some(why.clone()),
        (Some(hook), None) => unavailable(hook, spec.shapes.get(program), facts),
    }
}

fn verdict(probe: &Probe, hooks: &Hooks, why_not: impl Fn(&str) -> Option<String>) -> Verdict {
    let mut reasons: Vec<String> = Vec::new();
    for candidate in &probe.candidates {
        let programs = || candidate.iter().map(ToString::to_string).collect();
        let Some(why) = candidate.iter().find_map(|program| why_not(program)) else {
            let Some(why) = reasons.into_iter().next() else { return Verdict::Ok { programs: programs() } };
            let kind = candidate.first().and_then(|program| hooks.get(&**program)).map_or("?", Hook::kind);
            return Verdict::Fallback { programs: programs(), kind: kind.to_owned(), why };
        };
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }
    let why = reasons.join("; ");
    match &probe.need {
        Need::WherePresent => Verdict::NotApplicable { why },
        _ => Verdict::Unsupported { why },
    }
}

/// Why a program that requires `shape` cannot attach to `hook`, as far as facts tell.
fn unavailable(hook: &Hook, shape: Option<&Shape>, facts: &Facts) -> Option<String> {
    match hook {
        hook if hook.needs_btf() && !facts.own_btf => {
            return Some(format!("{KERNEL_BTF} does not exist here"));
        }
        hook if hook.is_breakpoint() && !facts.kprobes => {
            return Some(format!("no kprobes: {KPROBES} does not exist here"));
        }
        hook if hook.is_by_ftrace() && facts.danger.is_some() => return facts.danger.clone(),
        _ => {}
    }
    if let Some(why) = hook.view().and_then(|view| facts.hidden.get(&view)) {
        return Some(why.clone());
    }
    let (what, name, has) = match (hook.tracepoint(), hook.function()) {
        (Some(name), _) => ("tracepoint", name, facts.tracepoints.get(name)),
        (_, Some(name)) => ("function", name, facts.functions.get(name)),
        _ => return None,
    };
    match (has, shape) {
        // BTF does not describe all functions that have a symbol, and kprobes need only the symbol.
        (None, None) if hook.is_breakpoint() => {}
        (None, _) => {
            // The function may exist nevertheless, in a module without BTF.
            let article = if what == "function" { "BTF of a " } else { "" };
            return Some(format!("this kernel has no {article}{what} {name}"));
        }
        (Some(has), shape) => {
            if let Some(why) = shape.and_then(|shape| has.misses(shape)) {
                return Some(format!("{what} {name} {why} on this kernel"));
            }
        }
    }
    facts.places(hook).err()
}

/// Sets which programs of `object` are loaded.
pub fn choose(object: &mut OpenObject, wanted: &BTreeSet<&str>) {
    for mut program in object.progs_mut() {
        let load = program.name().to_str().is_some_and(|name| wanted.contains(name));
        program.set_autoload(load);
    }
}

/// Checks that every candidate program of `spec` is in the object.
///
/// # Errors
/// When a program is missing. The error names the probe and the program.
pub fn validate(spec: &Spec, hooks: &Hooks) -> Result<()> {
    for probe in &spec.probes {
        for program in probe.candidates.iter().flatten() {
            hooks
                .get(&**program)
                .with_context(|| format!("probe {}: the object has no program `{program}`", probe.name))?;
        }
    }
    Ok(())
}

/// Checks that no program has an atomic instruction other than an add whose result is not used.
/// Kernel 5.10 knows no other (91c960b00566 "bpf: Rename BPF_XADD and prepare to encode other atomics
/// in .imm", 5.12). clang also generates others where the source does not show it, for example for
/// an add of 0.
///
/// # Errors
/// When there is another one. The error names the program and the instruction.
pub fn check_atomics(object: &OpenObject) -> Result<()> {
    let atomic = [libbpf_sys::BPF_W, libbpf_sys::BPF_DW].map(|size| libbpf_sys::BPF_STX | size | 0xc0);
    for program in object.progs() {
        let bad = program.insns().iter().position(|i| atomic.contains(&i.code.into()) && i.imm != 0);
        if let Some(at) = bad {
            bail!(
                "program {}: instruction {at} is an atomic that 5.10 does not know",
                program.name().display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::preemption::Preemption;
    use crate::kernel::symbols::Symbols;
    use crate::kernel::types::Prototype;

    fn spec() -> Spec {
        Spec::new("x", 1, "x").required("issue", &["issue_btf", "issue_raw"]).optional(
            "bio",
            &["bio_btf"],
            &["bios"],
        )
    }

    fn hooks() -> Hooks {
        let hooks = [
            ("issue_btf", "tp_btf/block_rq_issue"),
            ("issue_raw", "raw_tp/block_rq_issue"),
            ("bio_btf", "tp_btf/block_bio_queue"),
        ];
        hooks.map(|(program, section)| (program.to_owned(), Hook::parse(section))).into()
    }

    fn facts() -> Facts {
        Facts {
            own_btf: true,
            danger: None,
            tracepoints: ["block_rq_issue", "block_bio_queue"]
                .map(|name| (name.to_owned(), Prototype::of(1)))
                .into(),
            functions: [("vfs_read".to_owned(), Prototype::of(4))].into(),
            kprobes: true,
            enumerators: BTreeMap::new(),
            preemption: Preemption::default(),
            hidden: BTreeMap::new(),
            symbols: None,
        }
    }

    fn plan(facts: &Facts, refused: &Refused) -> Plan {
        Plan::new(&spec(), &hooks(), facts, refused)
    }

    #[test]
    fn the_best_program_is_used_where_everything_is_there() {
        let plan = plan(&facts(), &Refused::new());
        assert_eq!(plan.programs(), ["bio_btf", "issue_btf"].into());
        assert_eq!(plan.missing(&spec()), None);
        assert!(plan.unfed(&spec()).is_empty());
        assert_eq!(plan.verdicts[0].1.to_string(), "ok");
    }

    #[test]
    fn without_own_btf_the_bare_twin_is_used() {
        let without = Facts { own_btf: false, ..facts() };
        let plan = plan(&without, &Refused::new());
        assert!(unavailable(&Hook::parse("iter/task"), None, &without).is_some());
        assert_eq!(plan.programs(), ["issue_raw"].into());
        assert_eq!(
            plan.verdicts[0].1.to_string(),
            "fallback: raw_tp (/sys/kernel/btf/vmlinux does not exist here)"
        );
        assert_eq!(plan.unfed(&spec()), ["bios".to_owned()].into());
    }

    #[test]
    fn a_missing_tracepoint_is_fatal_only_where_required() {
        let mut facts = facts();
        facts.tracepoints.remove("block_bio_queue");
        assert_eq!(plan(&facts, &Refused::new()).missing(&spec()), None);
        facts.tracepoints.remove("block_rq_issue");
        let plan = plan(&facts, &Refused::new());
        assert_eq!(plan.missing(&spec()), Some(("issue", "this kernel has no tracepoint block_rq_issue")));
    }

    #[test]
    fn what_was_refused_is_not_tried_again() {
        let refused = [("issue_btf".to_owned(), "Operation not permitted".to_owned())].into();
        let verdict = &plan(&facts(), &refused).verdicts[0].1;
        assert_eq!(verdict.programs(), ["issue_raw"]);
        assert_eq!(verdict.to_string(), "fallback: raw_tp (Operation not permitted)");
    }

    #[test]
    fn what_is_hidden_leaves_out_what_needs_to_see_it() {
        let spec =
            Spec::new("x", 1, "x").optional("tasks", &["walk"], &["cpu"]).sees("/proc", View::Processes);
        let hooks = [("walk".to_owned(), Hook::parse("iter/task"))].into();
        let plan = |hidden: &[(View, &str)]| {
            let hidden = hidden.iter().map(|(view, why)| (*view, (*why).to_owned())).collect();
            Plan::new(&spec, &hooks, &Facts { hidden, ..facts() }, &Refused::new())
        };
        let open = plan(&[]);
        assert_eq!((open.programs(), open.unfed(&spec)), (["walk"].into(), BTreeSet::new()));
        assert_eq!(open.verdicts[1].1.to_string(), "ok");
        let inside = plan(&[(View::Tasks, "a container")]);
        assert_eq!((inside.programs(), inside.unfed(&spec)), (BTreeSet::new(), ["cpu".to_owned()].into()));
        assert_eq!(inside.verdicts[0].1.to_string(), "unsupported: a container");
        assert_eq!(inside.verdicts[1].1.to_string(), "ok");
        let alone = plan(&[(View::Processes, "hidepid")]);
        assert_eq!(alone.programs(), ["walk"].into());
        assert_eq!(alone.verdicts[1].1.to_string(), "unsupported: hidepid");
    }

    #[test]
    fn programs_of_a_candidate_are_used_together_or_not_at_all() {
        let sections = [
            ("in", "fentry/vfs_read"),
            ("out", "fexit/vfs_read"),
            ("kin", "kprobe/vfs_read"),
            ("kout", "kretprobe/vfs_read"),
        ];
        let hooks = sections.map(|(program, section)| (program.to_owned(), Hook::parse(section))).into();
        let spec = Spec::new("x", 1, "x").optional("vfs_read", &["in+out", "kin+kout"], &["reads"]);
        let plan = |spec: &Spec, facts: &Facts, refused: &Refused| Plan::new(spec, &hooks, facts, refused);
        assert_eq!(plan(&spec, &facts(), &Refused::new()).programs(), ["in", "out"].into());
        let refused = [("out".to_owned(), "no".to_owned())].into();
        let fallback = plan(&spec, &facts(), &refused);
        assert_eq!(fallback.programs(), ["kin", "kout"].into());
        assert_eq!(fallback.verdicts[0].1.to_string(), "fallback: kprobe (no)");
        let without = plan(&spec, &Facts { kprobes: false, ..facts() }, &refused);
        assert_eq!(
            without.verdicts[0].1.to_string(),
            "unsupported: no; no kprobes: /sys/bus/event_source/devices/kprobe does not exist here"
        );
        assert_eq!(without.unfed(&spec), ["reads".to_owned()].into());
        let other = plan(&spec.shape("out", Shape::Arguments(3)), &facts(), &Refused::new());
        let why = "fallback: kprobe (function vfs_read has 4 arguments, not 3 on this kernel)";
        assert_eq!(other.verdicts[0].1.to_string(), why);
    }

    #[test]
    fn where_calls_go_to_copies_only_programs_that_read_no_arguments_are_used() {
        let sections =
            [("in", "fentry/vfs_read"), ("kin", "kprobe/vfs_read"), ("kout", "kretprobe/vfs_read")];
        let mut hooks: Hooks =
            sections.map(|(program, section)| (program.to_owned(), Hook::parse(section))).into();
        let spec = Spec::new("x", 1, "x").optional("vfs_read", &["in", "kin+kout"], &["reads"]);
        let text = "0 t vfs_read\n0 t vfs_read.isra.0\n";
        let symbols = Symbols::parse(text.as_bytes(), &["vfs_read"].into()).ok();
        let facts = Facts { symbols, ..facts() };
        let verdict = |hooks: &Hooks| Plan::new(&spec, hooks, &facts, &Refused::new()).verdicts[0].1.clone();
        let why = "some calls of function vfs_read go to compiler-made copies of it, which have";
        let (types, arguments) =
            (format!("{why} no types: vfs_read.isra.0"), format!("{why} other arguments: vfs_read.isra.0"));
        assert_eq!(verdict(&hooks).to_string(), format!("unsupported: {types}; {arguments}"));
        let blind = Hook::Kprobe { function: "vfs_read".to_owned(), reads_arguments: false };
        hooks.insert("kin".to_owned(), blind);
        assert_eq!(verdict(&hooks).to_string(), format!("fallback: kprobe ({types})"));
        let at = |program: &str| facts.places(&hooks[program]).expect("places");
        assert_eq!((at("kin"), at("kout")), (vec!["vfs_read", "vfs_read.isra.0"], at("kin")));
    }
}
