/* fuzz.h - what the fuzz targets share. A target is one function over an input; what must hold of every input it says
 * with FUZZ_CHECK. The engine of libFuzzer calls it (engine.c), or a plain program with the files of the corpus
 * (replay.c). */
#ifndef ACP_TESTS_FUZZ_H
#define ACP_TESTS_FUZZ_H

#include "attr.h"
#include "buf.h"
#include "json.h"

typedef void fuzz_target(const uint8_t *data, size_t size);

/* The targets, by name (targets.def); ends with a row without name. */
struct fuzz_named {
	const char *name;
	fuzz_target *run;
};
extern const struct fuzz_named fuzz_targets[];
const struct fuzz_named *fuzz_find(const char *name); /* NULL: there is none */

#define FUZZ_TARGET(name) fuzz_target fuzz_##name;
#include "targets.def"
#undef FUZZ_TARGET

/* What must hold. Else the program says so and aborts, and the engine keeps the input. */
#define FUZZ_CHECK(condition, ...)                                                                                     \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			fuzz_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                                        \
	} while (0)
_Noreturn void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...) ACP_PRINTF(4, 5);

/* An input is taken apart at its NUL bytes. The next part (or the rest) as text of its own, to be freed: memory of
 * exactly its size, so that reading past its end shows. "" when nothing is left. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};
char *fuzz_part(struct fuzz_input *in, size_t *len);
char *fuzz_rest(struct fuzz_input *in, size_t *len);
uint8_t fuzz_byte(struct fuzz_input *in); /* 0 when nothing is left */

/* A file that exists as long as its descriptor; path is a name for it that can be opened. */
int fuzz_file(const void *bytes, size_t len, char path[32]);

/* A folder in memory, where there is one, that is made once and removed when the program ends. */
const char *fuzz_folder(void);

/* The canonical form, to be freed. */
char *fuzz_canonical(struct json_object *value);

/* What a JSON text is, told by a reader that shares nothing with json_scan.c (oracle.c). */
struct oracle {
	bool valid;     /* by RFC 8259, in UTF-8 */
	bool too_deep;  /* the oracle gave up here: valid means nothing */
	bool nul;       /* has the character U+0000 */
	bool inexact;   /* has an integer that is no int64 or that a double would round, or a number beyond double */
	unsigned depth; /* of nesting, up to where it stopped */
	size_t tokens;  /* values and names */
	size_t members; /* of all objects */
};
struct oracle oracle_read(const uint8_t *text, size_t len);

#endif
