// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#define PLAIN_OWN 2
#define PLAIN_ADD 5
#include "plain.bpf.c"
