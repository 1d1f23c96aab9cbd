#include "stripe_signature.h"

#include "buf.h"
#include "crypto.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 4096, DIGITS_MAX = 11 };

static const char malformed[] = "the header Stripe-Signature must have the form t=SECONDS,v1=HEX";

/* The parts of the header; v1 may occur several times. */
struct parts {
	const char *t; /* the signed text, not its numeric value */
	size_t t_len;
	int signatures;
};

/* Called for each v1 of the header. */
typedef void on_signature(void *arg, const char *hex, size_t len);

static bool read_time(struct parts *parts, const char *value, size_t len)
{
	if (parts->t || len < 1 || len > DIGITS_MAX || strspn(value, "0123456789") != len)
		return false;
	parts->t = value;
	parts->t_len = len;
	return true;
}

/* Unknown names belong to other signature schemes and are skipped. False: the header is malformed. */
static bool each_part(const char *header, struct parts *parts, on_signature *visit, void *arg)
{
	size_t total = strlen(header);
	if (total == 0 || total > HEADER_MAX || header[total - 1] == ',')
		return false;
	for (const char *at = header; *at;) {
		size_t len = strcspn(at, ",");
		size_t name = strcspn(at, "=");
		if (name == 0 || name >= len || strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_") != name)
			return false;
		const char *value = at + name + 1;
		size_t value_len = len - name - 1;
		if (name == 1 && *at == 't') {
			if (!read_time(parts, value, value_len))
				return false;
		} else if (name == 2 && strncmp(at, "v1", 2) == 0) {
			parts->signatures++;
			if (visit)
				visit(arg, value, value_len);
		}
		at += len + (at[len] == ',');
	}
	return parts->t && parts->signatures;
}

struct comparison {
	char expected[ACP_SHA256_HEX];
	bool equal;
};

static void compare(void *arg, const char *hex, size_t len)
{
	struct comparison *with = arg;
	if (len == ACP_SHA256_HEX - 1 && acp_equal_const_time(with->expected, hex, len))
		with->equal = true;
}

/* HMAC-SHA-256 of "<t>.<body>" in hex. */
static void sign(const char *secret, size_t secret_len, const struct parts *parts, const void *body, size_t body_len,
		 char hex[ACP_SHA256_HEX])
{
	uint8_t mac[ACP_SHA256_LEN];
	char head[32]; /* digits, at most 20 of them */
	snprintf(head, sizeof head, "%.*s.", (int)parts->t_len, parts->t);
	acp_hmac_sha256_behind(secret, secret_len, head, body, body_len, mac);
	acp_hex(mac, sizeof mac, hex);
}

static bool in_time(const struct parts *parts, int64_t now)
{
	int64_t age = now - strtoll(parts->t, NULL, 10);
	return age <= ACP_STRIPE_TOLERANCE && age >= -ACP_STRIPE_TOLERANCE;
}

bool acp_stripe_signature_plausible(const char *header, int64_t now)
{
	struct parts parts = {0};
	return header && each_part(header, &parts, NULL, NULL) && in_time(&parts, now);
}

const char *acp_stripe_signature_fault(const char *secrets, const char *header, const void *body, size_t body_len,
				       int64_t now)
{
	struct parts parts = {0};
	bool valid = false;
	if (!header)
		return "the header Stripe-Signature is missing";
	if (!each_part(header, &parts, NULL, NULL))
		return malformed;
	for (const char *at = secrets; *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		struct parts ignored = {0};
		struct comparison with = {.equal = false};
		sign(at, len, &parts, body, body_len, with.expected);
		if (each_part(header, &ignored, compare, &with) && with.equal)
			valid = true;
		at += len;
	}
	if (!valid)
		return "no signature in the header Stripe-Signature matches this body";
	if (!in_time(&parts, now))
		return "the signature is more than 300 s old, or ahead of this host's clock";
	return NULL;
}
