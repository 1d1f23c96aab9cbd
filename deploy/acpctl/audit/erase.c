/* erase.c - acpctl audit erase: removes personal values from the audit log; its chains still verify.
 *
 * Each table has its own transaction, which also writes the audit row about the erasure. If the program dies in
 * between, a second run does the rest. */
#include "ctl_audit.h"

struct erasure {
	struct ctl *ctl;
	const char *tenant, *before; /* NULL: no limit */
	bool dry;
	char moment[64]; /* before, in the form that is printed */
	int64_t erased, old, waiting, archived;
	struct json_object *archives;
};

static int64_t number_in(struct json_object *rows, const char *column)
{
	return json_object_get_int64(ctl_value(rows, column));
}

/* Erases values in one table of the log. False after reporting the error. */
static bool erase_table(struct erasure *e, const char *name)
{
	const char *values[] = {name, e->tenant, e->before, e->ctl->config.kernel_id, e->dry ? "t" : "f"};
	struct json_object *rows = ctl_query(e->ctl, "erase table", values);
	if (!rows)
		return false;
	e->erased += number_in(rows, "values_of");
	e->old += number_in(rows, "old");
	json_object_put(rows);
	return true;
}

static bool erase_tables(struct erasure *e)
{
	struct json_object *tables = ctl_query(e->ctl, "erase tables", NULL);
	bool ok = tables != NULL;
	for (size_t i = 0; ok && i < json_object_array_length(tables); i++)
		ok = erase_table(e, acp_json_string(json_object_array_get_idx(tables, i), "name"));
	json_object_put(tables);
	return ok;
}

/* Erases values in rows that wait for a remote hub. */
static bool erase_outbox(struct erasure *e)
{
	const char *values[] = {e->tenant, e->before};
	struct json_object *rows = ctl_query(e->ctl, e->dry ? "erase outbox dry" : "erase outbox", values);
	if (rows)
		e->waiting = number_in(rows, "rows");
	json_object_put(rows);
	return rows != NULL;
}

/* Finds archives with rows of the selection. Their files are not changed. */
static bool find_archives(struct erasure *e)
{
	const char *values[] = {e->tenant, e->before};
	e->archives = ctl_query(e->ctl, "erase archives", values);
	for (size_t i = 0; e->archives && i < json_object_array_length(e->archives); i++)
		e->archived +=
			json_object_get_int64(acp_json_member(json_object_array_get_idx(e->archives, i), "rows"));
	return e->archives != NULL;
}

/* Reads the time as UTC, whatever the server's time zone. */
static bool read_before(struct erasure *e)
{
	if (!ctl_begin(e->ctl, "begin"))
		return false;
	struct json_object *rows = e->before ? audit_instants(e->ctl, e->before, NULL) : NULL;
	if (e->before && !rows)
		return false;
	if (rows)
		acp_copy(e->moment, sizeof e->moment, json_object_get_string(ctl_value(rows, "first")));
	json_object_put(rows);
	e->before = e->before ? e->moment : NULL;
	return ctl_run(e->ctl, "commit", NULL);
}

/* Locks out acpctl audit archive, which would otherwise write unerased rows to a file. */
static bool lock(struct erasure *e)
{
	if (e->dry)
		return true;
	struct json_object *rows = ctl_query(e->ctl, "archive lock", NULL);
	bool mine = rows && json_object_get_boolean(ctl_value(rows, "mine"));
	if (rows && !mine)
		ctl_fail("acpctl audit archive or acpctl audit erase is running: run this again when it has ended");
	json_object_put(rows);
	return mine;
}

static void print(const struct erasure *e)
{
	if (e->ctl->json)
		printf("{\"erased\":%lld,\"dry_run\":%s,\"waiting\":%lld,\"old_rows\":%lld,\"archived_rows\":%lld}\n",
		       (long long)e->erased, e->dry ? "true" : "false", (long long)e->waiting, (long long)e->old,
		       (long long)e->archived);
	else if (e->ctl->csv)
		printf("erased,dry_run,waiting,old_rows,archived_rows\n%lld,%s,%lld,%lld,%lld\n", (long long)e->erased,
		       e->dry ? "true" : "false", (long long)e->waiting, (long long)e->old, (long long)e->archived);
	else
		printf("%s the personal values of %lld audit row%s\n", e->dry ? "would erase" : "erased",
		       (long long)e->erased, e->erased == 1 ? "" : "s");
	if (e->waiting && !e->ctl->json && !e->ctl->csv)
		printf("%s those of %lld row%s on the way to the hub\n", e->dry ? "would erase" : "erased",
		       (long long)e->waiting, e->waiting == 1 ? "" : "s");
}

/* Reports rows that keep their values; exit status 3 if there are any. */
static int conclude(const struct erasure *e)
{
	print(e);
	if (e->old)
		ctl_fail("%lld rows keep theirs: they were written before schema version 10, and their chain_hash "
			 "depends on "
			 "the values; acpctl audit archive moves their months to files, which you can keep apart or "
			 "delete",
			 (long long)e->old);
	for (size_t i = 0; i < json_object_array_length(e->archives); i++) {
		struct json_object *archive = json_object_array_get_idx(e->archives, i);
		ctl_fail(
			"the archive %s has %lld of these rows, and files are not changed: if acpctl audit verify FILE "
			"finds fewer erased rows, keep it apart or delete it",
			acp_json_string(archive, "file"),
			(long long)json_object_get_int64(acp_json_member(archive, "rows")));
	}
	return e->old || e->archived ? ACPCTL_WAITING : ACPCTL_OK;
}

int ctl_audit_erase(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	struct erasure e = {.ctl = ctl,
			    .tenant = ctl_option(ctl, "tenant"),
			    .before = ctl_option(ctl, "before"),
			    .dry = ctl_flag(ctl, "dry-run")};
	if (!e.tenant && !e.before)
		return ctl_misuse("give --tenant TENANT, --before TIME, or both, to choose the rows");
	/* A UUID is not looked up: this database may have rows of a tenant that it does not know. */
	if (e.tenant && !acp_is_uuid(e.tenant)) {
		if (!ctl_tenant_id(ctl, e.tenant, tenant))
			return ACPCTL_FAILED;
		e.tenant = tenant;
	}
	bool ok = read_before(&e) && lock(&e) && erase_tables(&e) && erase_outbox(&e) && find_archives(&e);
	int status = ok ? conclude(&e) : ACPCTL_FAILED;
	json_object_put(e.archives);
	return status;
}
