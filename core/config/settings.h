/* settings.h - the typed settings (settings.def) and where they come from.
 *
 * File format: `name = value` a line; `#` starts a comment at the start of a line; values may stand in double quotes.
 * An unknown name, a value of the wrong type or out of range, or a name given twice is an error that names file and
 * line: a program that runs with half its configuration would be worse than one that does not start. */
#ifndef ACP_SETTINGS_H
#define ACP_SETTINGS_H

#include "attr.h"

enum { ACP_SETTINGS_MAX = 96 };

struct acp_config {
#define ACP_TEXT(name, value, help) char *name;
#define ACP_SECRET(name, help) char *name;
#define ACP_NUMBER(name, value, min, max, unit, help) int64_t name;
#define ACP_SWITCH(name, value, help) bool name;
#define ACP_CHOICE(name, value, words, help) char *name;
#include "settings.def"
#undef ACP_TEXT
#undef ACP_SECRET
#undef ACP_NUMBER
#undef ACP_SWITCH
#undef ACP_CHOICE
	bool given[ACP_SETTINGS_MAX]; /* by setting: it came from the file or the environment */
};

/* Reads defaults, then file (NULL: the one named by ACP_CONFIG, else the installed one if it is there), then the
 * environment. False with "file:line: reason" in why; config is then empty. Checks each value, and those that must
 * fit together. Release with acp_config_release. */
bool acp_config_load(struct acp_config *config, const char *file, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_config_release(struct acp_config *config);

/* Prints every setting as a configuration file with its help, unit, default and value; secrets as "(set)". */
void acp_config_print(const struct acp_config *config, FILE *out);

/* True when the setting of this name was given (not left at its default). */
bool acp_config_given(const struct acp_config *config, const char *name);

/* True when word is one of the words of a list separated by spaces. */
bool acp_word_in_list(const char *list, const char *word);

/* The sentence for a program that needs the database and was told none. */
const char *acp_config_no_database(void);

#endif
