#include "actions_dir.h"

#include "action_http.h"
#include "json_place.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/stat.h>

enum { FILE_MAX = 1 << 20 };

/* An action and everything that its row points to. */
struct loaded {
	char *path;
	char *pack_name; /* the action's name without its last part */
	char *params_schema;
	struct json_object *document; /* owns the strings that the row points to */
	struct acp_upstream upstream;
	struct acp_action rows[2]; /* the second one terminates the pack */
	struct acp_pack pack;
};

struct acp_actions {
	struct loaded *list;
	size_t count;
	const struct acp_pack **packs; /* terminated by NULL */
};

/* The schema of a file. Details that a schema cannot express are checked in C. */
static const char file_schema[] =
	"{\"type\":\"object\",\"additionalProperties\":false,"
	"\"required\":[\"name\",\"description\",\"scope\",\"params_schema\",\"handler\"],\"properties\":{"
	"\"name\":{\"type\":\"string\",\"maxLength\":100,\"pattern\":\"^[a-z0-9_]+([.][a-z0-9_]+)+$\"},"
	"\"description\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":1000},"
	"\"scope\":{\"enum\":[\"manage.read\",\"manage.iam\",\"manage.webhooks\",\"manage.settings\","
	"\"manage.governance\",\"manage.domain\"]},"
	"\"params_schema\":{\"type\":\"object\"},"
	"\"supports_dry_run\":{\"type\":\"boolean\"},\"billable\":{\"type\":\"boolean\"},"
	"\"billing_unit\":{\"enum\":[null,\"call\",\"token\",\"row\",\"sec\"]},\"writes\":{\"type\":\"boolean\"},"
	"\"rate_limit\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000000},"
	"\"max_quantity\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000000000000},"
	"\"handler\":{\"type\":\"object\",\"required\":[\"kind\"],\"properties\":{\"kind\":{\"enum\":[\"sql\",\"http\"]"
	"}}}}}";

#define HANDLER(kind, required, members)                                                                               \
	"{\"type\":\"object\",\"required\":[\"handler\"],\"properties\":{\"handler\":{\"type\":\"object\","            \
	"\"additionalProperties\":false,\"required\":[\"" required "\"],\"properties\":{"                              \
	"\"kind\":{\"const\":\"" kind "\"}," members "}}}}"

static const char sql_schema[] =
	HANDLER("sql", "function",
		"\"function\":{\"type\":\"string\",\"pattern\":\"^[a-z_][a-z0-9_]{0,62}[.][a-z_][a-z0-9_]{0,62}$\"}");

static const char http_schema[] =
	HANDLER("http", "url",
		"\"url\":{\"type\":\"string\",\"maxLength\":2000},\"method\":{\"enum\":[\"POST\",\"PUT\",\"PATCH\"]},"
		"\"timeout_ms\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":30000},"
		"\"max_reply_bytes\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":16777216},"
		"\"concurrency\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":100000},"
		"\"allow_private\":{\"type\":\"boolean\"},\"allow_http\":{\"type\":\"boolean\"},"
		"\"headers\":{\"type\":\"object\",\"maxProperties\":20,"
		"\"additionalProperties\":{\"type\":\"string\",\"maxLength\":4000}}");

/* Messages ------------------------------------------------------------------------------------------------------- */

/* The file being read, and the buffer for an error. */
struct source {
	const struct acp_config *config;
	const char *path;
	const char *text;
	char *why;
	size_t why_size;
};

static bool report(const struct source *source, const char *format, ...) ACP_PRINTF(2, 3);

static bool report(const struct source *source, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(source->why, source->why_size, format, args);
	va_end(args);
	return false;
}

/* Reports an error in the member that pointer names. */
static bool report_at(const struct source *source, const char *pointer, const char *format, ...) ACP_PRINTF(3, 4);

static bool report_at(const struct source *source, const char *pointer, const char *format, ...)
{
	char reason[400];
	va_list args;
	va_start(args, format);
	vsnprintf(reason, sizeof reason, format, args);
	va_end(args);
	return report(source, "%s:%d: %s%s%s", source->path, acp_json_line_of(source->text, pointer), pointer,
		      *pointer ? " " : "", reason);
}

/* Checks --------------------------------------------------------------------------------------------------------- */

/* Checks a document against a schema of this file, which is known to be valid. */
static bool check_schema(const struct source *source, struct json_object *document, const char *schema_text)
{
	struct acp_schema_error bad;
	struct json_object *tree = acp_json_own(schema_text);
	if (!tree)
		return report(source, "out of memory");
	struct acp_schema *schema = acp_schema_compile(tree, &bad);
	bool ok = schema && acp_schema_check(schema, document, &bad);
	if (!ok)
		report_at(source, bad.pointer, "%s", bad.message);
	acp_schema_free(schema);
	json_object_put(tree);
	return ok;
}

static bool is_builtin(const char *name)
{
	for (const struct acp_pack *const *pack = acp_builtin_packs; *pack; pack++)
		for (const struct acp_action *action = (*pack)->actions; action->name; action++)
			if (strcmp(action->name, name) == 0)
				return true;
	return strncmp(name, "meta.", 5) == 0;
}

static bool check_name(const struct source *source, const struct acp_actions *actions, const char *name)
{
	if (is_builtin(name))
		return report_at(source, "/name", "%s is the name of a built-in action, or begins with meta.", name);
	for (size_t i = 0; i < actions->count; i++)
		if (actions->list[i].rows[0].name && strcmp(actions->list[i].rows[0].name, name) == 0)
			return report_at(source, "/name", "%s is already defined in %s", name, actions->list[i].path);
	return true;
}

static bool check_params_schema(const struct source *source, struct json_object *document)
{
	char pointer[300];
	struct acp_schema_error bad;
	struct acp_schema *schema = acp_schema_compile(acp_json_member(document, "params_schema"), &bad);
	bool ok = schema != NULL;
	acp_schema_free(schema);
	snprintf(pointer, sizeof pointer, "/params_schema%s", ok ? "" : bad.pointer);
	return ok || report_at(source, pointer, "%s", bad.message);
}

/* Handlers ------------------------------------------------------------------------------------------------------- */

static int64_t number(struct json_object *object, const char *name, int64_t fallback)
{
	struct json_object *value = acp_json_member(object, name);
	return value ? json_object_get_int64(value) : fallback;
}

static bool flag(struct json_object *object, const char *name, bool fallback)
{
	struct json_object *value = acp_json_member(object, name);
	return value ? json_object_get_boolean(value) : fallback;
}

static bool read_headers(const struct source *source, struct json_object *headers, struct acp_upstream *out)
{
	if (!headers)
		return true;
	json_object_object_foreach(headers, name, value)
	{
		const char *text = json_object_get_string(value);
		if (!acp_outbound_header_ok(name, text))
			return report_at(source, "/handler/headers",
					 "header %zu contains a character that is not allowed in headers",
					 out->header_count + 1);
		if (acp_upstream_header_taken(name))
			return report_at(source, "/handler/headers", "%s is set by the program", name);
		for (size_t i = 0; i < out->header_count; i++)
			if (strcasecmp(out->headers[i].name, name) == 0)
				return report_at(source, "/handler/headers", "%s is given twice", name);
		out->headers[out->header_count++] = (struct acp_header){name, text};
	}
	return true;
}

static bool read_http(const struct source *source, struct json_object *handler, struct acp_upstream *out)
{
	char fault[128];
	const struct acp_config *config = source->config;
	const char *method = acp_json_string(handler, "method");
	*out = (struct acp_upstream){
		.url = acp_json_string(handler, "url"),
		.method = method ? method : "POST",
		.timeout_ms = (int)number(handler, "timeout_ms", 5000),
		.max_reply = (size_t)number(handler, "max_reply_bytes", 262144),
		.allow_private = flag(handler, "allow_private", false),
		.allow_http = flag(handler, "allow_http", false),
	};
	if (!acp_outbound_url_ok(out->url, out->allow_http, fault, sizeof fault))
		return report_at(
			source, "/handler/url", "%s%s", fault,
			strncmp(out->url, "http://", 7) == 0 && !out->allow_http ? ", or allow_http must be true" : "");
	/* A call must still hold its key and its reservation when the upstream answers. */
	if (out->timeout_ms >= config->idempotency_lease * 1000 || out->timeout_ms >= config->reservation_ttl * 1000)
		return report_at(source, "/handler/timeout_ms",
				 "must be less than idempotency_lease and reservation_ttl");
	return read_headers(source, acp_json_member(handler, "headers"), out);
}

static bool read_handler(const struct source *source, struct loaded *loaded)
{
	struct json_object *handler = acp_json_member(loaded->document, "handler");
	struct acp_action *row = &loaded->rows[0];
	bool http = strcmp(acp_json_string(handler, "kind"), "http") == 0;
	if (!check_schema(source, loaded->document, http ? http_schema : sql_schema))
		return false;
	row->run = http ? acp_run_http : acp_run_sql;
	if (!http)
		row->sql_function = acp_json_string(handler, "function");
	else
		row->upstream = &loaded->upstream;
	row->concurrency = (int)number(handler, "concurrency", 0);
	return !http || read_http(source, handler, &loaded->upstream);
}

/* Files ---------------------------------------------------------------------------------------------------------- */

static bool read_row(const struct source *source, struct loaded *loaded)
{
	struct json_object *document = loaded->document;
	const char *name = acp_json_string(document, "name");
	size_t len;
	const char *schema = acp_json_text(acp_json_member(document, "params_schema"), JSON_C_TO_STRING_PLAIN, &len);
	loaded->params_schema = schema ? strdup(schema) : NULL;
	loaded->pack_name = strndup(name, (size_t)(strrchr(name, '.') - name));
	if (!loaded->params_schema || !loaded->pack_name)
		return report(source, "out of memory");
	loaded->rows[0] = (struct acp_action){
		.name = name,
		.scope = acp_json_string(document, "scope"),
		.description = acp_json_string(document, "description"),
		.params_schema = loaded->params_schema,
		.writes = flag(document, "writes", true),
		.supports_dry_run = flag(document, "supports_dry_run", false),
		.billable = flag(document, "billable", true),
		.rate_limit = (int)number(document, "rate_limit", 0),
		.billing_unit = acp_json_string(document, "billing_unit"),
		.max_quantity = number(document, "max_quantity", 0),
	};
	loaded->pack = (struct acp_pack){loaded->pack_name, loaded->rows};
	return read_handler(source, loaded);
}

static bool read_document(const struct source *source, struct json_object **document)
{
	struct acp_json_error bad;
	const struct acp_json_limits limits = {FILE_MAX, 64, 100000};
	if (acp_json_parse(source->text, strlen(source->text), &limits, document, &bad) == ACP_JSON_OK)
		return true;
	return report(source, "%s:%d: %s", source->path, acp_json_line(source->text, bad.offset), bad.message);
}

static bool read_text(const struct source *source, struct acp_buf *text)
{
	char block[8192];
	size_t got;
	struct stat about;
	acp_buf_init(text, FILE_MAX);
	if (stat(source->path, &about) == 0 && !S_ISREG(about.st_mode))
		return report(source, "%s:1: is not a regular file", source->path);
	FILE *file = fopen(source->path, "re");
	if (!file)
		return report(source, "%s:1: %s", source->path, strerror(errno));
	while ((got = fread(block, 1, sizeof block, file)) > 0)
		acp_buf_add(text, block, got);
	bool whole = !ferror(file);
	fclose(file);
	if (!whole || !acp_buf_ok(text))
		return report(source, "%s:1: cannot be read, or is larger than %d bytes", source->path, FILE_MAX);
	if (text->len == 0 || memchr(text->ptr, '\0', text->len))
		return report(source, "%s:1: is empty or contains a NUL", source->path);
	return true;
}

static bool load_file(struct acp_actions *actions, struct source *source, struct loaded *loaded)
{
	struct acp_buf text;
	bool ok = read_text(source, &text);
	source->text = text.ptr;
	ok = ok && read_document(source, &loaded->document) && check_schema(source, loaded->document, file_schema) &&
	     check_name(source, actions, acp_json_string(loaded->document, "name")) &&
	     check_params_schema(source, loaded->document) && read_row(source, loaded);
	acp_buf_release(&text);
	return ok;
}

static int is_action_file(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);
	return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0;
}

static int by_file_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static bool load_files(struct acp_actions *actions, struct source *source, struct dirent **names, size_t count)
{
	actions->list = calloc(count + 1, sizeof *actions->list);
	if (!actions->list)
		return report(source, "out of memory");
	for (size_t i = 0; i < count; i++) {
		struct loaded *loaded = &actions->list[actions->count++];
		if (asprintf(&loaded->path, "%s/%s", source->config->actions_dir, names[i]->d_name) < 0) {
			loaded->path = NULL;
			return report(source, "out of memory");
		}
		source->path = loaded->path;
		if (!load_file(actions, source, loaded))
			return false;
	}
	return true;
}

static bool load_folder(struct acp_actions *actions, struct source *source)
{
	struct dirent **names = NULL;
	const char *folder = source->config->actions_dir;
	if (!*folder)
		return true;
	int count = scandir(folder, &names, is_action_file, by_file_name);
	if (count < 0)
		return report(source, "actions_dir = %s: %s", folder, strerror(errno));
	bool ok = load_files(actions, source, names, (size_t)count);
	for (int i = 0; i < count; i++)
		free(names[i]);
	free(names);
	return ok;
}

static bool list_packs(struct acp_actions *actions, const struct source *source)
{
	size_t builtin = 0;
	while (acp_builtin_packs[builtin])
		builtin++;
	actions->packs = calloc(builtin + actions->count + 1, sizeof *actions->packs);
	if (!actions->packs)
		return report(source, "out of memory");
	for (size_t i = 0; i < builtin; i++)
		actions->packs[i] = acp_builtin_packs[i];
	for (size_t i = 0; i < actions->count; i++)
		actions->packs[builtin + i] = &actions->list[i].pack;
	return true;
}

struct acp_actions *acp_actions_load(const struct acp_config *config, char *why, size_t why_size)
{
	struct source source = {.config = config, .why = why, .why_size = why_size};
	struct acp_actions *actions = calloc(1, sizeof *actions);
	if (!actions)
		report(&source, "out of memory");
	else if (load_folder(actions, &source) && list_packs(actions, &source))
		return actions;
	acp_actions_free(actions);
	return NULL;
}

void acp_actions_free(struct acp_actions *actions)
{
	if (!actions)
		return;
	for (size_t i = 0; i < actions->count; i++) {
		free(actions->list[i].path);
		free(actions->list[i].pack_name);
		free(actions->list[i].params_schema);
		json_object_put(actions->list[i].document);
	}
	free(actions->list);
	free(actions->packs);
	free(actions);
}

const struct acp_pack *const *acp_actions_packs(const struct acp_actions *actions)
{
	return actions->packs;
}

const struct acp_action *acp_actions_at(const struct acp_actions *actions, size_t nth)
{
	return nth < actions->count ? &actions->list[nth].rows[0] : NULL;
}
