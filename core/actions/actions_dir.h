/* actions_dir.h - actions without C: each file *.json of the folder actions_dir is one (acp-actions(5)). */
#ifndef ACP_ACTIONS_DIR_H
#define ACP_ACTIONS_DIR_H

#include "kernel.h"

/* What was read of the folder; immutable. A kernel that was made with its packs needs it until it is released. */
struct acp_actions;

/* Reads config->actions_dir, in the order of the files' names; "" is a folder without files. NULL with
 * "file:line: reason" in why when anything in it is wrong: of a set with a broken file nothing is used. */
struct acp_actions *acp_actions_load(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_actions_free(struct acp_actions *actions); /* NULL is allowed */

/* The built-in packs and those of the folder, for acp_kernel_init. */
const struct acp_pack *const *acp_actions_packs(const struct acp_actions *actions);

/* The action of the nth file, or NULL past the last. */
const struct acp_action *acp_actions_at(const struct acp_actions *actions, size_t nth);

#endif
