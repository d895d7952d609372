/*
 * How many handles and mappings a driver takes, and whether the calls become more expensive on the way.
 *
 * Handles are one granule each and stop at a quarter of the free memory; mappings are of one handle over and over and cost
 * no memory. Both stop at 200,000, at the first refusal, and when time runs short. A row is one stretch of the way; the last
 * of each kind says why it ended.
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 200000, MOST_QUICK = 256, STRETCHES = 8 };

static double started;

static const char *stop_reason(CUresult result, size_t done, size_t most, double budget_us)
{
	if (result)
		return error_name(result);
	if (done == most)
		return "the probe's own bound";
	return now_us() - started > budget_us ? "time" : NULL;
}

/* Take steps of one kind until something ends them, with a row for each stretch. */
static void climb(const char *kind, CUresult (*step)(size_t index), size_t most)
{
	size_t stretch = most / STRETCHES ? most / STRETCHES : 1, done = 0;
	const char *reason = NULL;
	size_t before = free_memory();

	started = now_us();
	while (!reason) {
		double start = now_us();
		size_t first = done;
		CUresult result = CUDA_SUCCESS;

		do {
			result = step(done);
			done += !result;
			reason = stop_reason(result, done, most, quick ? 3e5 : 3e6);
		} while (!reason && done % stretch);
		probe_row("%s\t%zu\t%.2f\t%.1f\t%s", kind, done, (now_us() - start) / (done - first ? done - first : 1),
			((double)before - (double)free_memory()) / (1 << 20), reason ? reason : "");
	}
}

static CUmemGenericAllocationHandle *handles, one;
static size_t handle_count, mapping_count, reservation_count;
static CUdeviceptr space, *reservations;
static bool each_own_access;

static CUresult create_one(size_t index)
{
	CUresult result = cu->cuMemCreate(&handles[index], granule, &prop, 0);

	handle_count += !result;
	return result;
}

static CUresult reserve_one(size_t index)
{
	CUresult result = cu->cuMemAddressReserve(&reservations[index], granule, granule, 0, 0);

	reservation_count += !result;
	return result;
}

static CUresult map_one(size_t index)
{
	CUresult result = cu->cuMemMap(space + index * granule, granule, 0, one, 0);

	mapping_count += !result;
	if (!result && each_own_access)
		result = set_access(space + index * granule, granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	return result;
}

static void timed(const char *kind, size_t count, double start, CUresult result)
{
	double us = (now_us() - start) / (count ? count : 1);

	probe_row("%s\t%zu\t%.2f\t\t%s", kind, count, us, error_name(result));
}

static void ask_handles(size_t most)
{
	size_t affordable = free_memory() / 4 / granule;
	double start;

	handles = calloc(most, sizeof(*handles));
	if (!handles)
		probe_fail("no memory");
	climb("handles of one granule", create_one, affordable < most ? affordable : most);
	start = now_us();
	for (size_t i = 0; i < handle_count; i++)
		must(cu->cuMemRelease(handles[i]));
	timed("release of all handles", handle_count, start, CUDA_SUCCESS);
	free(handles);
}

static void ask_reservations(size_t most)
{
	double start;

	reservations = calloc(most, sizeof(*reservations));
	if (!reservations)
		probe_fail("no memory");
	climb("reservations of one granule", reserve_one, most);
	start = now_us();
	for (size_t i = 0; i < reservation_count; i++)
		must(cu->cuMemAddressFree(reservations[i], granule));
	timed("free of all reservations", reservation_count, start, CUDA_SUCCESS);
	free(reservations);
}

static void ask_mappings(const char *kind, const char *drop, bool with_access, size_t most)
{
	CUresult result;
	double start;

	each_own_access = with_access;
	one = handle_new(granule);
	space = reservation_new(most * granule);
	climb(kind, map_one, most);
	start = now_us();
	/* A driver that has just refused may refuse this too; the process's end then is what gives it all back. */
	result = cu->cuMemUnmap(space, mapping_count * granule);
	timed(drop, mapping_count, start, result);
}

/* A process of its own for each kind: what one has used up is not missed by the next. */
static void run_case(const char *name)
{
	size_t most = quick ? MOST_QUICK : MOST;

	if (!strcmp(name, "handles"))
		ask_handles(most);
	else if (!strcmp(name, "reservations"))
		ask_reservations(most);
	else if (!strcmp(name, "mappings"))
		ask_mappings("mappings of one handle", "unmap of all, one call", false, most);
	else
		ask_mappings(
			"mappings of one handle, each with access", "unmap of all with access, one call", true, most);
}

static void run(void)
{
	probe_case("handles");
	probe_case("reservations");
	probe_case("mappings");
	probe_case("mappings-with-access");
}

static const char *const columns[] = {"what", "count", "us_each", "memory_mib", "ended_by", NULL};
static const struct probe probe = {
	.name = "limits",
	.question =
		"How many handles, reservations and mappings does the driver take, and do they become more expensive?",
	.columns = columns,
	.run = run,
	.run_case = run_case,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
