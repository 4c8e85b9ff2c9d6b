// SPDX-License-Identifier: MIT OR Apache-2.0
//! The headers for users' programs: each function and macro compiles without a warning, and the numbers
//! are those of the definition.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, thread};

/// Compiled for this machine: the logarithms, the slots that the macros add to, and their values.
const HARNESS: &str = r#"
#include <stdio.h>
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
enum { BPF_NOEXIST = 1 };
/* A map of 80 slots. */
static u64 slots[80];
static int made[80];
static void *bpf_map_lookup_elem(void *map, const void *key)
{
	u32 slot = *(const u32 *)key;
	(void)map;
	return made[slot] ? &slots[slot] : NULL;
}
static long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags)
{
	u32 slot = *(const u32 *)key;
	(void)map;
	if (flags != BPF_NOEXIST || made[slot])
		return -1;
	made[slot] = 1;
	slots[slot] = *(const u64 *)value;
	return 0;
}
#include "maps.bpf.h"
struct key { u32 bucket; };
/* The slot that has 1, and whether the one after the last has the value. */
static void shown(u32 max, u64 v)
{
	u32 i, found = 0;
	for (i = 0; i <= max; i++)
		if (slots[i] == 1)
			found = i;
	printf(" %u %d", found, slots[max + 1] == v && made[max + 1] == (v > 0));
	for (i = 0; i < 80; i++)
		slots[i] = made[i] = 0;
}
int main(void)
{
	struct key key = {};
	u64 v;
	while (scanf("%llu", &v) == 1) {
		printf("%u %u %u", (u32)log2((u32)v), (u32)log2l(v), (u32)log2l_histogram(v));
		increment_exp2_histogram(&slots, key, v, 70);
		shown(70, v);
		increment_exp2zero_histogram_nosync(&slots, key, v, 70);
		shown(70, v);
		increment_exp2_histogram_nosync(&slots, key, v, 5);
		shown(5, v);
		increment_exp2zero_histogram(&slots, key, v, 5);
		shown(5, v);
		printf("\n");
	}
	return 0;
}
"#;

/// Compiled for the kernel: all that a user's program may use.
const PROGRAM: &str = r#"
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bits.bpf.h"
#include "maps.bpf.h"
#include "regs-ip.bpf.h"
#include "tracing.bpf.h"
#include "maps.bpf.h"

struct key_t {
	u64 bucket;
};

struct span_t {
	struct span_base_t span_base;
	u64 more;
};

struct tagged_t {
	struct span_base_tagged_t span_base;
	u64 more;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, struct key_t);
	__type(value, u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

SEC("kprobe/vfs_read")
int probe(struct pt_regs *ctx)
{
	struct span_parent_tagged_t tagged = { 1, 2, 3, 4 };
	struct span_parent_t parent = { 1, 2, 3 };
	struct key_t key = {};
	u64 *count;
	u32 zero = 0;

	increment_map(&counts, &key, log2(increment_map(&counts, &key, 1)));
	increment_map_nosync(&counts, &key, log2l(PT_REGS_PARM1(ctx)));
	increment_exp2_histogram(&counts, key, log2l_histogram(5), 20);
	increment_exp2_histogram_nosync(&counts, key, KPROBE_REGS_IP_FIX(PT_REGS_IP(ctx)), 20);
	increment_exp2zero_histogram(&counts, key, 5, 20);
	increment_exp2zero_histogram_nosync(&counts, key, 5, 20);
	lookup_or_zero_init_key(&counts, &key, count);
	__sync_fetch_and_add(count, 1);
	read_array_ptr(&array, &zero, count);
	*count += 1;
	submit_span(&ring, struct span_t, &parent, {
		span->span_base.span_id = 4;
		span->more = 5;
	});
	submit_span_tagged_base(&ring, struct tagged_t, &tagged, { span->more = 6; });
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
"#;

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

fn values() -> Vec<u64> {
    let powers = (0..64).map(|n| 1u64 << n);
    let mut values: Vec<u64> = powers.flat_map(|v| [v - 1, v, v + 1]).collect();
    values.push(u64::MAX);
    // A fixed sequence (Knuth's MMIX multiplier), spread over all magnitudes.
    let mut state = 42u64;
    for n in 0..10_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.push(state >> (n % 64));
    }
    values
}

/// What the harness prints for a value, by definition.
fn expected(v: u64) -> String {
    let floor = |v: u64| v.checked_ilog2().unwrap_or(0);
    // The smallest k with v <= 2^k.
    let ceil = (0..64).find(|k| v <= 1u64 << k).unwrap_or(64);
    let zero = if v == 0 { 0 } else { ceil + 1 };
    #[allow(clippy::cast_possible_truncation, reason = "the function takes 32 bits")]
    let mut line = format!("{} {} {ceil}", floor(u64::from(v as u32)), floor(v));
    for slot in [ceil, zero, ceil.min(5), zero.min(5)] {
        write!(line, " {slot} 1").expect("memory");
    }
    line
}

#[test]
fn values_are_in_the_slots_of_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("harness.c"), folder.path().join("harness"));
    fs::write(&source, HARNESS).unwrap();
    // In place of libbpf's, as the harness has functions of its own.
    fs::create_dir(folder.path().join("bpf")).unwrap();
    fs::write(folder.path().join("bpf/bpf_helpers.h"), "").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-I"]).arg(folder.path()).arg("-I").arg(include());
    let status = cc.arg(&source).arg("-o").arg(&binary).status().unwrap();
    assert!(status.success());
    let values = values();
    let input: String = values.iter().map(|v| format!("{v}\n")).collect();
    let mut child = Command::new(&binary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the harness starts");
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), values.len());
    for (value, line) in values.iter().zip(lines) {
        assert_eq!(line, expected(*value), "{value}");
    }
}

#[test]
fn a_program_compiles_with_every_macro() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bpf")).unwrap();
    for (name, text) in libbpf_sys::API_HEADERS {
        fs::write(folder.path().join("bpf").join(name), text).unwrap();
    }
    let source = folder.path().join("program.bpf.c");
    fs::write(&source, PROGRAM).unwrap();
    let types = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/vmlinux").join(std::env::consts::ARCH);
    let arch = if cfg!(target_arch = "x86_64") { "x86" } else { "arm64" };
    // The first is the oldest instruction set, in which an atomic addition returns nothing.
    for cpu in ["-mcpu=v1", "-mcpu=v3"] {
        let mut clang = Command::new("clang-14");
        clang.args(["-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Werror", cpu]);
        clang.arg(format!("-D__TARGET_ARCH_{arch}"));
        for folder in [&include(), folder.path(), &types] {
            clang.arg("-I").arg(folder);
        }
        clang.arg("-c").arg(&source).arg("-o").arg(folder.path().join("program.bpf.o"));
        assert!(clang.status().unwrap().success(), "{cpu}");
    }
}
