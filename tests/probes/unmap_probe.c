/*
 * What an unmap, or a change of access, does under a kernel that uses the range.
 *
 * Each case runs in a process of its own: a kernel is held at a gate, using the range or about to, the call is made (a
 * timer opens the gate, so that a call which waits ends), and then the state of kernel and context is queried.
 */
#include "probe.h"

#include <string.h>

enum { WAIT_MS = 500, FAULT_MS = 50 };
enum change { UNMAP, UNMAP_WITH_ALIAS, UNMAP_RELEASE, UNMAP_REMAP, READ_ONLY, NO_ACCESS };

static const struct {
	const char *name;
	enum gate_touch touch;
	enum change change;
} cases[] = {
	{"handed-not-used", GATE_TOUCH_NOTHING, UNMAP},
	{"used-after", GATE_TOUCH_AT_END, UNMAP},
	{"reading", GATE_TOUCH_READING, UNMAP},
	{"writing", GATE_TOUCH_WRITING, UNMAP},
	{"writing-alias-left", GATE_TOUCH_WRITING, UNMAP_WITH_ALIAS},
	{"writing-released", GATE_TOUCH_WRITING, UNMAP_RELEASE},
	{"writing-other-block-mapped", GATE_TOUCH_WRITING, UNMAP_REMAP},
	{"reading-made-read-only", GATE_TOUCH_READING, READ_ONLY},
	{"writing-made-read-only", GATE_TOUCH_WRITING, READ_ONLY},
	{"reading-without-access", GATE_TOUCH_READING, NO_ACCESS},
};

static CUresult change_make(enum change change, const struct range *r)
{
	CUmemGenericAllocationHandle other = 0;
	CUresult result;

	if (change == UNMAP_REMAP)
		other = handle_new(r->bytes); /* before the kernel can fault, which would refuse it */
	if (change == READ_ONLY)
		return set_access(r->at, r->bytes, CU_MEM_ACCESS_FLAGS_PROT_READ);
	if (change == NO_ACCESS)
		return set_access(r->at, r->bytes, CU_MEM_ACCESS_FLAGS_PROT_NONE);
	result = cu->cuMemUnmap(r->at, r->bytes);
	if (!result && change == UNMAP_RELEASE)
		result = cu->cuMemRelease(r->handle);
	if (!result && change == UNMAP_REMAP) {
		result = cu->cuMemMap(r->at, r->bytes, 0, other, 0);
		if (!result)
			result = set_access(r->at, r->bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	}
	return result;
}

static void run_case(const char *name)
{
	struct range r = range_new(granule), alias;
	struct gate gate = gate_new();
	struct gate_timer *timer;
	CUstream stream = NULL;
	CUresult result, sync;
	bool has_waited, was_running;
	double start, us;
	size_t i = 0;

	while (strcmp(cases[i].name, name))
		if (++i == sizeof(cases) / sizeof(*cases))
			probe_fail("no such case: %s", name);
	if (cases[i].change == UNMAP_WITH_ALIAS)
		alias = range_alias(&r, CU_MEM_ACCESS_FLAGS_PROT_READ);
	must(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	must(cu->cuMemsetD8(r.at, 0, r.bytes));
	must(cu->cuCtxSynchronize());
	must(gate_launch(&gate, stream, r.at, cases[i].touch));
	gate_await_start(&gate);
	timer = gate_open_later(&gate, WAIT_MS);
	start = now_us();
	result = change_make(cases[i].change, &r);
	us = now_us() - start;
	sleep_ms(FAULT_MS); /* time for the kernel to fault */
	was_running = cu->cuStreamQuery(stream) == CUDA_ERROR_NOT_READY;
	has_waited = us > 1000.0 * WAIT_MS / 2;
	gate_timer_join(timer);
	gate_open(&gate);
	sync = cu->cuStreamSynchronize(stream);
	if (!sync && cases[i].change == UNMAP_WITH_ALIAS)
		sync = cu->cuMemcpyDtoH(&(unsigned){0}, alias.at, sizeof(unsigned));
	probe_row("%s\t%s\t%.1f\t%s\t%s\t%s\t%s", name, error_name(result), us, has_waited ? "yes" : "no",
		was_running ? "yes" : "no", error_name(sync), error_name(cu->cuCtxSynchronize()));
}

static void run(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		probe_case(cases[i].name);
}

static const char *const columns[] = {
	"kernel_and_change", "call", "call_us", "call_waited", "kernel_ran_on", "kernel_end", "context_after", NULL};
static const struct probe probe = {
	.name = "unmap",
	.question = "What does an unmap, or a change of access, do under a kernel that uses the range?",
	.columns = columns,
	.run = run,
	.run_case = run_case,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
