// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks imports: they go down the layers of `crates/common`, and no files import each other in a
//! cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::workspace::{files, root};

/// The modules at the top of `crates/common/src`, called rooms, from top to bottom. Code in a room
/// imports only from that room and from those below it.
const ROOMS: [&str; 8] = ["fixture", "process", "serve", "read", "kernel", "spec", "exposition", "words"];

/// Rooms that must not use libbpf.
const WITHOUT_LIBBPF: [&str; 4] = ["serve", "spec", "exposition", "words"];

/// Checks all crates of the workspace. `#[cfg(test)]` is left out: tests of the engine use its fixture.
///
/// # Errors
/// When a file cannot be read.
pub fn check(breaches: &mut Vec<String>) -> Result<()> {
    for name in crates()? {
        let folder = format!("crates/{name}/src");
        let mut sources = BTreeMap::new();
        for path in files(&folder, ".rs")? {
            let file = path.strip_prefix(root().join(&folder))?.to_string_lossy().into_owned();
            sources.insert(file, fs::read_to_string(path)?);
        }
        let imports = imports(&sources)?;
        let mut found = circles(&imports);
        if name == "common" {
            found.extend(upwards(&imports));
            found.extend(uses_of_libbpf(&sources)?);
        }
        breaches.extend(found.into_iter().map(|breach| format!("{folder}/{breach}")));
    }
    Ok(())
}

/// The folders in crates/, as the workspace lists its members.
fn crates() -> Result<Vec<String>> {
    let folders = fs::read_dir(root().join("crates"))?;
    folders.map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned())).collect()
}

/// For each file the other files that it imports from, and a path that it names there.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// The imports between the files of a crate. `sources` has the text of each file.
fn imports(sources: &BTreeMap<String, String>) -> Result<Imports> {
    let modules: BTreeMap<Vec<String>, &String> = sources.keys().map(|file| (module(file), file)).collect();
    let mut imports = Imports::new();
    for (file, text) in sources {
        let mut reader = Reader::new(module(file));
        reader.read(&tokens(file, text)?);
        let targets = imports.entry(file.clone()).or_default();
        for path in reader.paths {
            // A path may go on inside a file: the file is that of its longest prefix that is a module.
            let around = (0..=path.len()).rev().find_map(|length| modules.get(&path[..length]));
            if let Some(target) = around.filter(|target| **target != file) {
                targets.entry((*target).clone()).or_insert_with(|| format!("crate::{}", path.join("::")));
            }
        }
    }
    Ok(imports)
}

/// The module path of a file.
fn module(file: &str) -> Vec<String> {
    let mut names: Vec<String> = file.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    names.pop_if(|last| matches!(last.as_str(), "lib" | "main" | "mod"));
    names
}

fn tokens(file: &str, text: &str) -> Result<Vec<TokenTree>> {
    let stream: TokenStream = text.parse().map_err(|error| anyhow!("{file}: {error}"))?;
    Ok(without_tests(stream))
}

/// Removes items under `#[cfg(test)]`.
fn without_tests(stream: TokenStream) -> Vec<TokenTree> {
    let mut left = Vec::new();
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_for_tests = |token: &TokenTree| token.to_string().replace(' ', "") == "[cfg(test)]";
        if is_punct(Some(&token), '#') && tokens.peek().is_some_and(is_for_tests) {
            let ends = |token: &TokenTree| is_punct(Some(token), ';') || braces(token).is_some();
            tokens.find(ends);
        } else {
            left.push(token);
        }
    }
    left
}

fn braces(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) => (group.delimiter() == Delimiter::Brace).then_some(group),
        _ => None,
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// Collects the paths in a file that begin inside the crate.
struct Reader {
    /// The module being read.
    module: Vec<String>,
    /// Child modules that it declares.
    children: BTreeSet<String>,
    /// The paths found, from the crate's root.
    paths: Vec<Vec<String>>,
}

impl Reader {
    fn new(module: Vec<String>) -> Self {
        Self { module, children: BTreeSet::new(), paths: Vec::new() }
    }

    fn read(&mut self, tokens: &[TokenTree]) {
        for three in tokens.windows(3) {
            if word(three.first()).as_deref() == Some("mod") && is_punct(three.get(2), ';') {
                self.children.extend(word(three.get(1)));
            }
        }
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    let inline = at.checked_sub(2).and_then(|mod_| tokens.get(mod_..at));
                    let inline = inline.filter(|two| word(two.first()).as_deref() == Some("mod"));
                    let name = inline.and_then(|two| word(two.get(1)));
                    self.module.extend(name.clone());
                    self.read(&without_tests(group.stream()));
                    self.module.truncate(self.module.len() - usize::from(name.is_some()));
                }
                TokenTree::Ident(ident) if !goes_on(tokens, at) => {
                    let name = ident.to_string();
                    let mut start = self.module.clone();
                    match name.as_str() {
                        "crate" => start.clear(),
                        "self" => {}
                        "super" => drop(start.pop()),
                        child if self.children.contains(child) => start.push(name),
                        _ => continue,
                    }
                    if is_separator(tokens, at + 1) {
                        self.follow(tokens, at + 1, start);
                    }
                }
                _ => {}
            }
        }
    }

    /// Follows a path. `path` has its beginning; the rest starts at `tokens[at]`.
    fn follow(&mut self, tokens: &[TokenTree], mut at: usize, mut path: Vec<String>) {
        while is_separator(tokens, at) {
            let Some(next) = tokens.get(at + 2) else { break };
            if let Some(group) = braces(next) {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                for one in inside.split(|token| is_punct(Some(token), ',')) {
                    self.step(one.first(), &mut path.clone(), one);
                }
                return;
            }
            match word(Some(next)).as_deref() {
                Some("super") => drop(path.pop()),
                Some(name) => path.push(name.to_owned()),
                None => break,
            }
            at += 3;
        }
        self.paths.push(path);
    }

    /// Follows one of several paths in braces.
    fn step(&mut self, first: Option<&TokenTree>, path: &mut Vec<String>, tokens: &[TokenTree]) {
        if first.is_some() {
            path.extend(word(first).filter(|name| name != "self"));
            self.follow(tokens, 1, std::mem::take(path));
        }
    }
}

/// Whether `tokens[at]` is the start of `::`.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// Whether the word at `at` cannot begin a path: it follows `::`, or a `$` in a macro.
fn goes_on(tokens: &[TokenTree], at: usize) -> bool {
    let separator = at.checked_sub(2).is_some_and(|before| is_separator(tokens, before));
    separator || at.checked_sub(1).is_some_and(|before| is_punct(tokens.get(before), '$'))
}

/// The room of a file: its top folder, or its own name if it is in no folder.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// Files in no room, and imports from a higher room.
fn upwards(imports: &Imports) -> Vec<String> {
    let rank = |file: &str| ROOMS.iter().position(|name| *name == room(file));
    let mut breaches = Vec::new();
    // lib.rs declares the rooms, and no room imports from it.
    for (file, targets) in imports.iter().filter(|(file, _)| *file != "lib.rs") {
        let Some(own) = rank(file) else {
            breaches.push(format!("{file} is in no room: these are {}", ROOMS.join(", ")));
            continue;
        };
        for (target, path) in targets.iter().filter(|(target, _)| rank(target).is_none_or(|rank| rank < own))
        {
            let below = match &ROOMS[own + 1..] {
                [] => "nothing else of this crate".to_owned(),
                below => below.join(", "),
            };
            breaches.push(format!(
                "{file} imports {path} of {target}, which is above: from {} imports run down, to {below}",
                room(file)
            ));
        }
    }
    breaches
}

/// Uses of libbpf in rooms that must not use it.
fn uses_of_libbpf(sources: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for (file, text) in sources.iter().filter(|(file, _)| WITHOUT_LIBBPF.contains(&room(file))) {
        if names_libbpf(tokens(file, text)?) {
            breaches.push(format!("{file} uses libbpf, which {} does without", room(file)));
        }
    }
    Ok(breaches)
}

fn names_libbpf(tokens: Vec<TokenTree>) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => names_libbpf(without_tests(group.stream())),
        TokenTree::Ident(ident) => ident.to_string().starts_with("libbpf"),
        _ => false,
    })
}

/// Cycles between files; if there are none, cycles between folders.
fn circles(imports: &Imports) -> Vec<String> {
    let between_files =
        imports.iter().map(|(file, targets)| (file.as_str(), targets.keys().map(String::as_str)));
    let found = circles_of(&between_files.map(|(file, targets)| (file, targets.collect())).collect());
    if !found.is_empty() {
        return found;
    }
    let mut between_folders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, targets) in imports {
        let others = targets.keys().map(|target| room(target)).filter(|target| *target != room(file));
        between_folders.entry(room(file)).or_default().extend(others);
    }
    circles_of(&between_folders)
}

fn circles_of(graph: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let (mut breaches, mut told) = (Vec::new(), BTreeSet::new());
    for start in graph.keys().copied() {
        let Some(circle) =
            circle(graph, start).filter(|circle| circle.iter().all(|file| !told.contains(file)))
        else {
            continue;
        };
        breaches.push(format!(
            "{} -> {start} import each other in a circle: what both ends need belongs further down, or in a file of its own",
            circle.join(" -> ")
        ));
        told.extend(circle);
    }
    breaches
}

/// The shortest cycle through `start`.
fn circle<'g>(graph: &BTreeMap<&'g str, BTreeSet<&'g str>>, start: &'g str) -> Option<Vec<&'g str>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([vec![start]]);
    while let Some(way) = ways.pop_front() {
        for next in way.last().and_then(|last| graph.get(last)).into_iter().flatten().copied() {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back([&way[..], &[next]].concat());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    }

    fn imports_of(files: &[(&str, &str)]) -> Imports {
        imports(&sources(files)).expect("it is Rust")
    }

    #[test]
    fn an_import_against_the_direction_is_refused() {
        let files = [
            ("lib.rs", "pub mod kernel; pub mod process; pub mod spec; pub use process::cli::Cli;"),
            ("process/mod.rs", "pub mod cli;"),
            (
                "process/cli.rs",
                "use crate::kernel::{facts::Facts, links::{self, Links}}; use crate::spec::Spec;",
            ),
            ("kernel/mod.rs", "pub mod facts; pub mod links;"),
            ("kernel/facts.rs", "//! See [`crate::process::cli`].\nuse crate::spec::Spec;"),
            ("kernel/links.rs", "fn f() { g(&[crate::process::cli::Cli::new()]) }"),
            ("spec.rs", "#[cfg(test)]\nmod tests { use crate::process::cli::Cli; }"),
        ];
        let why = "kernel/links.rs imports crate::process::cli::Cli::new of process/cli.rs, which is above: from \
                   kernel imports run down, to spec, exposition, words";
        assert_eq!(upwards(&imports_of(&files)), [why]);
        let down: Vec<String> = imports_of(&files)["process/cli.rs"].keys().cloned().collect();
        assert_eq!(down, ["kernel/facts.rs", "kernel/links.rs", "spec.rs"]);
        let stray = imports_of(&[("lib.rs", "mod helpers;"), ("helpers.rs", "")]);
        assert!(upwards(&stray)[0].starts_with("helpers.rs is in no room"));
    }

    #[test]
    fn files_that_import_each_other_are_refused() {
        let files = [
            ("read/mod.rs", "pub mod decode; pub mod maps; pub mod render;"),
            ("read/decode.rs", "use super::maps::Maps;"),
            ("read/maps.rs", "fn f() { super::render::number() }"),
            ("read/render.rs", "use crate::read::{decode::Decoder, maps};"),
        ];
        let found = circles(&imports_of(&files));
        assert!(found[0].starts_with("read/decode.rs -> read/maps.rs -> read/render.rs -> read/decode.rs"));
        assert_eq!(found.len(), 1, "{found:?}");
        let parent =
            [("copies/mod.rs", "mod prologue; use prologue::X;"), ("copies/prologue.rs", "use super::Y;")];
        assert_eq!(circles(&imports_of(&parent)).len(), 1);
        let tree =
            [("main.rs", "mod a; mod b; fn main() { a::run() }"), ("a.rs", "use crate::b;"), ("b.rs", "")];
        assert!(circles(&imports_of(&tree)).is_empty());
    }

    #[test]
    fn folders_that_import_each_other_are_refused() {
        let files = [
            ("run/start.rs", "use crate::test::report;"),
            ("test/report.rs", ""),
            ("test/vm.rs", "use crate::run::shell;"),
            ("run/shell.rs", ""),
        ];
        assert!(circles(&imports_of(&files))[0].starts_with("run -> test -> run"));
    }

    #[test]
    fn libbpf_is_named_where_it_does_not_belong() {
        let all =
            [("exposition/hist.rs", "use libbpf_rs::Map;"), ("kernel/links.rs", "use libbpf_rs::Link;")];
        let found = uses_of_libbpf(&sources(&all)).expect("it is Rust");
        assert_eq!(found, ["exposition/hist.rs uses libbpf, which exposition does without"]);
    }
}
