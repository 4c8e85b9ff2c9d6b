// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control groups that come and go: one watcher of the tree for the whole process, and who is told.

mod inotify;
mod map;
mod observer;
#[cfg(test)]
mod tests;
mod tree;
mod watcher;

pub use map::GroupMap;
pub use watcher::Watcher;
