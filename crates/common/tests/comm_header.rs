// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bpf/comm.bpf.h`, compiled for this machine: a name has one key, whatever bytes follow its NUL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

mod harness;

const HARNESS: &str = r#"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
typedef unsigned long long u64;
typedef long long s64;
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
struct task_struct {
	u64 before;
	struct task_struct *group_leader;
	char comm[16] __attribute__((aligned(8)));
};
#define FIELD(btf, ptr, field) ((ptr)->field)
#define bpf_probe_read_kernel(to, size, from) memcpy(to, from, size)
#include "comm.bpf.h"
int main(void)
{
	struct task_struct leader, thread = {.group_leader = &leader};
	char keys[2][COMM_LEN] __attribute__((aligned(8)));

	while (fread(leader.comm, sizeof(leader.comm), 1, stdin) == 1) {
		leader.group_leader = &leader;
		read_comm(keys[0], &thread, false);
		read_comm(keys[1], &thread, true);
		fwrite(keys, sizeof(keys), 1, stdout);
	}
	return 0;
}
"#;

/// The keys of `comms`: for each, the one read by the helper and the one read by plain loads.
fn keys(comms: &[[u8; 16]]) -> Vec<[[u8; 16]; 2]> {
    let output = harness::run(HARNESS, &["-fno-strict-aliasing"], comms.concat());
    let pairs = output.chunks_exact(32);
    pairs.map(|pair| [pair[..16].try_into().unwrap(), pair[16..].try_into().unwrap()]).collect()
}

/// A name, its NUL, and after that the bytes of `rest`.
fn comm(name: &[u8], rest: impl Fn(usize) -> u8) -> [u8; 16] {
    let byte = |at: usize| name.get(at).copied().unwrap_or(if at == name.len() { 0 } else { rest(at) });
    std::array::from_fn(byte)
}

#[test]
fn bytes_behind_the_nul_are_no_part_of_a_key() {
    // Arithmetic on words is most likely wrong for bytes next to 0 and 0x80.
    let fillings: [fn(usize) -> u8; 3] = [|_| b'x', |_| 0xff, |at| [1, 0x80, 0, 0x7f, 0x81][at % 5]];
    let letters: [fn(usize) -> u8; 3] = [|at| b'a' + at as u8, |_| 0x80, |at| [1, 0xff, 0x81][at % 3]];
    let mut cases = Vec::new();
    for length in 0..16 {
        for letter in letters {
            let name: Vec<u8> = (0..length).map(letter).collect();
            cases.extend(fillings.map(|rest| (comm(&name, rest), comm(&name, |_| 0))));
        }
    }
    // A name without a NUL, which the kernel never makes.
    cases.push(([b'n'; 16], [b'n'; 16]));
    let comms: Vec<[u8; 16]> = cases.iter().map(|(comm, _)| *comm).collect();
    let keys = keys(&comms);
    assert_eq!(keys.len(), 16 * 9 + 1);
    for ((comm, expected), key) in cases.iter().zip(keys) {
        assert_eq!(key, [*expected; 2], "{comm:?}");
    }
}
