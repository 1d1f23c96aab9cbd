#include "journal_shares.h"

#include "crypto.h"
#include "json.h"

/* Tenants are counted by their hash. Two tenants rarely have the same one, and then they share a share. */
enum { COUNTS = 1 << 16 };

struct acp_journal_shares {
	int64_t strangers;
	int64_t tenants[COUNTS];
};

static size_t hash(const char *text)
{
	uint32_t mixed = 2166136261u;
	for (; *text; text++)
		mixed = (mixed ^ (unsigned char)*text) * 16777619u;
	return (mixed ^ mixed >> 16) % COUNTS;
}

/* Events without a tenant are those of strangers, or of the program itself, which has no limit (NULL). */
static int64_t *count_of(struct acp_journal_shares *shares, struct json_object *event)
{
	const char *tenant = acp_json_string(event, "tenant_id");
	const char *actor = acp_json_string(event, "actor_type");
	if (strcmp(tenant, ACP_NIL_UUID) != 0)
		return &shares->tenants[hash(tenant)];
	return actor && strcmp(actor, "anonymous") == 0 ? &shares->strangers : NULL;
}

/* Adds the bytes of so many events, divided equally among them. */
static void count(struct acp_journal_shares *shares, struct json_object *const *events, size_t number, int64_t bytes)
{
	for (size_t i = 0; i < number; i++) {
		int64_t *used = count_of(shares, events[i]);
		if (used)
			*used += bytes / (int64_t)number;
		if (used && *used < 0)
			*used = 0;
	}
}

bool acp_journal_share_take(struct acp_journal_shares **shares, const struct acp_journal_limits *limits,
			    struct json_object *const *events, size_t number, int64_t bytes, const char **why)
{
	*why = "out of memory";
	if (!*shares && !(*shares = calloc(1, sizeof **shares)))
		return false;
	for (size_t i = 0; i < number; i++) {
		const int64_t *used = count_of(*shares, events[i]);
		bool stranger = used == &(*shares)->strangers;
		*why = stranger ? "strangers have used their share (journal_strangers_percent)"
				: "a tenant has used its share (journal_tenant_percent)";
		if (used && *used + bytes > (stranger ? limits->strangers : limits->tenant))
			return false;
	}
	count(*shares, events, number, bytes);
	return true;
}

void acp_journal_share_give_back(struct acp_journal_shares *shares, struct json_object *const *events, size_t number,
				 int64_t bytes)
{
	count(shares, events, number, -bytes);
}

void acp_journal_share_end(struct acp_journal_shares **shares)
{
	free(*shares);
	*shares = NULL;
}
