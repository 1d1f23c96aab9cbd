/* pg_plane.h - the control plane over PostgreSQL. Does not expose libpq. */
#ifndef ACP_PG_PLANE_H
#define ACP_PG_PLANE_H

#include "settings.h"
#include "plane.h"
#include "shared_counter.h"

/* The newest migration that this program knows. */
#define ACP_SCHEMA_VERSION 19

struct acp_pg_plane;

/* Creates the plane of one process (after fork), and fills plane, whose functions any number of threads may use.
 * Connects on demand. Keeps a reference to config. changes (borrowed) is shared by the processes of this host, and
 * raised when one of them changes a key or tenant. NULL: out of memory. */
struct acp_pg_plane *acp_pg_plane_new(const struct acp_config *config, struct acp_shared_counter *changes,
				      struct acp_control_plane *plane) ACP_MUSTCHECK;
void acp_pg_plane_free(struct acp_pg_plane *pg);

#endif
