/*
 * driver/softcuda/perthread.c: the forms for per-thread default streams (_ptds, _ptsz): the same calls, in which the NULL
 * stream is the calling thread's own.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "names.h"

#include "state.h"

#define SC_PER_THREAD(symbol, of, parameters, arguments)                                                               \
	CUresult CUDAAPI symbol parameters                                                                             \
	{                                                                                                              \
		bool before = sc_default_per_thread(true);                                                             \
		CUresult result = of arguments;                                                                        \
                                                                                                                       \
		sc_default_per_thread(before);                                                                         \
		return result;                                                                                         \
	}
#include "names.inc"
#undef SC_PER_THREAD

static const struct form {
	void *function, *of;
} forms[] = {
#define SC_PER_THREAD(symbol, of, parameters, arguments) {(void *)symbol, (void *)of},
#include "names.inc"
};

bool sc_is_absent_per_thread(void *function)
{
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		if (forms[i].function == function)
			return sc_is_absent(forms[i].of);
	}
	return false;
}
