/* pg_plane.h - the control plane over PostgreSQL. Shows no libpq. */
#ifndef ACP_PG_PLANE_H
#define ACP_PG_PLANE_H

#include "settings.h"
#include "plane.h"
#include "shared_counter.h"

/* The newest migration this program knows. */
#define ACP_SCHEMA_VERSION 10

struct acp_pg_plane;

/* Creates the plane of one process (after fork). Connects on demand. NULL: out of memory. Keeps a reference to the
 * config. changes (borrowed): shared by the processes of this host, raised when one of them changes a key or tenant.
 * Fills plane; any number of threads may use its functions. */
struct acp_pg_plane *acp_pg_plane_new(const struct acp_config *config, struct acp_shared_counter *changes,
				      struct acp_control_plane *plane) ACP_MUSTCHECK;
void acp_pg_plane_free(struct acp_pg_plane *pg);

#endif
