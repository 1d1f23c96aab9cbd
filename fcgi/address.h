/* address.h - the client's address: REMOTE_ADDR, or the one that trusted proxies report. */
#ifndef ACP_ADDRESS_H
#define ACP_ADDRESS_H

#include "attr.h"

enum { ACP_ADDRESS_MAX = 46 }; /* longest text of an IPv6 address, including the NUL */

/* Checks the list of trusted_proxies: addresses and CIDR networks separated by spaces. If false, bad is the first
 * invalid word. */
bool acp_proxies_ok(const char *trusted, char bad[64]);

/* Writes the client's address to out. Starts with remote_addr. While the address belongs to a trusted proxy, takes the
 * previous address in X-Forwarded-For, from right to left. Therefore a forged header of an untrusted peer has no
 * effect. out is "" if remote_addr is not an address. */
void acp_client_address(const char *trusted, const char *remote_addr, const char *forwarded_for,
			char out[ACP_ADDRESS_MAX]);

#endif
