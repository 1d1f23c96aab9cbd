/* fuzz.h - shared by the fuzz targets. A target is a function of an input. It states the conditions for every input
 * with FUZZ_CHECK. Either libFuzzer's engine calls it (engine.c), or a plain program does, with the files of the corpus
 * (replay.c). */
#ifndef ACP_TESTS_FUZZ_H
#define ACP_TESTS_FUZZ_H

#include "attr.h"
#include "buf.h"
#include "json.h"

typedef void fuzz_target(const uint8_t *data, size_t size);

/* The targets by name (targets.def), terminated by a row without a name. */
struct fuzz_named {
	const char *name;
	fuzz_target *run;
};
extern const struct fuzz_named fuzz_targets[];
const struct fuzz_named *fuzz_find(const char *name); /* NULL: no such target */

#define FUZZ_TARGET(name) fuzz_target fuzz_##name;
#include "targets.def"
#undef FUZZ_TARGET

/* A condition for every input. If it fails, the program prints a message and aborts, and the engine keeps the input. */
#define FUZZ_CHECK(condition, ...)                                                                                     \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			fuzz_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                                        \
	} while (0)
_Noreturn void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...) ACP_PRINTF(4, 5);

/* Splits an input at its NUL bytes. Returns the next part (or the rest) as separate text, which the caller frees. The
 * memory has exactly its size, so that a read past its end is detected. "" when nothing is left. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};
char *fuzz_part(struct fuzz_input *in, size_t *len);
char *fuzz_rest(struct fuzz_input *in, size_t *len);
uint8_t fuzz_byte(struct fuzz_input *in); /* 0 when nothing is left */

/* Makes a file that exists as long as its descriptor is open. path: a name with which it can be opened. */
int fuzz_file(const void *bytes, size_t len, char path[32]);

/* A folder, in memory if possible. It is made once and removed when the program ends. */
const char *fuzz_folder(void);

/* The canonical form; the caller frees it. */
char *fuzz_canonical(struct json_object *value);

/* The properties of a JSON text, from a parser that shares no code with json_scan.c (oracle.c). */
struct oracle {
	bool valid;     /* by RFC 8259, in UTF-8 */
	bool too_deep;  /* the oracle gave up: valid is meaningless */
	bool nul;       /* has the character U+0000 */
	bool inexact;   /* has an integer that int64 or double would change, or a number beyond double */
	unsigned depth; /* of nesting, up to where the oracle stopped */
	size_t tokens;  /* values and names */
	size_t members; /* of all objects */
};
struct oracle oracle_read(const uint8_t *text, size_t len);

#endif
