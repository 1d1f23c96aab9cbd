/* fake_plane.h - a control plane in memory, to test the pipeline without PostgreSQL. It keeps the promises of plane.h:
 * a reservation is used or released; effects commit with settle or not at all; any number of threads may call it. Each
 * step can be made to fail, and calls are recorded. */
#ifndef ACP_TESTS_FAKE_PLANE_H
#define ACP_TESTS_FAKE_PLANE_H

#include "plane.h"
#include "settings.h"

#include <pthread.h>

#define FAKE_PEPPER "0123456789abcdef0123456789abcdef"
#define FAKE_TENANT "11111111-2222-4333-8444-555555555555"
#define FAKE_KEY_ID "99999999-8888-4777-8666-555555555555"
#define FAKE_TS "2026-11-22 09:30:00.123456+00"

enum fake_step {
	FAKE_AUTHENTICATE,
	FAKE_GET_USAGE,
	FAKE_RESERVE,
	FAKE_GET_PRICES,
	FAKE_BEGIN,
	FAKE_RUN,
	FAKE_ROLLBACK,
	FAKE_SETTLE,
	FAKE_RECORD,
	FAKE_RESOLVE,
	FAKE_ONBOARD,
	FAKE_STEPS
};

enum { FAKE_EVENTS_MAX = 4096, FAKE_AGENTS_MAX = 8 };

/* An onboarded agent; strings are owned. */
struct fake_agent {
	char *agent_id, *idempotency_key, *fingerprint;
	char tenant_id[ACP_UUID_LEN], api_key_id[ACP_UUID_LEN], salt[ACP_SHA256_HEX];
	uint8_t key_hash[ACP_SHA256_LEN];
};

struct fake_plane {
	struct acp_control_plane plane; /* pass this to the kernel; members may be set to NULL before that */
	pthread_mutex_t lock;
	char key[ACP_KEY_MAX]; /* the one usable API key */
	uint8_t key_hash[ACP_SHA256_LEN];

	/* switches */
	enum acp_code fail[FAKE_STEPS]; /* ACP_OK: the step works */
	struct acp_refusal refusal;     /* the refusal of a failing run */
	const char *scopes;             /* " manage.read manage.domain " */
	const char *ts;
	enum acp_tier tier;     /* as authentication returns it */
	enum acp_tier tier_now; /* as reserve returns it; paid: not limited */
	int64_t limit, used;    /* of the free allowance */
	int64_t past_due_us;    /* as authentication returns it */
	const char *past_due;   /* past_due_until of reserve; NULL: none */

	/* state */
	int64_t held;    /* reservations of running calls */
	int64_t effects; /* effects of runs that settle committed */
	int open;        /* transactions that have not ended yet */
	struct fake_agent agents[FAKE_AGENTS_MAX];
	size_t agent_count;

	/* the record */
	unsigned calls[FAKE_STEPS];
	char trace[256];      /* "authenticate reserve settle", cut when full */
	bool reserved;        /* from the last settle or record */
	bool settled_with_tx; /* the last settle had a transaction */
	bool read_only;       /* the last begin */
	char price_unit[16];  /* of the first action of the last get_prices */
	int64_t price_quantity;
	int64_t reported;                            /* by the functions of a transaction; 0: nothing */
	int64_t max_quantity;                        /* of the last settlement */
	struct json_object *context;                 /* of the last run */
	struct json_object *events[FAKE_EVENTS_MAX]; /* every audit row that was written */
	size_t event_count;
};

/* Makes a plane on which everything works: scopes read and domain, tier free, limit 100, none used. */
void fake_plane_init(struct fake_plane *fake);
void fake_plane_release(struct fake_plane *fake);

/* Clears the record, but not the switches and the state. */
void fake_plane_forget(struct fake_plane *fake);

/* The last audit row as JSON text, owned by the plane; "" when there is none. */
const char *fake_plane_event(const struct fake_plane *fake);

/* A member of the last audit row as text (numbers and booleans too), or "(none)". */
const char *fake_plane_column(const struct fake_plane *fake, const char *name);

/* Default settings with a pepper, independent of the environment. Ends the program on failure. */
void fake_config_init(struct acp_config *config);

#endif
