/* common.c - shared by commands: errors, arguments, statements. */
#include "acpctl.h"

#include "progress.h"
#include "redact.h"

#include <stdarg.h>

/* Faults ----------------------------------------------------------------------------------------------------------- */

static char key_prefix[16] = "ock_";

void ctl_set_key_prefix(const char *prefix)
{
	acp_copy(key_prefix, sizeof key_prefix, prefix);
}

bool ctl_is_credential(const char *word)
{
	return acp_redact_needed(word, strlen(word), key_prefix);
}

void ctl_format(char *text, size_t size, const char *format, va_list args)
{
	vsnprintf(text, size, format, args);
	acp_redact_in_place(text, size, key_prefix);
}

static void say(const char *format, va_list args)
{
	char text[4096];
	ctl_format(text, sizeof text, format, args);
	ctl_progress_hide();
	fprintf(stderr, "acpctl: %s\n", text);
}

int ctl_fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	say(format, args);
	va_end(args);
	return ACPCTL_FAILED;
}

int ctl_misuse(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	say(format, args);
	va_end(args);
	return ACPCTL_USAGE;
}

bool ctl_refuse(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	say(format, args);
	va_end(args);
	return false;
}

/* Arguments -------------------------------------------------------------------------------------------------------- */

bool ctl_one_of(const char *option, const char *list, const char *value)
{
	if (!value || (*value && !strchr(value, ' ') && acp_word_in_list(list, value)))
		return true;
	return ctl_refuse("%s %.80s: must be one of: %s", option, value, list);
}

bool ctl_is_month(const char *text)
{
	return strlen(text) == 7 && strspn(text, "0123456789") == 4 && text[4] == '-' &&
	       strspn(text + 5, "0123456789") == 2 && strcmp(text + 5, "01") >= 0 && strcmp(text + 5, "12") <= 0;
}

bool ctl_tenant_id(struct ctl *ctl, const char *given, char uuid[ACP_UUID_LEN])
{
	const char *values[] = {given};
	struct json_object *rows = ctl_query(ctl, "tenant show", values);
	if (!rows)
		return false;
	bool found = json_object_array_length(rows) == 1;
	if (found)
		snprintf(uuid, ACP_UUID_LEN, "%s", json_object_get_string(ctl_value(rows, "tenant_id")));
	else
		ctl_fail("%s: no tenant has this UUID or agent_id; acpctl tenant list shows them", given);
	json_object_put(rows);
	return found;
}

/* Database --------------------------------------------------------------------------------------------------------- */

struct json_object *ctl_query(struct ctl *ctl, const char *statement, const char *const *values)
{
	char why[1024];
	if (!ctl->admin && !(ctl->admin = acp_admin_open(&ctl->config, why, sizeof why))) {
		ctl_fail("%s", why);
		return NULL;
	}
	struct json_object *rows = acp_admin_query(ctl->admin, statement, values, why, sizeof why);
	if (!rows)
		ctl_fail("%s: %s", statement, why);
	return rows;
}

bool ctl_run(struct ctl *ctl, const char *statement, const char *const *values)
{
	struct json_object *rows = ctl_query(ctl, statement, values);
	json_object_put(rows);
	return rows != NULL;
}

bool ctl_begin(struct ctl *ctl, const char *begin)
{
	if (!ctl_run(ctl, begin, NULL))
		return false;
	acp_admin_patient(ctl->admin);
	return ctl_run(ctl, "proof settings", NULL);
}

bool ctl_stream(struct ctl *ctl, const char *statement, const char *const *values, acp_admin_row *each, void *arg)
{
	char why[1024];
	if (acp_admin_stream(ctl->admin, statement, values, each, arg, why, sizeof why))
		return true;
	return *why ? ctl_refuse("%s: %s", statement, why) : false;
}

struct json_object *ctl_value(struct json_object *rows, const char *column)
{
	return acp_json_member(json_object_array_get_idx(rows, 0), column);
}
