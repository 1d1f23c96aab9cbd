#include "gate.h"

#include "thread.h"

struct acp_gate_waiter {
	char name[ACP_GATE_NAME];
	bool admitted;
	pthread_cond_t admission;
	struct acp_gate_waiter *next;
};

/* The caller holds the lock. */
static void let_through(struct acp_gate *gate, const char *name)
{
	gate->taken = true;
	snprintf(gate->last, sizeof gate->last, "%s", name);
}

/* Waits for a turn. The caller holds the lock. */
static void wait_for_turn(struct acp_gate *gate, const char *name)
{
	struct acp_gate_waiter self = {.admission = PTHREAD_COND_INITIALIZER};
	struct acp_gate_waiter **end = &gate->first;
	snprintf(self.name, sizeof self.name, "%s", name);
	while (*end)
		end = &(*end)->next;
	*end = &self;
	acp_thread_blocks();
	while (!self.admitted)
		pthread_cond_wait(&self.admission, &gate->lock);
	acp_thread_goes_on();
	pthread_cond_destroy(&self.admission);
}

void acp_gate_enter(struct acp_gate *gate, const char *name)
{
	pthread_mutex_lock(&gate->lock);
	if (gate->taken)
		wait_for_turn(gate, name);
	else
		let_through(gate, name);
	pthread_mutex_unlock(&gate->lock);
}

/* Returns the place in the list of the first thread that works for another name than the last one, or else of the first
 * thread. */
static struct acp_gate_waiter **next_turn(struct acp_gate *gate)
{
	for (struct acp_gate_waiter **at = &gate->first; *at; at = &(*at)->next)
		if (strcmp((*at)->name, gate->last) != 0)
			return at;
	return &gate->first;
}

void acp_gate_leave(struct acp_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	struct acp_gate_waiter **at = next_turn(gate);
	struct acp_gate_waiter *next = *at;
	gate->taken = false;
	if (next) {
		*at = next->next;
		let_through(gate, next->name);
		next->admitted = true;
		pthread_cond_signal(&next->admission);
	}
	pthread_mutex_unlock(&gate->lock);
}
