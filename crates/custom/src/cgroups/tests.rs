// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of cgroups, in made-up folders.

use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::anyhow;

use super::inotify::Event;
use super::observer::Observer;
use super::tree::Tree;
use crate::steps::scratch::Scratch;

/// What an observer was told since it was asked last: `+` or `-`, and the path below the root.
#[derive(Clone, Default)]
struct Told {
    root: PathBuf,
    words: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn of(tree: &mut Tree, root: &Scratch) -> Self {
        let told = Self { root: root.path().to_owned(), ..Self::default() };
        tree.observe(Box::new(told.clone()));
        told
    }

    fn note(&self, sign: char, path: &Path) {
        let path = path.strip_prefix(&self.root).unwrap().display();
        self.words.lock().unwrap().push(format!("{sign}{path}"));
    }

    fn now(&self) -> Vec<String> {
        mem::take(&mut *self.words.lock().unwrap())
    }

    fn sorted(&self) -> Vec<String> {
        let mut words = self.now();
        words.sort();
        words
    }
}

impl Observer for Told {
    fn came(&mut self, _: u64, path: &Path) {
        self.note('+', path);
    }

    fn went(&mut self, _: u64, path: &Path) {
        self.note('-', path);
    }
}

#[test]
fn each_cgroup_is_told_of_once_when_it_comes_and_once_when_it_goes() {
    let root = Scratch::new("tree");
    let first = root.folder("a/b");
    let mut tree = Tree::new(root.path());
    let told = Told::of(&mut tree, &root);
    assert_eq!(told.sorted(), ["+", "+a", "+a/b"]);
    tree.catch_up();
    assert!(told.now().is_empty());
    // Below one that was there, and below one that is new itself.
    root.folder("a/b/c");
    root.folder("d/e/f");
    root.write("a/cgroup.procs", "");
    tree.catch_up();
    assert_eq!(told.sorted(), ["+a/b/c", "+d", "+d/e", "+d/e/f"]);
    fs::remove_dir_all(first).unwrap();
    tree.catch_up();
    assert_eq!(told.now(), ["-a/b/c", "-a/b"]);
    root.folder("d/e/g");
    tree.catch_up();
    assert_eq!(told.now(), ["+d/e/g"]);
}

#[test]
fn a_cgroup_made_anew_is_another() {
    let root = Scratch::new("anew");
    let group = root.folder("a");
    let mut tree = Tree::new(root.path());
    let told = Told::of(&mut tree, &root);
    told.now();
    fs::remove_dir(&group).unwrap();
    root.folder("a/b");
    tree.catch_up();
    assert_eq!(told.now(), ["-a", "+a", "+a/b"]);
    root.folder("a/c");
    tree.catch_up();
    assert_eq!(told.now(), ["+a/c"], "the new one is watched");
}

#[test]
fn one_that_is_gone_before_it_was_seen_is_not_told_of() {
    let root = Scratch::new("unseen");
    let mut tree = Tree::new(root.path());
    let told = Told::of(&mut tree, &root);
    told.now();
    fs::remove_dir(root.folder("a")).unwrap();
    root.folder("b");
    tree.catch_up();
    assert_eq!(told.now(), ["+b"]);
}

#[test]
fn a_walk_makes_up_for_events_that_the_kernel_dropped() {
    let root = Scratch::new("dropped");
    let group = root.folder("a");
    let mut tree = Tree::new(root.path());
    let told = Told::of(&mut tree, &root);
    told.now();
    fs::remove_dir(group).unwrap();
    root.folder("b/c");
    tree.drop_events();
    tree.catch_up();
    assert!(told.now().is_empty());
    tree.take(Event::Missed);
    assert_eq!(told.sorted(), ["+b", "+b/c", "-a"]);
    root.folder("b/c/d");
    tree.catch_up();
    assert_eq!(told.now(), ["+b/c/d"], "what the walk found is watched");
}

#[test]
fn walks_find_what_cannot_be_watched() {
    let root = Scratch::new("walks-instead");
    let group = root.folder("a");
    let mut tree = Tree::new(root.path());
    let told = Told::of(&mut tree, &root);
    told.now();
    tree.cannot_watch(&anyhow!("no room"));
    assert!(!tree.is_watched() && tree.descriptor().unwrap().is_none());
    fs::remove_dir(group).unwrap();
    root.folder("b/c");
    tree.catch_up();
    assert_eq!(told.sorted(), ["+b", "+b/c", "-a"]);
    tree.catch_up();
    assert!(told.now().is_empty());
}
