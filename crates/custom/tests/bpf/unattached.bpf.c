// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Programs that are loaded and not attached: libbpf has no place for them, or the place that they
 * name is missing.
 */
#include "trigger.bpf.h"

#define UNATTACHED(section, name) \
	SEC(section)              \
	int name(void *ctx)       \
	{                         \
		return 1;         \
	}

UNATTACHED("xdp", unattached_xdp)
UNATTACHED("xdp/no-such-device", unattached_no_device)
UNATTACHED("tc", unattached_tc)
UNATTACHED("socket", unattached_socket)
UNATTACHED("sockops", unattached_sockops)
UNATTACHED("sk_lookup", unattached_sk_lookup)
UNATTACHED("cgroup/dev", unattached_cgroup_dev)
UNATTACHED("cgroup_skb/egress", unattached_cgroup_skb)
UNATTACHED("perf_event", unattached_perf_event)
UNATTACHED("perf_event/type=1,config=99,frequency=1", unattached_no_event)
UNATTACHED("uprobe/no-such-program:main", unattached_no_program)
UNATTACHED("usdt/no-such-program:a:b", unattached_no_usdt)

ON_TRIGGER(unattached_triggered)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
