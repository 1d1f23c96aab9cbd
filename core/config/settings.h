/* settings.h - the typed settings (settings.def) and how they are loaded.
 *
 * File format: one `name = value` per line. A line that starts with `#` is a comment. Values may be in double quotes.
 * An unknown name, a value of the wrong type or out of range, and a name given twice are errors, reported with file and
 * line: it is better not to start than to run with half a configuration. */
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
	bool given[ACP_SETTINGS_MAX]; /* by setting: true if its value came from the file or the environment */
	char notice[128];             /* a sentence for the operator (a setting was renamed), or "" */
};

/* Reads the defaults, then file (NULL: the file named by ACP_CONFIG, otherwise the installed one if it exists), then
 * the environment. Checks each value, and the values that depend on each other. Accepts a setting under its former
 * name, with a notice. Returns false with "file:line: reason" in why; config is then empty. Release it with
 * acp_config_release. */
bool acp_config_load(struct acp_config *config, const char *file, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_config_release(struct acp_config *config);

/* Prints every setting with its help, unit, default and value, in the form of a configuration file. Secrets are printed
 * as "(set)". */
void acp_config_print(const struct acp_config *config, FILE *out);

/* True if the setting of this name was given, and not left at its default. */
bool acp_config_given(const struct acp_config *config, const char *name);

/* True if word is one of the words of a list separated by spaces. */
bool acp_word_in_list(const char *list, const char *word);

/* Returns the error message for a program that needs the database when database_url is not set. */
const char *acp_config_no_database(void);

#endif
