// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bpf/wireguard_calls.bpf.h`, compiled for this machine: a call whose arguments are lost is counted
//! once, whether its exit comes or not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

mod harness;

/// One thread, whose calls of a function begin and end as the input says. Writes how many calls were
/// lost, how many ended with their arguments, and how many frames are left.
const HARNESS: &str = r#"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
typedef unsigned int u32;
typedef unsigned long long u64;
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define SEC(name)
enum { BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_ANY };
static void *bpf_map_lookup_elem(void *map, const void *key);
static long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags);
static long bpf_map_delete_elem(void *map, const void *key);
static u64 bpf_get_current_pid_tgid(void) { return 7; }
static u32 bpf_get_smp_processor_id(void) { return 0; }
#include "wireguard_calls.bpf.h"
static struct wireguard_arguments frame;
static bool is_there;
static struct events counted;
static void *bpf_map_lookup_elem(void *map, const void *key)
{
	(void)key;
	if (map == (void *)&events)
		return &counted;
	return map == (void *)&frames && is_there ? &frame : NULL;
}
static long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags)
{
	(void)key, (void)flags, (void)map;
	frame = *(const struct wireguard_arguments *)value;
	is_there = true;
	return 0;
}
static long bpf_map_delete_elem(void *map, const void *key)
{
	(void)key, (void)map;
	is_there = false;
	return 0;
}
int main(void)
{
	struct wireguard_arguments a;
	u64 begun = 0, ended = 0;
	int what;

	while ((what = getchar()) != EOF) {
		if (what == '(')
			keep(CALL_POLL, ++begun, 0, 0);
		else if (take(CALL_POLL, &a))
			ended++;
	}
	printf("%llu lost, %llu ended, %d left", counted.lost.no_start, ended, is_there);
	return 0;
}
"#;

/// The output of the harness. In `calls`, `(` is the start of a call and `)` is its end.
fn told(calls: &str) -> String {
    let flags = ["-Wno-unused-function", "-Wno-unknown-pragmas"];
    String::from_utf8(harness::run(HARNESS, &flags, calls.as_bytes().to_vec())).unwrap()
}

#[test]
fn calls_that_end_are_not_lost() {
    assert_eq!(told("()()()"), "0 lost, 3 ended, 0 left");
}

#[test]
fn a_call_whose_exit_never_comes_is_lost_once() {
    // The second and the fourth call have no exit.
    assert_eq!(told("()(()(()()"), "2 lost, 4 ended, 0 left");
}

#[test]
fn a_call_that_another_interrupts_is_lost_once() {
    assert_eq!(told("(())()"), "1 lost, 2 ended, 0 left");
}

#[test]
fn an_exit_whose_call_was_not_seen_is_lost() {
    assert_eq!(told(")()"), "1 lost, 1 ended, 0 left");
}
