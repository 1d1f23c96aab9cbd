/* actions_dir.h - actions defined without C, one in each *.json file of the folder actions_dir (acp-actions(5)). */
#ifndef ACP_ACTIONS_DIR_H
#define ACP_ACTIONS_DIR_H

#include "kernel.h"

/* The actions read from the folder; immutable. They must outlive every kernel made with their packs. */
struct acp_actions;

/* Reads the files of config->actions_dir, sorted by name; "" means no files. Returns NULL with "file:line: reason" in
 * why if anything is wrong: one invalid file rejects the whole set. */
struct acp_actions *acp_actions_load(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_actions_free(struct acp_actions *actions); /* NULL is allowed */

/* The built-in packs and the folder's packs, for acp_kernel_init. */
const struct acp_pack *const *acp_actions_packs(const struct acp_actions *actions);

/* The action of the nth file, or NULL after the last. */
const struct acp_action *acp_actions_at(const struct acp_actions *actions, size_t nth);

#endif
