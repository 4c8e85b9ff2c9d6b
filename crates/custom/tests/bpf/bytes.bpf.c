// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The name that the test gave its thread, of any bytes. */
#include "trigger.bpf.h"

struct bytes_key {
	char comm[16];
	char kind[4];
};

COUNTERS(bytes_total, HASH, 256, struct bytes_key);

ON_TRIGGER(bytes_triggered)
{
	struct bytes_key key = {.kind = "a|b"};

	bpf_get_current_comm(key.comm, sizeof(key.comm));
	increment_map(&bytes_total, &key, 29);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
