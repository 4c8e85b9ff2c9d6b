// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The yardstick of benches/scrape.rs: reads every element of the map with the given
 * descriptor, one key after the other, adds the CPUs up and prints the fastest of ROUNDS
 * in nanoseconds.
 */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static unsigned long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long long best = ~0ULL, total = 0;
	unsigned long long values[1024];
	char keys[2][256];
	int fd, cpus, rounds;

	if (argc != 4)
		return 2;
	fd = atoi(argv[1]);
	cpus = atoi(argv[2]);
	rounds = atoi(argv[3]);
	for (int round = 0; round < rounds; round++) {
		unsigned long long start = now(), elapsed;
		union bpf_attr attr;
		int which = 0;
		void *key = NULL;

		for (;;) {
			memset(&attr, 0, sizeof(attr));
			attr.map_fd = fd;
			attr.key = (unsigned long)key;
			attr.next_key = (unsigned long)keys[which];
			if (bpf(BPF_MAP_GET_NEXT_KEY, &attr))
				break;
			key = keys[which];
			which = !which;
			memset(&attr, 0, sizeof(attr));
			attr.map_fd = fd;
			attr.key = (unsigned long)key;
			attr.value = (unsigned long)values;
			if (bpf(BPF_MAP_LOOKUP_ELEM, &attr))
				return 1;
			for (int cpu = 0; cpu < cpus; cpu++)
				total += values[cpu];
		}
		elapsed = now() - start;
		if (elapsed < best)
			best = elapsed;
	}
	printf("%llu %llu\n", best, total / rounds);
	return 0;
}
