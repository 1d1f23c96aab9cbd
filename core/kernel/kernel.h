/* kernel.h - one installation of the router: its settings, its actions, its control plane. It is immutable once
 * started, and shared by all threads. An embedding host creates one and calls acp_manage() for each request. */
#ifndef ACP_KERNEL_H
#define ACP_KERNEL_H

#include "acp.h"
#include "settings.h"
#include "executor.h"
#include "metrics.h"
#include "plane.h"
#include "ratelimit.h"
#include "schema.h"
#include "shares.h"

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
	struct acp_ratelimit *limits;        /* set by the host after init; NULL: no rate limits */
	struct acp_shares *shares;           /* set by the host after init; NULL: calls may hold as much as they want */
	struct acp_metrics *metrics;         /* set by the host after init; NULL: no metrics */
	struct acp_hub *hub;                 /* set by the host after init (hub.h); NULL: no hub for other kernels */
	const struct acp_executor *executor; /* set by the host after init (executor.h); NULL: no payments */
	char *openapi;             /* set by the host after init (openapi.h), freed with the kernel; NULL: none */
	struct acp_entry *entries; /* sorted by name */
	size_t entry_count;
};

/* Registers the packs (terminated by NULL) and compiles their schemas. Returns false with a sentence in why if a row is
 * incomplete, a name occurs twice or a schema is invalid. The program must then not start. config and plane are
 * borrowed and must outlive the kernel. */
bool acp_kernel_init(struct acp_kernel *kernel, const struct acp_config *config, const struct acp_control_plane *plane,
		     const struct acp_pack *const *packs, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_kernel_release(struct acp_kernel *kernel);

/* The entry of that name, or NULL. */
const struct acp_entry *acp_kernel_find(const struct acp_kernel *kernel, const char *name);

/* The packs built into this program (packs.def), terminated by NULL. */
extern const struct acp_pack *const acp_builtin_packs[];

#endif
