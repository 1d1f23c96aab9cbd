/* The configuration file (settings.c): the input is the file. An accepted file, printed and read again, prints the
 * same. The message about a refused file names the file and line. No message contains a secret from the file. */
#include "../fuzz.h"
#include "settings.h"

#include <unistd.h>

#define SECRET "fuzz0secret0fuzz0secret0fuzz0secret0"

extern char **environ;

/* The caller frees it. */
static char *printed(const struct acp_config *config)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	acp_config_print(config, out);
	fclose(out);
	return text;
}

/* elsewhere: the text of the secret also occurs where it may be printed. */
static void check_again(const struct acp_config *config, bool elsewhere)
{
	char path[32], why[512] = "";
	struct acp_config again;
	char *text = printed(config);
	FUZZ_CHECK(elsewhere || !strstr(text, SECRET), "a secret is printed");
	int fd = fuzz_file(text, strlen(text), path);
	/* Secrets are not printed, so a kernel with a hub, for instance, now misses its key. */
	if (acp_config_load(&again, path, why, sizeof why)) {
		char *second = printed(&again);
		/* The lines "# name (set)" differ. */
		for (char *a = text, *b = second, *end; *a && *b; a += *a == '\n', b += *b == '\n') {
			end = a + strcspn(a, "\n");
			size_t len = (size_t)(end - a), other = strcspn(b, "\n");
			bool secret = *a == '#';
			FUZZ_CHECK(secret || (len == other && strncmp(a, b, len) == 0), "%.*s, then %.*s", (int)len, a,
				   (int)other, b);
			a = end;
			b += other;
		}
		free(second);
		acp_config_release(&again);
	} else {
		FUZZ_CHECK(strstr(why, "_key") || strstr(why, "secret"), "%s", why);
	}
	close(fd);
	free(text);
}

/* This test must not read files and devices of the machine, because some of them never end. */
static bool reads_a_file(const char *text, size_t len)
{
	return memmem(text, len, "_file", 5) != NULL;
}

void fuzz_config(const uint8_t *data, size_t size)
{
	static char *empty[] = {NULL};
	static const char head[] = "stripe_key = " SECRET "\n";
	struct acp_config config;
	struct acp_buf file;
	char path[32], why[512] = "";
	environ = empty;
	if (reads_a_file((const char *)data, size))
		return;
	acp_buf_init(&file, 1 << 20);
	acp_buf_add(&file, head, sizeof head - 1);
	acp_buf_add(&file, data, size);
	bool elsewhere = memmem(data, size, SECRET, sizeof SECRET - 1) != NULL;
	int fd = fuzz_file(file.ptr, file.len, path);
	if (acp_config_load(&config, path, why, sizeof why)) {
		check_again(&config, elsewhere);
		acp_config_release(&config);
	} else {
		FUZZ_CHECK(strncmp(why, path, strlen(path)) == 0 || strncmp(why, "configuration: ", 15) == 0, "%s",
			   why);
		FUZZ_CHECK(elsewhere || !strstr(why, SECRET), "%s", why);
		for (size_t i = 0; i < sizeof config; i++)
			FUZZ_CHECK(((const char *)&config)[i] == 0, "a refused configuration is not empty");
	}
	close(fd);
	acp_buf_release(&file);
}
