/* Files of actions.d (actions_dir.c). The input: one file, or two separated by a NUL. An accepted set makes a kernel
 * whose new actions follow the rules for files; the message about a refused set names the file and one of its lines. */
#include "action_http.h"
#include "actions_dir.h"
#include "../fuzz.h"

#include "../../unit/fake_plane.h"

#include <strings.h>
#include <unistd.h>

static struct acp_config config;
static struct fake_plane fake;
static char paths[2][128];

static void begin(void)
{
	static bool begun;
	if (begun)
		return;
	begun = true;
	fake_config_init(&config);
	fake_plane_init(&fake);
	free(config.actions_dir);
	config.actions_dir = strdup(fuzz_folder());
	for (int i = 0; i < 2; i++)
		snprintf(paths[i], sizeof paths[i], "%s/%d.json", config.actions_dir, i);
}

static void put(const char *path, const char *text, size_t len)
{
	FILE *file = fopen(path, "w");
	if (!file || fwrite(text, 1, len, file) != len || fclose(file) != 0)
		abort();
}

static void check_action(const struct acp_action *action)
{
	size_t len = strlen(action->name);
	FUZZ_CHECK(len && len <= 100 && strspn(action->name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == len, "%s",
		   action->name);
	FUZZ_CHECK(strchr(action->name, '.') && strncmp(action->name, "meta.", 5) != 0, "%s", action->name);
	FUZZ_CHECK(strncmp(action->scope, "manage.", 7) == 0 && *action->description, "%s", action->scope);
	FUZZ_CHECK(action->rate_limit >= 0 && action->rate_limit <= 1000000, "%d", action->rate_limit);
	FUZZ_CHECK((action->sql_function != NULL) != (action->upstream != NULL), "two handlers, or none");
	if (action->sql_function)
		FUZZ_CHECK(strspn(action->sql_function, "abcdefghijklmnopqrstuvwxyz0123456789_.") ==
					   strlen(action->sql_function) &&
				   strchr(action->sql_function, '.') == strrchr(action->sql_function, '.'),
			   "%s", action->sql_function);
	if (!action->upstream)
		return;
	const struct acp_upstream *to = action->upstream;
	FUZZ_CHECK(strncasecmp(to->url, "https:/", 7) == 0 || to->allow_http, "%s", to->url);
	FUZZ_CHECK(to->timeout_ms > 0 && to->timeout_ms < config.reservation_ttl * 1000, "%d", to->timeout_ms);
	for (size_t i = 0; i < to->header_count; i++)
		FUZZ_CHECK(!strpbrk(to->headers[i].name, "\r\n:") && !strpbrk(to->headers[i].value, "\r\n"), "%s: %s",
			   to->headers[i].name, to->headers[i].value);
}

static void check_kernel(const struct acp_actions *actions)
{
	struct acp_kernel kernel;
	char why[512] = "";
	const struct acp_action *action;
	FUZZ_CHECK(acp_kernel_init(&kernel, &config, &fake.plane, acp_actions_packs(actions), why, sizeof why), "%s",
		   why);
	for (size_t i = 0; (action = acp_actions_at(actions, i)); i++) {
		check_action(action);
		const struct acp_entry *entry = acp_kernel_find(&kernel, action->name);
		FUZZ_CHECK(entry && entry->action == action, "%s is not found", action->name);
	}
	acp_kernel_release(&kernel);
}

/* The message names the file and one of its lines. */
static void check_why(const char *why, const char *path, const char *text, size_t len)
{
	size_t named = strlen(path);
	FUZZ_CHECK(strncmp(why, path, named) == 0 && why[named] == ':', "%s", why);
	long line = strtol(why + named + 1, NULL, 10), lines = 1;
	for (size_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	FUZZ_CHECK(line >= 1 && line <= lines, "line %ld of %ld", line, lines);
}

void fuzz_actions(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	char why[1024] = "";
	size_t lens[2];
	begin();
	char *first = fuzz_part(&in, &lens[0]);
	bool two = in.left > 0;
	char *second = fuzz_rest(&in, &lens[1]);
	put(paths[0], first, lens[0]);
	if (two)
		put(paths[1], second, lens[1]);
	struct acp_actions *actions = acp_actions_load(&config, why, sizeof why);
	if (actions)
		check_kernel(actions);
	else if (two && strncmp(why, paths[1], strlen(paths[1])) == 0)
		check_why(why, paths[1], second, lens[1]);
	else
		check_why(why, paths[0], first, lens[0]);
	acp_actions_free(actions);
	unlink(paths[0]);
	unlink(paths[1]);
	free(first);
	free(second);
}
