/* audit.c - acpctl audit seal, acpctl audit status, and the shared parts of acpctl audit. */
#include "ctl_audit.h"

#include "progress.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Rows ------------------------------------------------------------------------------------------------------------- */

static bool text_of_form_2(struct audit_row *row, const char *literal, const char *salt, const char *erased)
{
	if (!acp_row_parse(&row->columns, literal, strlen(literal)) || !acp_chain_row_erased(&row->kept, erased))
		return false;
	memcpy(row->kept.value, row->columns.field, sizeof row->kept.value);
	row->kept.salt = salt;
	if (!row->text.max)
		acp_buf_init(&row->text, (size_t)64 << 20);
	acp_buf_clear(&row->text);
	return acp_chain_row_text(&row->text, &row->kept);
}

void audit_row_text(struct audit_row *row, const char *literal, const char *form, const char *salt, const char *erased,
		    struct acp_chain_link *link)
{
	bool old = !form && !salt && !erased;
	row->form2 = !old && form && strcmp(form, "2") == 0 && text_of_form_2(row, literal, salt, erased);
	link->text = row->form2 ? row->text.ptr : literal;
	link->len = row->form2 ? row->text.len : strlen(literal);
	link->broken = !old && !row->form2;
}

void audit_row_release(struct audit_row *row)
{
	acp_row_release(&row->columns);
	if (row->text.max)
		acp_buf_release(&row->text);
}

/* Findings --------------------------------------------------------------------------------------------------------- */

static void add_text(struct json_object *object, const char *name, const char *text)
{
	if (text && *text)
		acp_json_add_string(object, name, text);
	else
		acp_json_add_null(object, name);
}

static void list_finding(struct audit_report *report, const struct acp_finding *finding)
{
	struct json_object *object = json_object_new_object();
	add_text(object, "file", report->file);
	add_text(object, "kind", finding->kind);
	if (finding->chain > 0) {
		acp_json_add(object, "chain_id", json_object_new_int64(finding->chain));
		acp_json_add(object, "chain_seq", json_object_new_int64(finding->seq));
	}
	if (finding->event_id) {
		add_text(object, "event_id", finding->event_id);
		add_text(object, "tenant_id", finding->tenant_id);
		add_text(object, "ts", finding->ts);
	}
	add_text(object, "message", finding->message);
	json_object_array_add(report->list, object);
}

void audit_finding(void *arg, const struct acp_finding *finding)
{
	struct audit_report *report = arg;
	report->count++;
	if (report->list) {
		list_finding(report, finding);
		return;
	}
	ctl_progress_hide();
	if (report->file)
		printf("%s: ", report->file);
	if (finding->chain > 0)
		printf("chain %lld, row %lld", (long long)finding->chain, (long long)finding->seq);
	if (finding->event_id && *finding->event_id)
		printf(" (event %s, tenant %s, %s UTC)", finding->event_id, finding->tenant_id, finding->ts);
	printf("%s%s\n", finding->chain > 0 ? (finding->event_id ? ": " : " ") : "", finding->message);
}

void audit_problem(struct audit_report *report, const char *kind, const char *format, ...)
{
	char message[512];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	audit_finding(report, &(struct acp_finding){.kind = kind, .message = message});
}

/* Times ------------------------------------------------------------------------------------------------------------ */

struct json_object *audit_instants(struct ctl *ctl, const char *first, const char *past)
{
	const char *values[] = {first, past};
	struct json_object *rows = ctl_query(ctl, "instants", values);
	if (!rows || json_object_get_boolean(ctl_value(rows, "usable")))
		return rows;
	ctl_fail("%s%s%s: a time must be in the years 1970 to 9999", first ? first : "", first && past ? ", " : "",
		 past ? past : "");
	json_object_put(rows);
	return NULL;
}

/* Files ------------------------------------------------------------------------------------------------------------ */

/* Starts gzip between two descriptors. Returns its process id, or -1 after reporting the error. */
static long start_gzip(const char *option, int in, int out)
{
	pid_t pid;
	char *const argv[] = {(char[]){"gzip"}, (char[]){"-n"}, (char *)(uintptr_t)option, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	int error = posix_spawnp(&pid, "gzip", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error == 0)
		return pid;
	ctl_fail("gzip: %s: install it, or do not compress", strerror(error));
	return -1;
}

/* Connects the program to file->fd through gzip. */
static bool through_gzip(struct audit_file *file, bool writing)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0)
		return ctl_refuse("%s: %s", file->path, strerror(errno));
	int ours = ends[writing ? 1 : 0];
	int theirs = ends[writing ? 0 : 1];
	file->pid = start_gzip(writing ? "-6" : "-d", writing ? theirs : file->fd, writing ? file->fd : theirs);
	close(theirs);
	if (file->pid > 0 && (file->stream = fdopen(ours, writing ? "w" : "r")))
		return true;
	close(ours);
	return false;
}

/* Returns whether a file that is open for reading is compressed. Its position stays. A pipe cannot be read twice. */
static bool is_gzip(int fd)
{
	static const uint8_t magic[2] = {0x1f, 0x8b}; /* RFC 1952 */
	uint8_t start[sizeof magic];
	return pread(fd, start, sizeof start, 0) == sizeof start && memcmp(start, magic, sizeof magic) == 0;
}

static bool open_file(struct audit_file *file, const char *path, bool writing, bool gzip)
{
	*file = (struct audit_file){.path = path};
	file->fd =
		writing ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640) : open(path, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0) {
		ctl_fail("%s: %s", path, strerror(errno));
		return false;
	}
	gzip = writing ? gzip : is_gzip(file->fd);
	if (gzip ? through_gzip(file, writing) : (file->stream = fdopen(dup(file->fd), writing ? "w" : "r")) != NULL)
		return true;
	close(file->fd);
	return false;
}

bool audit_file_create(struct audit_file *file, const char *path, bool gzip)
{
	return open_file(file, path, true, gzip);
}

bool audit_file_open(struct audit_file *file, const char *path)
{
	return open_file(file, path, false, false);
}

bool audit_file_close(struct audit_file *file, bool sync)
{
	int status = 0;
	bool ok = !ferror(file->stream);
	ok = fclose(file->stream) == 0 && ok;
	if (file->pid && (waitpid((pid_t)file->pid, &status, 0) < 0 || status != 0))
		ok = false;
	ok = (!sync || fsync(file->fd) == 0) && ok;
	close(file->fd);
	if (!ok)
		ctl_fail("%s: %s", file->path,
			 status ? "gzip failed: the file is broken, or the disk is full" : strerror(errno));
	return ok;
}

bool audit_file_hash(const char *path, char hex[ACP_SHA256_HEX], int64_t *bytes)
{
	static uint8_t block[65536];
	uint8_t digest[ACP_SHA256_LEN];
	size_t got;
	FILE *file = fopen(path, "re");
	*bytes = 0;
	if (!file) {
		ctl_fail("%s: %s", path, strerror(errno));
		return false;
	}
	struct acp_hasher *hasher = acp_hasher_new();
	while ((got = fread(block, 1, sizeof block, file)) > 0) {
		acp_hasher_add(hasher, block, got);
		*bytes += (int64_t)got;
	}
	bool ok = !ferror(file);
	if (!ok)
		ctl_fail("%s: %s", path, strerror(errno));
	fclose(file);
	acp_hasher_end(hasher, digest);
	acp_hasher_free(hasher);
	acp_hex(digest, sizeof digest, hex);
	return ok;
}

/* Archives --------------------------------------------------------------------------------------------------------- */

void audit_archive_sign(const struct ctl *ctl, const struct audit_archive *a, char hex[ACP_SHA256_HEX])
{
	struct acp_buf text;
	acp_buf_init(&text, 65536);
	acp_buf_printf(&text, "month %s\npart %s\nat %s\nrows %s\nfile %s\nbytes %s\nsha256 %s\nruns %s\ntotals %s\n",
		       a->month, a->part, a->at, a->rows, a->file, a->bytes, a->sha256, a->runs_sha256,
		       a->totals_sha256);
	acp_subkey_hex(ctl->config.key_pepper, ACP_FOR_AUDIT_ARCHIVE, text.ptr, text.len, hex);
	acp_buf_release(&text);
}

static bool add_line(void *arg, const char *const *columns)
{
	acp_hasher_add(arg, columns[0], strlen(columns[0]));
	acp_hasher_add(arg, "\n", 1);
	return true;
}

bool audit_lines_hash(struct ctl *ctl, const char *statement, const char *month, const char *part,
		      char hex[ACP_SHA256_HEX])
{
	uint8_t digest[ACP_SHA256_LEN];
	const char *values[] = {month, part};
	struct acp_hasher *hasher = acp_hasher_new();
	bool ok = ctl_stream(ctl, statement, values, add_line, hasher);
	acp_hasher_end(hasher, digest);
	acp_hasher_free(hasher);
	acp_hex(digest, sizeof digest, hex);
	return ok;
}

/* Commands --------------------------------------------------------------------------------------------------------- */

int ctl_audit_seal(struct ctl *ctl)
{
	int64_t id, rows;
	char hash[ACP_SHA256_HEX], why[1024];
	if (!*ctl->config.key_pepper)
		return ctl_fail(
			"key_pepper is not set, and seals are signed with it; name the configuration file of acp.fcgi "
			"with --config");
	if (!ctl_run(ctl, "clock", NULL)) /* opens the database */
		return ACPCTL_FAILED;
	if (!acp_admin_seal(ctl->admin, &ctl->config, &id, &rows, hash, why, sizeof why))
		return ctl_fail("audit seal: %s", why);
	if (ctl->csv)
		printf("seal_id,rows,hash\n%lld,%lld,%s\n", (long long)id, (long long)rows, hash);
	else if (ctl->json)
		printf("{\"seal_id\":%lld,\"rows\":%lld,\"hash\":\"%s\"}\n", (long long)id, (long long)rows, hash);
	else if (id)
		printf("seal %lld over %lld rows, hash %s\n", (long long)id, (long long)rows, hash);
	else
		puts("nothing to seal: no row was written since the last seal");
	return ACPCTL_OK;
}

static void print_seals(struct ctl *ctl, struct json_object *rows)
{
	if (json_object_array_length(rows) == 0)
		puts("no seal yet: acpctl audit seal makes one");
	else
		printf("last seal %s of %s; %s rows since are chained but not yet sealed\n",
		       json_object_get_string(ctl_value(rows, "seal_id")),
		       json_object_get_string(ctl_value(rows, "at")),
		       json_object_get_string(ctl_value(rows, "unsealed")));
	(void)ctl;
	json_object_put(rows);
}

int ctl_audit_status(struct ctl *ctl)
{
	struct json_object *partitions = ctl_query(ctl, "audit partitions", NULL);
	struct json_object *seals = partitions ? ctl_query(ctl, "last seal", NULL) : NULL;
	struct json_object *archives = seals ? ctl_query(ctl, "archive list", NULL) : NULL;
	if (!archives) {
		json_object_put(partitions);
		json_object_put(seals);
		return ACPCTL_FAILED;
	}
	if (ctl->json) {
		struct json_object *all = json_object_new_object();
		acp_json_add(all, "partitions", partitions);
		acp_json_add(all, "last_seal", json_object_get(json_object_array_get_idx(seals, 0)));
		acp_json_add(all, "archives", archives);
		json_object_put(seals);
		ctl_print_json(all);
		json_object_put(all);
		return ACPCTL_OK;
	}
	ctl_print(ctl, partitions);
	if (ctl->csv) {
		json_object_put(seals);
		json_object_put(archives);
		return ACPCTL_OK;
	}
	for (size_t i = 0; i < json_object_array_length(archives); i++) {
		struct json_object *archive = json_object_array_get_idx(archives, i);
		for (size_t n = 0; n < 3; n++)
			json_object_object_del(archive,
					       (const char *const[]){"runs_sha256", "totals_sha256", "signature"}[n]);
	}
	puts("\narchives");
	ctl_print(ctl, archives);
	print_seals(ctl, seals);
	return ACPCTL_OK;
}
