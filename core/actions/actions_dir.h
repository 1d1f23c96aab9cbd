/* actions_dir.h - actions without C: each file *.json of the folder actions_dir is one (acp-actions(5)). */
#ifndef ACP_ACTIONS_DIR_H
#define ACP_ACTIONS_DIR_H

#include "kernel.h"

/* The actions read from the folder; immutable. It must outlive every kernel made with its packs. */
struct acp_actions;

/* Reads the files of config->actions_dir, sorted by name; "" means no files. Returns NULL with "file:line: reason" in
 * why when anything is wrong: one broken file rejects the whole set. */
struct acp_actions *acp_actions_load(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_actions_free(struct acp_actions *actions); /* NULL is allowed */

/* The built-in packs and the folder's packs, for acp_kernel_init. */
const struct acp_pack *const *acp_actions_packs(const struct acp_actions *actions);

/* The action of the nth file, or NULL after the last. */
const struct acp_action *acp_actions_at(const struct acp_actions *actions, size_t nth);

#endif
