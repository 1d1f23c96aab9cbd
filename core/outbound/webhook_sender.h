/* webhook_sender.h - sends queued webhook deliveries, many at a time.
 *
 * The hub queues an event in the transaction that causes it, and shares the senders of all processes among the tenants
 * that have deliveries due. One thread of the process calls acp_webhook_sender_round() in a loop
 * (fcgi/delivery_worker.c). A receiver gets each delivery at least once, always with the same webhook-id. */
#ifndef ACP_WEBHOOK_SENDER_H
#define ACP_WEBHOOK_SENDER_H

#include "kernel.h"

struct acp_webhook_sender;

/* config and plane are borrowed until the sender is ended. NULL: out of memory, or libcurl cannot be used. */
struct acp_webhook_sender *acp_webhook_sender_start(const struct acp_config *config,
						    const struct acp_control_plane *plane) ACP_MUSTCHECK;

/* Waits until an attempt has ended or webhook_poll_ms have passed since the round before, whatever comes first; the
 * first round does not wait. Then reports the attempts that have ended, and claims and starts as many as there are
 * senders free. After a failure of the hub it waits five seconds at most. False: the sender was told to stop, and no
 * attempt is running. */
bool acp_webhook_sender_round(struct acp_webhook_sender *sender) ACP_MUSTCHECK;

/* Number of attempts that run now. */
size_t acp_webhook_sender_running(const struct acp_webhook_sender *sender);

/* Did the last round reach the hub? */
bool acp_webhook_sender_ok(const struct acp_webhook_sender *sender);

/* Tells the sender to claim nothing more. May be called from any thread, and ends a wait. */
void acp_webhook_sender_stop(struct acp_webhook_sender *sender);

/* Releases a sender whose last round returned false. NULL is allowed. */
void acp_webhook_sender_end(struct acp_webhook_sender *sender);

#endif
