#include "auth.h"

enum acp_code acp_authenticate(const struct acp_kernel *kernel, const char *credential, struct acp_principal *out)
{
	const struct acp_config *config = kernel->config;
	uint8_t hash[ACP_SHA256_LEN];
	/* Refuse a mistyped key without asking the hub. The reply is the same. */
	if (!credential || !acp_key_wellformed(config->api_key_prefix, credential))
		return ACP_INVALID_API_KEY;
	acp_key_hash(config->key_pepper, credential, hash);
	return kernel->plane->call.authenticate(kernel->plane->self, hash, out);
}
