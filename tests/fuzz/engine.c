/* engine.c - libFuzzer's entry points: run the target that ACP_FUZZ_TARGET names. */
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fuzz_named *target;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *name = getenv("ACP_FUZZ_TARGET");
	(void)argc;
	(void)argv;
	target = name ? fuzz_find(name) : NULL;
	if (target)
		return 0;
	fprintf(stderr, "ACP_FUZZ_TARGET=%s: no such target; tests/fuzz/targets.def has them\n", name ? name : "");
	exit(64);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	target->run(data, size);
	return 0;
}
