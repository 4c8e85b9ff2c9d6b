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
 * Hash (FNV-1a on words) of the name and type of the question. The name is in lower case, because
 * resolvers change the case of letters to make answers hard to forge.
 */
static __noinline bool read_question(const void *message, u32 length, bool user,
				     struct dns_message *m)
{
	u64 name[(DNS_NAME_MAX + 1) / sizeof(u64)] = {};
	u64 hash = 0xcbf29ce484222325ULL;
	u32 size = length - DNS_HEADER, end = 0, i;
	const void *from = message + DNS_HEADER;
	u8 label = 0, type[2] = {};

	for (i = 0; i < DNS_LABELS_MAX; i++) {
		if (end >= size || !read_bytes(&label, sizeof(label), from + end, user))
			return false;
		if (!label)
			break;
		end += label + 1;
		if (label > DNS_LABEL_MAX || end >= DNS_NAME_MAX)
			return false;
		/* Hide the value from the verifier, or it would follow each label separately. */
		asm volatile("%0 &= 255" : "+r"(end));
	}
	end++;
	if (label || end + sizeof(type) > size || end > DNS_NAME_MAX ||
	    !read_bytes(name, end, from, user) || !read_bytes(type, sizeof(type), from + end, user))
		return false;
	for (i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		if (i * sizeof(name[0]) >= end)
			break;
		hash = (hash ^ lower_case(name[i])) * 0x100000001b3ULL;
	}
	m->type = type_of(type[0] << 8 | type[1]);
	m->hash = (hash ^ type[0] << 8 ^ type[1]) * 0x100000001b3ULL;
	return true;
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
