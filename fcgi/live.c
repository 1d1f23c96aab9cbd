#include "live.h"

#include "openapi.h"

#include <pthread.h>

struct acp_kernel_ref {
	struct acp_kernel kernel;
	struct acp_actions *own; /* freed with this reference; NULL: the actions belong to the caller */
	unsigned holders;        /* requests, plus one while it is the current kernel */
};

struct acp_live {
	pthread_mutex_t lock;
	struct acp_kernel_ref *current;
};

/* Takes ownership of own, even on failure. */
static struct acp_kernel_ref *make(const struct acp_config *config, const struct acp_control_plane *plane,
				   const struct acp_live_parts *parts, const struct acp_actions *actions,
				   struct acp_actions *own, char *why, size_t why_size)
{
	struct acp_kernel_ref *made = calloc(1, sizeof *made);
	if (made && acp_kernel_init(&made->kernel, config, plane, acp_actions_packs(actions), why, why_size)) {
		made->kernel.limits = parts->limits;
		made->kernel.shares = parts->shares;
		made->kernel.metrics = parts->metrics;
		made->kernel.hub = parts->hub;
		made->kernel.executor = parts->executor;
		made->kernel.openapi = acp_openapi_text(&made->kernel);
		made->own = own;
		made->holders = 1;
		return made;
	}
	if (!made)
		snprintf(why, why_size, "out of memory");
	acp_actions_free(own);
	free(made);
	return NULL;
}

struct acp_live *acp_live_new(const struct acp_config *config, const struct acp_control_plane *plane,
			      const struct acp_live_parts *parts, const struct acp_actions *actions, char *why,
			      size_t why_size)
{
	struct acp_live *live = calloc(1, sizeof *live);
	struct acp_kernel_ref *first = make(config, plane, parts, actions, NULL, why, why_size);
	if (live && first) {
		pthread_mutex_init(&live->lock, NULL);
		live->current = first;
		return live;
	}
	if (first) {
		acp_kernel_release(&first->kernel);
		free(first);
		snprintf(why, why_size, "out of memory");
	}
	free(live);
	return NULL;
}

const struct acp_kernel *acp_live_acquire(struct acp_live *live, struct acp_kernel_ref **ref)
{
	pthread_mutex_lock(&live->lock);
	*ref = live->current;
	(*ref)->holders++;
	pthread_mutex_unlock(&live->lock);
	return &(*ref)->kernel;
}

void acp_live_release(struct acp_live *live, struct acp_kernel_ref *ref)
{
	pthread_mutex_lock(&live->lock);
	bool last = --ref->holders == 0;
	pthread_mutex_unlock(&live->lock);
	if (!last)
		return;
	acp_kernel_release(&ref->kernel);
	acp_actions_free(ref->own);
	free(ref);
}

bool acp_live_reload(struct acp_live *live, char *why, size_t why_size)
{
	const struct acp_kernel *old = &live->current->kernel; /* only this thread replaces it */
	const struct acp_live_parts parts = {old->limits, old->shares, old->metrics, old->hub, old->executor};
	struct acp_actions *actions = acp_actions_load(old->config, why, why_size);
	struct acp_kernel_ref *fresh =
		actions ? make(old->config, old->plane, &parts, actions, actions, why, why_size) : NULL;
	if (!fresh)
		return false;
	pthread_mutex_lock(&live->lock);
	struct acp_kernel_ref *before = live->current;
	live->current = fresh;
	pthread_mutex_unlock(&live->lock);
	acp_live_release(live, before);
	return true;
}

void acp_live_free(struct acp_live *live)
{
	acp_live_release(live, live->current);
	pthread_mutex_destroy(&live->lock);
	free(live);
}
