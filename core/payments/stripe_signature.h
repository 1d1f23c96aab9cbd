/* stripe_signature.h - is a webhook request Stripe's? (https://docs.stripe.com/webhooks#verify-manually) */
#ifndef ACP_STRIPE_SIGNATURE_H
#define ACP_STRIPE_SIGNATURE_H

#include "attr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ACP_STRIPE_TOLERANCE = 300 }; /* seconds that the signature may be old, or ahead of our clock */

/* Checks the header Stripe-Signature ("t=1700000000,v1=<hex>[,v1=<hex>][,v0=…]") over the bytes of the body. secrets:
 * one or more, separated by spaces; the whole text whsec_… is the key. now: seconds since 1970.
 * NULL: one of the v1 is right, for one of the secrets. Else a sentence that says what is wrong and tells nothing of
 * the right one. The time it takes depends on neither. */
const char *acp_stripe_signature_fault(const char *secrets, const char *header, const void *body, size_t body_len,
				       int64_t now) ACP_MUSTCHECK;

#endif
