/* kernel.h - one installation of the router: its settings, its actions, its control plane. Immutable once started,
 * shared by all threads. An embedding host makes one of these and calls acp_manage() for each request. */
#ifndef ACP_KERNEL_H
#define ACP_KERNEL_H

#include "acp.h"
#include "settings.h"
#include "executor.h"
#include "metrics.h"
#include "plane.h"
#include "ratelimit.h"
#include "schema.h"

/* An action ready to run: its row, its pack, its compiled schema and the ActionDef that meta.actions shows. */
struct acp_entry {
	const struct acp_action *action;
	const char *pack;
	struct acp_schema *schema;
	struct json_object *def; /* read only: copy before adding to a reply */
};

struct acp_kernel {
	const struct acp_config *config;
	const struct acp_control_plane *plane;
	struct acp_ratelimit *limits; /* set by the host after init; NULL: nothing is rate limited */
	struct acp_metrics *metrics;  /* set by the host after init; NULL: nothing is counted */
	struct acp_hub *hub;          /* set by the host after init (hub.h); NULL: no hub for other kernels */
	const struct acp_executor *executor; /* set by the host after init (executor.h); NULL: takes no payments */
	char *openapi;             /* set by the host after init (openapi.h), freed with the kernel; NULL: none */
	struct acp_entry *entries; /* sorted by name */
	size_t entry_count;
};

/* Registers the packs (up to a NULL) and compiles their schemas. False with a sentence in why when a row is
 * incomplete, a name stands twice or a schema is not valid: the program must not start. config and plane are only
 * referred to. */
bool acp_kernel_init(struct acp_kernel *kernel, const struct acp_config *config, const struct acp_control_plane *plane,
		     const struct acp_pack *const *packs, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_kernel_release(struct acp_kernel *kernel);

/* The entry of that name, or NULL. */
const struct acp_entry *acp_kernel_find(const struct acp_kernel *kernel, const char *name);

/* The packs built into this program (packs.def), ending with NULL. */
extern const struct acp_pack *const acp_builtin_packs[];

#endif
