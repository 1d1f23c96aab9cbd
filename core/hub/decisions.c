#include "decisions.h"

#include "crypto.h"
#include "json.h"

#include <pthread.h>

struct slot {
	uint8_t key[ACP_SHA256_LEN];
	int64_t version;
	uint64_t valid_until;
	struct json_object *decision; /* NULL: empty */
};

struct acp_decisions {
	pthread_mutex_t lock;
	int64_t version;
	size_t count;
	struct slot *slots;
};

struct acp_decisions *acp_decisions_new(size_t slots)
{
	struct acp_decisions *table = calloc(1, sizeof *table);
	if (!table)
		return NULL;
	table->count = slots;
	table->slots = calloc(slots, sizeof *table->slots);
	if (!table->slots) {
		free(table);
		return NULL;
	}
	pthread_mutex_init(&table->lock, NULL);
	return table;
}

void acp_decisions_free(struct acp_decisions *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->count; i++)
		json_object_put(table->slots[i].decision);
	pthread_mutex_destroy(&table->lock);
	free(table->slots);
	free(table);
}

/* Hashes everything that identifies a call. A NUL ends each part, and no part contains one, so parts cannot run
 * together. */
static bool make_key(struct json_object *query, uint8_t key[ACP_SHA256_LEN])
{
	static const char *const parts[] = {"action", "actor_type", "api_key_id", "tenant_id", "request_hash"};
	struct acp_buf text;
	acp_buf_init(&text, 4096);
	for (size_t i = 0; i < ACP_COUNT(parts); i++) {
		const char *part = acp_json_string(query, parts[i]);
		acp_buf_puts(&text, part ? part : "");
		acp_buf_putc(&text, '\0');
	}
	acp_buf_puts(&text, acp_json_bool(query, "dry_run") ? "dry" : "");
	bool ok = acp_buf_ok(&text);
	if (ok)
		acp_sha256(text.ptr, text.len, key);
	acp_buf_release(&text);
	return ok;
}

static struct slot *slot_of(struct acp_decisions *table, const uint8_t key[ACP_SHA256_LEN])
{
	size_t number = 0;
	memcpy(&number, key, sizeof number);
	return &table->slots[number % table->count];
}

/* Threads must not share a value, because json-c counts references without locks. */
static struct json_object *copy_of(struct json_object *value)
{
	struct json_object *copy = NULL;
	return json_object_deep_copy(value, &copy, NULL) == 0 ? copy : NULL;
}

void acp_decisions_version(struct acp_decisions *table, int64_t version)
{
	pthread_mutex_lock(&table->lock);
	if (version > table->version)
		table->version = version;
	pthread_mutex_unlock(&table->lock);
}

void acp_decisions_put(struct acp_decisions *table, struct json_object *query, struct json_object *decision,
		       int64_t version, int64_t ttl_ms, uint64_t now)
{
	struct slot fresh = {.version = version, .valid_until = now + (uint64_t)ttl_ms * 1000};
	acp_decisions_version(table, version);
	if (ttl_ms <= 0 || !make_key(query, fresh.key) || !(fresh.decision = copy_of(decision)))
		return;
	pthread_mutex_lock(&table->lock);
	struct slot *slot = slot_of(table, fresh.key);
	struct json_object *old = fresh.decision;
	if (version == table->version) {
		old = slot->decision;
		*slot = fresh;
	}
	pthread_mutex_unlock(&table->lock);
	json_object_put(old);
}

struct json_object *acp_decisions_get(struct acp_decisions *table, struct json_object *query, uint64_t now)
{
	uint8_t key[ACP_SHA256_LEN];
	struct json_object *copy = NULL;
	if (!make_key(query, key))
		return NULL;
	pthread_mutex_lock(&table->lock);
	struct slot *slot = slot_of(table, key);
	if (slot->decision && memcmp(slot->key, key, sizeof key) == 0 && slot->version == table->version &&
	    now < slot->valid_until)
		copy = copy_of(slot->decision);
	pthread_mutex_unlock(&table->lock);
	return copy;
}
