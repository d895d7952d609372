/*
 * driver/softcuda/absent.c: every function of the driver that softcuda does not have. It is exported, so that programs that
 * bind all names at once start, and answers CUDA_ERROR_NOT_SUPPORTED.
 *
 * There is such an answer for each name in cuda.h; it is a weak symbol, which a function of softcuda's own replaces when the
 * library is linked. So no list has to be kept, and `nm -D` tells which is which: W is absent.
 */
#include "names.h"

#include "state.h"

static CUresult absent(const char *function)
{
	CUresult error = sc_enter(function);

	return error ? error : CUDA_ERROR_NOT_SUPPORTED;
}

/* Arguments are the caller's to clear away, so that one without any stands for all. */
#define SC_NAME(symbol)                                                                                                \
	static CUresult absent_##symbol(void)                                                                          \
	{                                                                                                              \
		return absent(#symbol);                                                                                \
	}                                                                                                              \
	extern __typeof__(absent_##symbol) symbol##_weak __asm__(#symbol)                                              \
		__attribute__((weak, alias("absent_" #symbol)));
#include "names.inc"
#undef SC_NAME

static void *const answers[] = {
#define SC_NAME(symbol) (void *)absent_##symbol,
#include "names.inc"
};

bool sc_is_absent(void *function)
{
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		if (answers[i] == function)
			return true;
	}
	return false;
}
