/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __DNS_MESSAGE_BPF_H
#define __DNS_MESSAGE_BPF_H

/* Parsing of DNS messages (RFC 1035, 4.1). */
#define DNS_HEADER 12
#define DNS_NAME_MAX 255
#define DNS_QR 0x80
#define DNS_OPCODE 0x78
#define DNS_RCODE 0x0f

/* In the order of the words in userland. */
enum dns_type {
	DNS_A,
	DNS_AAAA,
	DNS_PTR,
	DNS_SRV,
	DNS_MX,
	DNS_TXT,
	DNS_CNAME,
	DNS_NS,
	DNS_SOA,
	DNS_HTTPS,
	DNS_OTHER_TYPE,
};

/* A parsed message. */
struct dns_message {
	u8 header[4]; /* id, flags */
	u32 type;     /* enum dns_type */
	u64 hash;
};

static __always_inline u32 type_of(u16 number)
{
	switch (number) {
	case 1:
		return DNS_A;
	case 28:
		return DNS_AAAA;
	case 12:
		return DNS_PTR;
	case 33:
		return DNS_SRV;
	case 15:
		return DNS_MX;
	case 16:
		return DNS_TXT;
	case 5:
		return DNS_CNAME;
	case 2:
		return DNS_NS;
	case 6:
		return DNS_SOA;
	case 65:
		return DNS_HTTPS;
	}
	return DNS_OTHER_TYPE;
}

#define DNS_LABEL_MAX 63
#define DNS_LABELS_MAX 128

static __always_inline bool read_bytes(void *to, u32 size, const void *from, bool user)
{
	return !(user ? bpf_probe_read_user(to, size, from)
		      : bpf_probe_read_kernel(to, size, from));
}

/* Eight letters at once, 'A' to 'Z' to lower case; label lengths are below 'A'. */
static __always_inline u64 lower_case(u64 letters)
{
	const u64 each = 0x0101010101010101ULL;
	u64 low = letters & each * 0x7f;
	u64 from_a = low + each * (0x80 - 'A'), after_z = low + each * (0x7f - 'Z');

	return letters | ((from_a ^ after_z) & ~letters & each * 0x80) >> 2;
}

/*
 * A step of FNV-1a on a word. A product never moves a bit down: without the shift the upper bits of
 * a word, which tell some letters apart, would only be in the upper bits of the hash.
 */
static __always_inline u64 add_word(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x100000001b3ULL;
	return hash ^ hash >> 32;
}

/* Labels for one call of skip_labels(). */
#define DNS_LABELS_STEP 16

/* In the result of skip_labels(): the name ends there. */
#define DNS_NAME_END (1 << 16)

/*
 * Where the labels end that begin `end` bytes after `from`, DNS_LABELS_STEP of them at most; 0 if
 * they are no labels of a name.
 *
 * Functions that are not static are verified on their own, once per program. A loop around a call
 * of one costs the verifier only the call. Their arguments are numbers, as 5.10 takes no pointers.
 */
__noinline u32 skip_labels(u64 from, u32 size, u32 end, u32 user)
{
	for (u32 i = 0; i < DNS_LABELS_STEP; i++) {
		u8 label = 0;

		if (end >= size || !read_bytes(&label, sizeof(label), (void *)from + end, user))
			return 0;
		if (!label)
			return (end + 1) | DNS_NAME_END;
		end += label + 1;
		if (label > DNS_LABEL_MAX || end >= DNS_NAME_MAX)
			return 0;
		/* Hide the value from the verifier, or it would follow each label separately. */
		asm volatile("%0 &= 255" : "+r"(end));
	}
	return end;
}

/* A question as one word: its type + 1 in the lowest bits, above these a hash of name and type. */
#define DNS_TYPE_BITS 4

/*
 * The question of `length` bytes at `message`, in user memory if `user`; 0 if they are no message
 * with a question. The hash is FNV-1a on words; the name is in lower case, because resolvers change
 * the case of letters to make answers hard to forge.
 */
__noinline u64 parse_question(u64 message, u32 length, u32 user)
{
	u64 name[(DNS_NAME_MAX + 1) / sizeof(u64)] = {};
	u64 hash = 0xcbf29ce484222325ULL, from = message + DNS_HEADER;
	u32 size = length - DNS_HEADER, end = 0, i;
	u8 type[2] = {};

	for (i = 0; i < DNS_LABELS_MAX / DNS_LABELS_STEP && !(end & DNS_NAME_END); i++) {
		end = skip_labels(from, size, end, user);
		if (!end)
			return 0;
	}
	if (!(end & DNS_NAME_END))
		return 0;
	end &= DNS_NAME_MAX;
	if (end + sizeof(type) > size || !read_bytes(type, sizeof(type), (void *)from + end, user))
		return 0;
	/* Again, because at that comparison 6.12 forgets the bound. */
	asm volatile("%0 &= 255" : "+r"(end));
	if (!read_bytes(name, end, (void *)from, user))
		return 0;
	for (i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		if (i * sizeof(name[0]) >= end)
			break;
		hash = add_word(hash, lower_case(name[i]));
	}
	hash = add_word(hash, type[0] << 8 | type[1]);
	return hash << DNS_TYPE_BITS | (type_of(type[0] << 8 | type[1]) + 1);
}

static __always_inline bool read_question(const void *message, u32 length, bool user,
					  struct dns_message *m)
{
	u64 question = parse_question((u64)message, length, user);

	m->type = (question & ((1 << DNS_TYPE_BITS) - 1)) - 1;
	m->hash = question;
	return question;
}

static __always_inline bool is_answer(const struct dns_message *m)
{
	return m->header[2] & DNS_QR;
}

static __always_inline u16 id_of(const struct dns_message *m)
{
	return m->header[0] << 8 | m->header[1];
}

#endif /* __DNS_MESSAGE_BPF_H */
