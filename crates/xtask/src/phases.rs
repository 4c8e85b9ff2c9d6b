// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long steps print a line when they begin, and another one with their duration.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

static TIMES: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// Runs `work` and prints a line before and after it.
///
/// # Errors
/// Those of `work`.
pub fn named<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("[{name}] ...");
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    println!("[{name}] {} after {} s", if result.is_ok() { "done" } else { "FAILED" }, took.as_secs());
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), took));
    result
}

/// Prints the durations of all phases of this process. Some of them ran at the same time.
pub fn print() {
    println!("phases:");
    for (name, took) in TIMES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{:>6} s  {name}", took.as_secs());
    }
}
