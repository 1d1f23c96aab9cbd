/* stripe_signature.h - verifies that a webhook request is from Stripe
 * (https://docs.stripe.com/webhooks#verify-manually) */
#ifndef ACP_STRIPE_SIGNATURE_H
#define ACP_STRIPE_SIGNATURE_H

#include "attr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ACP_STRIPE_TOLERANCE = 300 }; /* seconds that a signature may be old, or ahead of our clock */

/* Checks the header Stripe-Signature ("t=1700000000,v1=<hex>[,v1=<hex>][,v0=…]") over the bytes of the body. secrets:
 * one or more, separated by spaces; the whole text whsec_… is the key. now: seconds since 1970.
 * Returns NULL when one v1 matches one of the secrets. Otherwise returns a sentence that describes the fault without
 * revealing anything about the correct signature. Takes the same time in both cases. */
const char *acp_stripe_signature_fault(const char *secrets, const char *header, const void *body, size_t body_len,
				       int64_t now) ACP_MUSTCHECK;

/* Could the header be Stripe's, made within the tolerance? Costs no hash: it decides how much of a body is read. */
bool acp_stripe_signature_plausible(const char *header, int64_t now) ACP_MUSTCHECK;

#endif
