/* reader.c - calls read-only functions, and combines concurrent calls into one statement. */
#include "reader.h"

#include "buf.h"
#include "clock.h"
#include "crypto.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	MAX_CALLS = 8,    /* maximum number of calls in one statement */
	GATHER_US = 1000, /* longest wait of a statement for more calls */
	MAX_IN_PROGRESS = 2,
	VALUES = 3, /* values of one call */
	SLOW_US = 50000,
	SLOW_APART_US = 1000000,
	REFUSED_APART_US = 100000,
};

/* The results of a statement, shared by its calls. */
struct acp_read_rows {
	PGresult *rows;
	atomic_int users;
};

enum state { WAITS, LEADS, APART, DONE };

/* A waiting call, on the stack of its thread. */
struct waiting {
	struct waiting *next;
	const char *values[VALUES];
	enum state state;
	pthread_cond_t changed;
	enum acp_db_status status; /* valid in state DONE */
	struct acp_read *read;
	struct acp_db_error *error;
};

/* A function and its statements: created at its first call, kept as long as the reader. */
struct function {
	struct function *next;
	char name[130];
	bool shares; /* calls may share a transaction, because the function is built in */
	char one_name[32], many_name[32];
	char one_sql[512], many_sql[1024];
	struct acp_db_statement one, many;
	pthread_mutex_t lock; /* protects the members below */
	int in_progress;
	uint64_t apart_until_us;
	size_t recent;    /* number of calls in the last finished statement */
	uint64_t took_us; /* duration of that statement */
	struct waiting *first, **last;
	size_t length;         /* length of the waiting list */
	pthread_cond_t enough; /* signals that as many calls wait as were in the last statement */
};

struct acp_reader {
	struct acp_db_pool *pool;
	pthread_mutex_t lock; /* protects the list */
	struct function *functions;
};

/* Statements ----------------------------------------------------------------------------------------------------- */

/* Returns the length of the SQL identifier at the start of text; 0: none. */
static size_t identifier(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
	return len <= 63 ? len : 0;
}

bool acp_function_name(const char *function, char out[ACP_FUNCTION_SIZE])
{
	size_t first = identifier(function);
	const char *rest = function + first;
	size_t second = *rest == '.' ? identifier(rest + 1) : 0;
	if (first && !*rest)
		snprintf(out, ACP_FUNCTION_SIZE, "acp.%s", function);
	else if (first && second && !rest[1 + second])
		snprintf(out, ACP_FUNCTION_SIZE, "\"%.*s\".\"%s\"", (int)first, function, rest + 1);
	else
		return false;
	return true;
}

/* Behind a pooler, the names of all processes share one namespace. Therefore the name is derived from the statement. */
static struct acp_db_statement statement(char name[32], const char *sql, int count)
{
	uint8_t hash[ACP_SHA256_LEN];
	char digits[17];
	acp_sha256(sql, strlen(sql), hash);
	acp_hex(hash, 8, digits);
	snprintf(name, 32, "acp_read_%s", digits);
	return (struct acp_db_statement){.name = name, .sql = sql, .count = count};
}

/* One statement is one transaction. It is made read-only before the function runs: a function wrongly marked as
 * read-only then fails instead of changing something outside the settlement of the call. Reports of a function are
 * transaction state, so they are cleared before each function of a statement. */
static bool write_statements(struct function *function)
{
	char name[ACP_FUNCTION_SIZE];
	struct acp_buf sql;
	if (!acp_function_name(function->name, name))
		return false;
	snprintf(function->one_sql, sizeof function->one_sql,
		 "WITH r AS MATERIALIZED (SELECT set_config('transaction_read_only', 'on', true)),"
		 " d AS MATERIALIZED (SELECT %s($1::uuid, $2::jsonb, $3::jsonb) AS data FROM r)"
		 " SELECT data, nullif(current_setting('acp.result_meta', true), ''),"
		 " nullif(current_setting('acp.quantity', true), '') FROM d",
		 name);
	function->one = statement(function->one_name, function->one_sql, VALUES);
	acp_buf_init(&sql, sizeof function->many_sql);
	acp_buf_printf(&sql,
		       "WITH r AS MATERIALIZED (SELECT set_config('transaction_read_only', 'on', true))"
		       " SELECT %s(v.t, v.p, v.c), nullif(current_setting('acp.result_meta', true), ''),"
		       " nullif(current_setting('acp.quantity', true), ''), v.n,"
		       " set_config('acp.result_meta', '', true), set_config('acp.quantity', '', true)"
		       " FROM r CROSS JOIN (VALUES",
		       name);
	for (int i = 0; i < MAX_CALLS; i++)
		acp_buf_printf(&sql, "%s (%d, $%d::uuid, $%d::jsonb, $%d::jsonb)", i ? "," : "", i, VALUES * i + 1,
			       VALUES * i + 2, VALUES * i + 3);
	acp_buf_printf(&sql, ") v(n, t, p, c) WHERE v.t IS NOT NULL");
	bool ok = acp_buf_ok(&sql);
	if (ok)
		snprintf(function->many_sql, sizeof function->many_sql, "%s", sql.ptr);
	acp_buf_release(&sql);
	function->many = statement(function->many_name, function->many_sql, VALUES * MAX_CALLS);
	return ok;
}

static struct function *make_function(const char *name)
{
	struct function *function = calloc(1, sizeof *function);
	if (!function || strlen(name) >= sizeof function->name)
		goto none;
	snprintf(function->name, sizeof function->name, "%s", name);
	if (!write_statements(function))
		goto none;
	function->shares = !strchr(name, '.');
	function->last = &function->first;
	pthread_mutex_init(&function->lock, NULL);
	acp_monotonic_cond(&function->enough);
	return function;
none:
	free(function);
	return NULL;
}

static struct function *find_function(struct acp_reader *reader, const char *name)
{
	pthread_mutex_lock(&reader->lock);
	struct function *function = reader->functions;
	while (function && strcmp(function->name, name) != 0)
		function = function->next;
	if (!function && (function = make_function(name))) {
		function->next = reader->functions;
		reader->functions = function;
	}
	pthread_mutex_unlock(&reader->lock);
	return function;
}

/* Rows ----------------------------------------------------------------------------------------------------------- */

static const char *text_of(const PGresult *rows, int row, int column)
{
	return PQgetisnull(rows, row, column) ? NULL : PQgetvalue(rows, row, column);
}

static void take_row(struct acp_read *read, struct acp_read_rows *rows, int row)
{
	atomic_fetch_add(&rows->users, 1);
	read->rows = rows;
	read->data = text_of(rows->rows, row, 0);
	read->meta = text_of(rows->rows, row, 1);
	read->quantity = text_of(rows->rows, row, 2);
}

static void release_rows(struct acp_read_rows *rows)
{
	if (!rows || atomic_fetch_sub(&rows->users, 1) != 1)
		return;
	PQclear(rows->rows);
	free(rows);
}

void acp_read_release(struct acp_read *read)
{
	release_rows(read->rows);
	*read = (struct acp_read){0};
}

/* Runs a statement. The caller releases its rows. tenant: whose share of the connections it uses. */
static enum acp_db_status run(struct acp_reader *reader, const char *tenant, const struct acp_db_statement *sql,
			      const char *const *values, struct acp_read_rows **out, struct acp_db_error *error)
{
	struct acp_read_rows *rows = calloc(1, sizeof *rows);
	*out = NULL;
	if (!rows) {
		*error = (struct acp_db_error){.message = "out of memory"};
		return ACP_DB_REFUSED;
	}
	enum acp_db_status status = acp_db_read_again(reader->pool, tenant, sql, values, &rows->rows, error);
	if (status != ACP_DB_OK) {
		free(rows);
		return status;
	}
	atomic_init(&rows->users, 1);
	*out = rows;
	return ACP_DB_OK;
}

/* Combining calls ------------------------------------------------------------------------------------------------ */

/* Moves up to count waiting calls to the end of a list and returns it. The caller holds the lock. */
static struct waiting **take_waiting(struct function *function, int count, struct waiting **last)
{
	for (; count > 0 && function->first; count--) {
		struct waiting *call = function->first;
		function->first = call->next;
		function->length--;
		if (!function->first)
			function->last = &function->first;
		call->next = NULL;
		*last = call;
		last = &call->next;
	}
	return last;
}

/* Sets the final state of a call. From here on its thread owns it. */
static void set_state(struct function *function, struct waiting *call, enum state state)
{
	pthread_mutex_lock(&function->lock);
	call->state = state;
	pthread_cond_signal(&call->changed);
	pthread_mutex_unlock(&function->lock);
}

/* Ends a statement: the first waiting call sends the next one. If the server did not answer this statement, it will not
 * answer the waiting calls either: they are added to the list lost. */
static void hand_over(struct function *function, size_t count, uint64_t took_us, uint64_t apart_until_us,
		      struct waiting **lost)
{
	struct waiting *next = NULL;
	pthread_mutex_lock(&function->lock);
	function->recent = count;
	function->took_us = took_us;
	if (apart_until_us > function->apart_until_us)
		function->apart_until_us = apart_until_us;
	if (lost)
		take_waiting(function, INT_MAX, lost);
	take_waiting(function, 1, &next);
	if (next) {
		next->state = LEADS;
		pthread_cond_signal(&next->changed);
	} else {
		function->in_progress--;
	}
	pthread_mutex_unlock(&function->lock);
}

/* Returns the row index of each call; -1: no row. */
static void find_rows(const struct acp_read_rows *rows, int at[MAX_CALLS])
{
	for (int i = 0; i < MAX_CALLS; i++)
		at[i] = -1;
	for (int row = 0; rows && row < PQntuples(rows->rows); row++) {
		long n = PQnfields(rows->rows) > 3 ? strtol(PQgetvalue(rows->rows, row, 3), NULL, 10) : row;
		if (n >= 0 && n < MAX_CALLS)
			at[n] = row;
	}
}

/* Ends each call of a statement. If the server refuses several calls at once, it does not say which one, so each of
 * them is then sent separately. */
static void end_calls(struct function *function, struct waiting *calls, bool several, enum acp_db_status status,
		      struct acp_read_rows *rows, const struct acp_db_error *error)
{
	int at[MAX_CALLS];
	find_rows(rows, at);
	for (int i = 0; calls; i++) {
		struct waiting *call = calls;
		calls = call->next;
		call->status = status;
		*call->error = *error;
		if (status == ACP_DB_OK && at[i] >= 0)
			take_row(call->read, rows, at[i]);
		bool again = status == ACP_DB_OK ? at[i] < 0 : status == ACP_DB_REFUSED;
		set_state(function, call, several && again ? APART : DONE);
	}
}

/* Returns the time until which calls should not share a statement: the last one was so slow that separate statements
 * would have been faster, or one call made it fail. 0: they may share. */
static uint64_t apart_until(uint64_t took_us, enum acp_db_status status, bool several)
{
	if (took_us > SLOW_US)
		return acp_monotonic_us() + SLOW_APART_US;
	return status == ACP_DB_REFUSED && several ? acp_monotonic_us() + REFUSED_APART_US : 0;
}

/* If calls arrive faster than statements end, waits for as many calls as the last statement had, for at most as long as
 * that one took (as writer.c does). The caller holds the lock. */
static void gather(struct function *function)
{
	if (function->recent <= 1)
		return;
	const struct timespec until =
		acp_monotonic_after(function->took_us < GATHER_US ? function->took_us : GATHER_US);
	while (function->length + 1 < function->recent &&
	       pthread_cond_timedwait(&function->enough, &function->lock, &until) == 0)
		;
}

/* Sends a statement for this call and the waiting ones. */
static void send_shared(struct acp_reader *reader, struct function *function, struct waiting *self)
{
	const char *values[VALUES * MAX_CALLS] = {NULL};
	struct acp_db_error error = {0};
	struct acp_read_rows *rows = NULL;
	size_t count = 0;
	self->next = NULL;
	pthread_mutex_lock(&function->lock);
	gather(function);
	struct waiting **last = take_waiting(function, MAX_CALLS - 1, &self->next);
	pthread_mutex_unlock(&function->lock);
	for (struct waiting *call = self; call; call = call->next, count++)
		memcpy(values + VALUES * count, call->values, sizeof call->values);
	uint64_t began = acp_monotonic_us();
	/* The statement serves several tenants, so it counts to nobody's share. It is fast: slow calls go apart. */
	enum acp_db_status status =
		run(reader, NULL, count > 1 ? &function->many : &function->one, values, &rows, &error);
	uint64_t took = acp_monotonic_us() - began;
	hand_over(function, count, took, apart_until(took, status, count > 1), status == ACP_DB_AWAY ? last : NULL);
	end_calls(function, self, count > 1, status, rows, &error);
	release_rows(rows);
}

/* Waits until this call may be sent, or another thread has sent it. */
static void wait_turn(struct acp_reader *reader, struct function *function, struct waiting *self)
{
	pthread_mutex_lock(&function->lock);
	if (!function->shares || function->apart_until_us > acp_monotonic_us()) {
		self->state = APART;
	} else if (function->in_progress < MAX_IN_PROGRESS) {
		function->in_progress++;
		self->state = LEADS;
	} else {
		*function->last = self;
		function->last = &self->next;
		if (++function->length + 1 >= function->recent)
			pthread_cond_signal(&function->enough);
	}
	while (self->state == WAITS)
		pthread_cond_wait(&self->changed, &function->lock);
	pthread_mutex_unlock(&function->lock);
	if (self->state == LEADS)
		send_shared(reader, function, self);
}

static enum acp_db_status read_apart(struct acp_reader *reader, const struct function *function,
				     const char *const values[VALUES], struct acp_read *read,
				     struct acp_db_error *error)
{
	struct acp_read_rows *rows = NULL;
	enum acp_db_status status = run(reader, values[0], &function->one, values, &rows, error);
	if (status == ACP_DB_OK)
		take_row(read, rows, 0);
	release_rows(rows);
	return status;
}

enum acp_db_status acp_reader_call(struct acp_reader *reader, const char *name, const char *tenant_id,
				   const char *params, const char *ctx, struct acp_read *read,
				   struct acp_db_error *error)
{
	struct waiting self = {.values = {tenant_id, params, ctx}, .state = WAITS, .read = read, .error = error};
	struct function *function = find_function(reader, name);
	*read = (struct acp_read){0};
	*error = (struct acp_db_error){0};
	if (!function) {
		snprintf(error->sqlstate, sizeof error->sqlstate, "42883");
		snprintf(error->message, sizeof error->message, "no function can have this name");
		return ACP_DB_REFUSED;
	}
	pthread_cond_init(&self.changed, NULL);
	wait_turn(reader, function, &self);
	pthread_cond_destroy(&self.changed);
	if (self.state == APART)
		return read_apart(reader, function, self.values, read, error);
	return self.status;
}

/* -------------------------------------------------------------------------------------------------------------- */

struct acp_reader *acp_reader_new(struct acp_db_pool *pool)
{
	struct acp_reader *reader = calloc(1, sizeof *reader);
	if (!reader)
		return NULL;
	reader->pool = pool;
	pthread_mutex_init(&reader->lock, NULL);
	return reader;
}

void acp_reader_free(struct acp_reader *reader)
{
	if (!reader)
		return;
	while (reader->functions) {
		struct function *function = reader->functions;
		reader->functions = function->next;
		pthread_cond_destroy(&function->enough);
		pthread_mutex_destroy(&function->lock);
		free(function);
	}
	pthread_mutex_destroy(&reader->lock);
	free(reader);
}
