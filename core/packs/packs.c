#include "kernel.h"

#define ACP_PACK(name) extern const struct acp_pack acp_pack_##name;
#include "packs.def"
#undef ACP_PACK

const struct acp_pack *const acp_builtin_packs[] = {
#define ACP_PACK(name) &acp_pack_##name,
#include "packs.def"
#undef ACP_PACK
	NULL,
};
