/*
 * tools/run/doctor.c: `kvshare-run doctor` reports what works on this machine, what does not, and what to do about it.
 *
 * A check opens a library, a device or a file and closes it again. It changes nothing.
 */
#include "run.h"

#include "../../profiler/profiler.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum state { STATE_OK, STATE_MISSING, STATE_OPTIONAL };

struct finding {
	const char *what;
	enum state state;
	char found[1024];
	char advice[256]; /* "" where there is nothing to do */
};

struct findings {
	struct finding items[16];
	size_t count;
};

static struct finding *add(struct findings *all, const char *what, enum state state)
{
	struct finding *item = &all->items[all->count++];

	*item = (struct finding){.what = what, .state = state};
	return item;
}

static void describe_device(struct finding *item, kvs_cu *cu)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cu->device}};
	size_t least = 0, recommended = 0, free_bytes = 0, total = 0;

	cu->cuMemGetAllocationGranularity(&least, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	cu->cuMemGetAllocationGranularity(&recommended, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
	cu->cuMemGetInfo(&free_bytes, &total);
	snprintf(item->found, sizeof(item->found),
		"%s, compute capability %d.%d, driver API %d.%d, %.1f of %.1f GiB free, granule %zu KiB (recommended "
		"%zu KiB)",
		cu->name, cu->compute_capability / 10, cu->compute_capability % 10, cu->driver_version / 1000,
		cu->driver_version % 1000 / 10, free_bytes / 1073741824.0, total / 1073741824.0, least >> 10,
		recommended >> 10);
}

/* `cu`: the GPU; NULL: there is none, so it does not matter which ones they are for. */
static void check_kernels(struct findings *all, const kvs_cu *cu)
{
	const char *archs = kvs_kernels_gpu_archs();
	bool fit = *archs && (!cu || !kvs_kernels_check(cu));
	struct finding *item = add(all, "GPU kernels", fit ? STATE_OK : STATE_OPTIONAL);

	if (*archs)
		snprintf(item->found, sizeof(item->found), "built for GPU_ARCHS=\"%s\"", archs);
	else
		snprintf(item->found, sizeof(item->found), "not built: make build GPU=1");
	if (cu && !fit)
		snprintf(item->advice, sizeof(item->advice),
			"the GPU is not used: --device auto runs everything on the CPU%s%s", *archs ? "; " : "",
			*archs ? kvs_error() : "");
}

static void check_gpu(struct findings *all)
{
	kvs_cu *cu = NULL;

	if (kvs_cu_open("cuda", &cu)) {
		struct finding *item = add(all, "GPU", STATE_OPTIONAL);
		snprintf(item->found, sizeof(item->found), "%s", kvs_error());
		snprintf(item->advice, sizeof(item->advice),
			"without one, --device host runs everything on the CPU, for trying and testing");
	} else {
		describe_device(add(all, "GPU", STATE_OK), cu);
	}
	check_kernels(all, cu);
	kvs_cu_close(cu);
}

static void check_host(struct findings *all)
{
	struct finding *item;
	kvs_cu *cu;
	int err;

	err = run_device_open("host", &cu);
	if (err) {
		item = add(all, "host device", STATE_MISSING);
		snprintf(item->found, sizeof(item->found), "%s", kvs_error());
		if (err == -ENODEV) /* not there; of all else, as of a bad setting, the message says what to do */
			snprintf(item->advice, sizeof(item->advice),
				"build it with `make build`, or set KVSHARE_SOFTCUDA to its path");
		return;
	}
	describe_device(add(all, "host device", STATE_OK), cu);
	kvs_cu_close(cu);
}

/* The first of `names` (NULL-terminated) that can be loaded. */
static void check_library(
	struct findings *all, const char *what, const char *const *names, enum state without, const char *advice)
{
	for (; *names; names++) {
		/* Stays loaded: some of these leak when they are unloaded. */
		void *library = dlopen(*names, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
		if (library) {
			struct finding *item = add(all, what, STATE_OK);
			snprintf(item->found, sizeof(item->found), "%s", *names);
			dlclose(library);
			return;
		}
	}
	struct finding *item = add(all, what, without);
	snprintf(item->found, sizeof(item->found), "not found");
	snprintf(item->advice, sizeof(item->advice), "%s", advice);
}

/* NVIDIA's library, and ours that CUDA programs load for `profile --source cupti`. */
static void check_cupti(struct findings *all)
{
	char theirs[512], ours[512];
	bool is_there = !kvs_libcupti_find(theirs, sizeof(theirs));
	bool is_built = !kvs_find_beside("libkvshare-cupti.so", ours, sizeof(ours));
	struct finding *item = add(all, "CUPTI", is_there && is_built ? STATE_OK : STATE_OPTIONAL);

	snprintf(item->found, sizeof(item->found), "%.500s, %.500s", is_there ? theirs : "libcupti not found",
		is_built ? ours : "libkvshare-cupti.so not found");
	if (!is_there)
		snprintf(item->advice, sizeof(item->advice),
			"profiling kernels on a GPU needs it: it comes with the CUDA toolkit (extras/CUPTI); "
			"KVSHARE_CUPTI "
			"names one in another folder");
	else if (!is_built)
		snprintf(item->advice, sizeof(item->advice),
			"profiling kernels on a GPU needs it: `make build` makes it if cupti.h is there");
}

static void check_libraries(struct findings *all)
{
	static const char *const cublas[] = {"libcublas.so.13", "libcublas.so.12", NULL};
	static const char *const openblas[] = {"libopenblas.so.0", NULL};

	check_library(all, "cuBLAS", cublas, STATE_OPTIONAL,
		"--device cuda needs it: install the CUDA libraries, or put them on LD_LIBRARY_PATH");
	if (kvs_openblas_check_room((int)sysconf(_SC_NPROCESSORS_ONLN))) /* loading it could hang */
		snprintf(add(all, "OpenBLAS", STATE_OPTIONAL)->found, sizeof(all->items->found), "%s", kvs_error());
	else
		check_library(all, "OpenBLAS", openblas, STATE_OPTIONAL,
			"calibrate --compensate needs it, and the host device without FMA: apt-get install "
			"libopenblas0");
	check_cupti(all);
}

/* It comes with the driver; without it reports lack what NVML says. */
static void check_nvml(struct findings *all)
{
	kvs_nvml *nvml;
	bool works = !kvs_nvml_open(&nvml);
	struct finding *item = add(all, "NVML", works ? STATE_OK : STATE_OPTIONAL);

	if (works)
		snprintf(item->found, sizeof(item->found), "tells of %u GPU%s", kvs_nvml_devices(nvml),
			kvs_nvml_devices(nvml) == 1 ? "" : "s");
	else
		snprintf(item->found, sizeof(item->found), "%s", kvs_error());
	if (works)
		kvs_nvml_close(nvml);
}

static void check_ebpf(struct findings *all)
{
	bool allowed = !kvs_watch_check();
	struct finding *item = add(all, "eBPF", allowed ? STATE_OK : STATE_OPTIONAL);
	struct utsname kernel;

	uname(&kernel);
	snprintf(item->found, sizeof(item->found), "kernel %s, %s", kernel.release,
		allowed ? "may watch processes" : "cannot watch processes");
	if (!allowed)
		snprintf(item->advice, sizeof(item->advice), "%s", kvs_error());
}

static int print_findings_json(const struct findings *all)
{
	static const char *const states[] = {"ok", "missing", "optional"};
	json_t *list = json_array();

	for (size_t i = 0; i < all->count; i++) {
		const struct finding *item = &all->items[i];
		json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s}", "what", item->what, "state",
						    states[item->state], "found", item->found, "advice", item->advice));
	}
	return run_print_json(json_pack("{s:o}", "checks", list));
}

static void print_findings(const struct findings *all)
{
	static const char *const marks[] = {"ok", "MISSING", "-"};

	for (size_t i = 0; i < all->count; i++) {
		const struct finding *item = &all->items[i];
		printf("%-12s %-8s %s\n", item->what, marks[item->state], item->found);
		if (*item->advice)
			printf("%-21s %s\n", "", item->advice);
	}
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	bool *json = state->input;

	if (key == 'j')
		*json = true;
	else if (key == ARGP_KEY_ARG)
		argp_error(state, "what is \"%s\"? doctor takes no arguments", text);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static const struct argp_option options[] = {{"json", 'j', NULL, 0, "print one JSON object", 0}, {0}};
static const struct argp argp = {options, parse, NULL,
	"Check what this machine has for kvshare, and say what to do about anything missing.\v"
	"Exits with 1 if anything is missing that kvshare cannot do without. Changes nothing.",
	NULL, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct findings all = {0};
	bool json = false, complete = true;

	argp_parse(&argp, argc, argv, 0, NULL, &json);
	check_gpu(&all);
	check_host(&all);
	check_libraries(&all);
	check_nvml(&all);
	check_ebpf(&all);
	for (size_t i = 0; i < all.count; i++)
		complete &= all.items[i].state != STATE_MISSING;
	if (json && print_findings_json(&all))
		return run_complain();
	if (!json)
		print_findings(&all);
	return complete ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct run_subcommand run_doctor_command = {
	"doctor", "what this machine has for kvshare, and what to do about anything missing", &argp, run_command, NULL};
