/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __CORE_FIXES_BPF_H
#define __CORE_FIXES_BPF_H

/*
 * The only place that knows that kernels differ. Each entry names the change,
 * the accessor that hides it, and when the old shape may be forgotten.
 *
 * Accessors take `btf`: true where the verifier knows the pointer's type (tp_btf,
 * fentry), so that a plain load will do; false in a raw_tp twin, where memory is
 * read by a helper. It is a constant at every call and costs nothing.
 */
#define FIELD(btf, ptr, field) ((btf) ? (ptr)->field : BPF_CORE_READ(ptr, field))

/*
 * a54895fa057c ("block: remove the request_queue to argument request based
 * tracepoints"), 5.11, and back-ported to 5.10.137: the request was the second
 * argument and became the first. Likewise e8a676d61c07 ("block: simplify and
 * extend the block_bio_merge tracepoint class") for block_bio_queue, 5.11, not
 * back-ported. Userland counts the arguments in BTF. May go with 5.10.
 *
 * Written as assembly because clang merges two loads from the context into one
 * at a computed offset, which the verifier refuses.
 */
static __always_inline void *arg_first_or_second(void *ctx, bool second)
{
	void *arg;

	if (second)
		asm volatile("%0 = *(u64 *)(%1 + 8)" : "=r"(arg) : "r"(ctx));
	else
		asm volatile("%0 = *(u64 *)(%1 + 0)" : "=r"(arg) : "r"(ctx));
	return arg;
}

/*
 * f3fa33acca9f ("block: remove the ->rq_disk field in struct request"), 5.17:
 * the disk moved to the queue. May go with 5.15.
 */
struct request___pre_5_17 {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *request_disk(struct request *rq, bool btf)
{
	struct request___pre_5_17 *old = (void *)rq;
	struct request_queue *q;

	if (bpf_core_field_exists(old->rq_disk))
		return FIELD(btf, old, rq_disk);
	q = FIELD(btf, rq, q);
	return q ? FIELD(btf, q, disk) : NULL;
}

/*
 * 309dca309fc3 ("block: store a block_device pointer in struct bio"), 5.12: a bio
 * used to point at its disk. May go with 5.10.
 */
struct bio___pre_5_12 {
	struct gendisk *bi_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *bio_disk(struct bio *bio, bool btf)
{
	struct bio___pre_5_12 *old = (void *)bio;
	struct block_device *bdev;

	if (bpf_core_field_exists(old->bi_disk))
		return FIELD(btf, old, bi_disk);
	bdev = FIELD(btf, bio, bi_bdev);
	return bdev ? FIELD(btf, bdev, bd_disk) : NULL;
}

#endif /* __CORE_FIXES_BPF_H */
