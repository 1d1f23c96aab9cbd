/* address.h - the client's address: REMOTE_ADDR, or what trusted proxies say of it. */
#ifndef ACP_ADDRESS_H
#define ACP_ADDRESS_H

#include "attr.h"

enum { ACP_ADDRESS_MAX = 46 }; /* longest text of an IPv6 address, and the NUL */

/* The list of trusted_proxies: addresses and CIDR networks separated by spaces. False with the first bad word in bad. */
bool acp_proxies_ok(const char *trusted, char bad[64]);

/* Writes the client's address to out. remote_addr is believed; while it is that of a trusted proxy, the address before
 * it in X-Forwarded-For is taken, from the right. A forged header of an untrusted peer changes nothing. "" when
 * remote_addr is no address. */
void acp_client_address(const char *trusted, const char *remote_addr, const char *forwarded_for,
			char out[ACP_ADDRESS_MAX]);

#endif
