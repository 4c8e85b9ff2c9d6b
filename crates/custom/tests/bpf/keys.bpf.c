// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Keys of all widths, and input for every decoder. `what` 0 adds the rows that are the same
 * everywhere; the others add one row made of `value`, which the test takes from the machine.
 */
#include "trigger.bpf.h"

enum keys_what { KEYS_FIXED = 0, KEYS_DEVICE = 1, KEYS_CGROUP = 2, KEYS_SYMBOL = 3 };

struct keys_port {
	u16 port;
	u8 pad[6];
};

struct keys_padded {
	u8 first;
	u8 pad[3];
	u32 second;
};

struct keys_uints {
	u64 eight;
	u32 four;
	u16 two;
	u8 one;
	u8 pad;
};

struct keys_words {
	u32 known;
	u32 allowed;
	u32 none;
};

struct keys_addresses {
	u8 v4[4];
	u8 v6[16];
};

struct keys_stack {
	u64 frames[20];
};

struct keys_pci {
	u32 vendor;
	u32 device;
	u32 class;
	u32 subclass;
};

struct keys_bytes3 {
	u8 bytes[3];
};

struct keys_bytes13 {
	char bytes[13];
};

struct keys_bytes16 {
	char bytes[16];
};

struct keys_bytes32 {
	char bytes[32];
};

struct keys_bytes128 {
	char bytes[128];
};

COUNTERS(keys_u8_total, HASH, 16, u8);
COUNTERS(keys_port_total, HASH, 16, struct keys_port);
COUNTERS(keys_padded_total, HASH, 16, struct keys_padded);
COUNTERS(keys_u64_total, HASH, 16, u64);
COUNTERS(keys_wide_total, HASH, 16, struct keys_bytes16);
COUNTERS(keys_long_total, HASH, 16, struct keys_bytes128);
COUNTERS(keys_uints_total, HASH, 16, struct keys_uints);
COUNTERS(keys_uint3_total, HASH, 16, struct keys_bytes3);
COUNTERS(keys_words_total, HASH, 16, struct keys_words);
COUNTERS(keys_regexp_total, HASH, 16, struct keys_bytes16);
COUNTERS(keys_regexp_group_total, HASH, 16, struct keys_bytes16);
COUNTERS(keys_regexp_groups_total, HASH, 16, struct keys_bytes16);
COUNTERS(keys_errno_total, HASH, 16, u32);
COUNTERS(keys_ip_total, HASH, 16, struct keys_addresses);
COUNTERS(keys_dname_total, HASH, 16, struct keys_bytes32);
COUNTERS(keys_dname_root_total, HASH, 16, struct keys_bytes13);
COUNTERS(keys_ifname_total, HASH, 16, u32);
COUNTERS(keys_syscall_total, HASH, 16, u32);
COUNTERS(keys_pci_total, HASH, 16, struct keys_pci);
COUNTERS(keys_device_total, HASH, 16, u32);
COUNTERS(keys_cgroup_total, HASH, 16, u64);
COUNTERS(keys_ksym_total, HASH, 16, u64);
COUNTERS(keys_kstack_total, HASH, 16, struct keys_stack);

#define ADD(map, n, ...)                                  \
	({                                                \
		__typeof__(*(map).key) key = __VA_ARGS__; \
		increment_map(&map, &key, n);             \
	})

static __always_inline void keys_numbers(void)
{
	ADD(keys_u8_total, 2, 7);
	ADD(keys_port_total, 3, {.port = 443});
	ADD(keys_padded_total, 5, {.first = 5, .second = 70000});
	ADD(keys_u64_total, 7, 0xffffffffffffffffULL);
	ADD(keys_wide_total, 11, {"\x01\x02\xab"});
	ADD(keys_long_total, 13, {"/a/long/path"});
	ADD(keys_uints_total, 17, {1ULL << 32, 1 << 16, 1 << 8, 1, 0});
	ADD(keys_uint3_total, 19, {{1, 2, 3}});
}

static __always_inline void keys_texts(void)
{
	ADD(keys_words_total, 2, {0, 0, 0});
	ADD(keys_words_total, 3, {9, 9, 9});
	ADD(keys_regexp_total, 5, {"abc123"});
	ADD(keys_regexp_total, 7, {"abc"});
	ADD(keys_regexp_group_total, 11, {"abc123"});
	ADD(keys_regexp_groups_total, 13, {"abc123"});
	ADD(keys_dname_total, 17, {"\007example\003com"});
	ADD(keys_dname_total, 19, {""});
	ADD(keys_dname_total, 23, {"\077example"});
	ADD(keys_dname_root_total, 29, {"\007example\003com"});
}

static __always_inline void keys_kernel(void)
{
	ADD(keys_errno_total, 2, 0);
	ADD(keys_errno_total, 3, 2);
	ADD(keys_errno_total, 5, 58);
	ADD(keys_errno_total, 7, 95);
	ADD(keys_errno_total, 11, 512);
	ADD(keys_ip_total, 13, {{127, 0, 0, 1}, {[15] = 1}});
	ADD(keys_ip_total, 17, {{10, 1, 2, 3}, {[10] = 255, 255, 192, 0, 2, 1}});
	ADD(keys_ifname_total, 19, 1);
	ADD(keys_ifname_total, 23, 999999);
	ADD(keys_syscall_total, 29, 7);
	ADD(keys_syscall_total, 31, 202);
	ADD(keys_syscall_total, 37, 231);
	ADD(keys_syscall_total, 41, 462);
	ADD(keys_pci_total, 43, {0x8086, 0x80861237, 0x06, 0x0600});
	ADD(keys_pci_total, 47, {0xfffe, 0xfffefffe, 0xfe, 0xfefe});
}

ON_TRIGGER(keys_triggered)
{
	switch (what) {
	case KEYS_FIXED:
		keys_numbers();
		keys_texts();
		keys_kernel();
		break;
	case KEYS_DEVICE:
		ADD(keys_device_total, 53, value);
		break;
	case KEYS_CGROUP:
		ADD(keys_cgroup_total, 59, value);
		break;
	case KEYS_SYMBOL:
		ADD(keys_ksym_total, 61, value);
		ADD(keys_ksym_total, 67, value + 1);
		ADD(keys_kstack_total, 71, {{value, value + 1}});
		break;
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
