/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __COMM_KEY_BPF_H
#define __COMM_KEY_BPF_H

#include "core_fixes.bpf.h"
#include "comm.bpf.h"

/* A key: the name of a process, and where these are told apart its cgroup (version 2). */
struct comm_key {
	char comm[COMM_LEN];
	u64 cgroup; /* id; 0: not told apart */
};

static __always_inline void read_comm_key(struct comm_key *key, struct task_struct *task,
					  bool by_cgroup, bool btf)
{
	read_comm(key->comm, task, btf);
	key->cgroup = by_cgroup ? FIELD(btf, task, cgroups, dfl_cgrp, kn, id) : 0;
}

#endif /* __COMM_KEY_BPF_H */
