/* Errors of PostgreSQL and of libpq. */
#include "db_parts.h"

#include "buf.h"

/* Messages of libpq end with a newline and may have several lines. The first line has the cause. */
static void first_line(char out[256], const char *text)
{
	snprintf(out, 256, "%.*s", text ? (int)strcspn(text, "\n") : 0, text ? text : "");
	acp_utf8_trim(out);
}

void acp_db_set_error(struct acp_db_error *error, const char *message)
{
	*error = (struct acp_db_error){0};
	first_line(error->message, message);
}

void acp_db_read_error(struct acp_db_error *error, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *rule = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
	error->timed_out = error->busy = error->share_used = false;
	snprintf(error->sqlstate, sizeof error->sqlstate, "%s", sqlstate ? sqlstate : "");
	snprintf(error->rule, sizeof error->rule, "%s", rule ? rule : "");
	first_line(error->message, PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	first_line(error->detail, PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	first_line(error->hint, PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
	if (!*error->message)
		first_line(error->message, PQresultErrorMessage(result));
}

/* 25006: the server became a standby. */
bool acp_db_means_lost(const char *sqlstate)
{
	return !*sqlstate || strncmp(sqlstate, "08", 2) == 0 || strncmp(sqlstate, "57P", 3) == 0 ||
	       strcmp(sqlstate, "25006") == 0;
}
