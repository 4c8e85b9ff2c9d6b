// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kaddr.bpf.c"
const volatile u64 kaddr_no_such_symbol = 0;
