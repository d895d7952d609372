/*
 * tools/run/bench/bench.c: `kvshare-run bench` measures kernels and engine on a model's shape, against the device's own
 * ceiling.
 *
 * The ceiling is the bandwidth of a device-to-device copy, measured in the same run. The rest is mostly bound by
 * memory, and is given as a percentage of that ceiling. Weights are random, as speed does not depend on their values, or a
 * model's own, with a plan of this model.
 */
#include "../profile/profile.h"
#include "bench.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPTION_SUITE = 512,
	OPTION_SHAPE,
	OPTION_LAYERS,
	OPTION_DEVICE,
	OPTION_CTX,
	OPTION_DTYPE,
	OPTION_JSON,
	OPTION_PROFILE,
	OPTION_PLAN
};

static const struct bench_shape shapes[] = {
	{"llama3-8b", 32, 4096, 14336, 32, 8, 128, 128256},
	{"llama2-7b", 32, 4096, 11008, 32, 32, 128, 32000},
	{"tiny", 8, 256, 704, 8, 2, 32, 2048},
};

/* Copy and read come first: the others are compared with them. */
static const struct suite {
	const char *name;
	int (*run)(struct bench *bench, json_t *report);
} suites[] = {{"copy", bench_ceiling}, {"attention", bench_attention}, {"gemm", bench_gemm}, {"rows", bench_rows},
	{"decode", bench_decode}, {"vmm", bench_vmm}};
#define SUITE_NAMES "copy, attention, gemm, rows, decode and vmm"

#define SHAPE_COUNT (sizeof(shapes) / sizeof(*shapes))
#define SUITE_COUNT (sizeof(suites) / sizeof(*suites))

struct env {
	const char *device, *shape, *profile, *model, *plan;
	bool dtype_set;
	int layers, ctx_tokens; /* 0: the shape's; 0: 8192, or 512 on the host */
	enum kvs_dtype dtype;
	bool json;
	bool wanted[SUITE_COUNT];
};

static const struct argp_option options[] = {
	{"suite", OPTION_SUITE, "LIST", 0,
		"some of copy,attention,gemm,rows,decode,vmm (default: all); copy always runs", 0},
	{"shape", OPTION_SHAPE, "llama3-8b|llama2-7b|tiny", 0,
		"the model's shape (default: llama3-8b; on the host: tiny)", 0},
	{"model", 'm', "DIR", 0, "this model's shape and weights (a Hugging Face directory, or a GGUF file)", 0},
	{"plan", OPTION_PLAN, "FILE", 0,
		"with -m: decode runs this plan, with its refitted matrices if it has any (default: every fourth layer "
		"shares)",
		0},
	{"layers", OPTION_LAYERS, "N", 0, "N layers instead of the shape's", 0},
	{"ctx", OPTION_CTX, "TOKENS", 0, "longest context (default 8192; on the host: 512)", 0},
	{"dtype", OPTION_DTYPE, "f16|bf16|f32", 0, "type of weights, K and V (default: bf16)", 0},
	{"device", OPTION_DEVICE, RUN_DEVICE_WORDS, 0, RUN_DEVICE_HELP, 0},
	{"profile", OPTION_PROFILE, "TRACE", 0, "write down every driver call; its cost is part of what is measured",
		0},
	{"json", OPTION_JSON, NULL, 0, "print one JSON object to stdout, and nothing else", 0},
	{0},
};

static void parse_suites(struct argp_state *state, struct env *env, const char *list)
{
	memset(env->wanted, 0, sizeof(env->wanted));
	while (*list) {
		size_t length = strcspn(list, ","), i = 0;
		while (i < SUITE_COUNT && (strncmp(list, suites[i].name, length) || strlen(suites[i].name) != length))
			i++;
		if (i == SUITE_COUNT)
			argp_error(state, "--suite has \"%.*s\": the suites are " SUITE_NAMES, (int)length, list);
		else
			env->wanted[i] = true;
		list += length + (list[length] == ',');
	}
	env->wanted[0] = true;
}

static const struct bench_shape *find_shape(const char *name)
{
	for (size_t i = 0; i < SHAPE_COUNT; i++)
		if (!strcmp(shapes[i].name, name))
			return &shapes[i];
	return NULL;
}

static void check(struct argp_state *state, const struct env *env)
{
	if (env->plan && !env->model)
		argp_error(state, "--plan is a model's plan: name the model with -m DIR");
	if (env->model && (env->shape || env->layers || env->dtype_set))
		argp_error(state, "-m has a shape and types of its own: give it, or --shape, --layers and --dtype");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case OPTION_SUITE:
		parse_suites(state, env, text);
		return 0;
	case OPTION_SHAPE:
		if (!find_shape(text))
			argp_error(state, "--shape is \"%s\": llama3-8b, llama2-7b or tiny is expected", text);
		env->shape = text;
		return 0;
	case OPTION_LAYERS:
		env->layers = run_parse_number(state, "--layers", text, 1, KVS_PLAN_MAX_LAYERS);
		return 0;
	case OPTION_CTX:
		env->ctx_tokens = run_parse_number(state, "--ctx", text, 64, 1 << 20);
		return 0;
	case OPTION_DTYPE:
		env->dtype = run_parse_dtype(state, "--dtype", text);
		env->dtype_set = true;
		return 0;
	case OPTION_DEVICE:
		env->device = run_parse_device(state, text);
		return 0;
	case OPTION_PROFILE:
		env->profile = text;
		return 0;
	case 'm':
		env->model = text;
		return 0;
	case OPTION_PLAN:
		env->plan = text;
		return 0;
	case ARGP_KEY_END:
		check(state, env);
		return 0;
	case OPTION_JSON:
		env->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? bench takes options only", text);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* On a GPU the stream starts with a copy: the host enqueues the runs during that millisecond. */
static CUresult keep_busy(struct bench *bench, CUstream stream, int runs)
{
	if (runs == 1 || bench->cu->kind == KVS_DEVICE_HOST)
		return CUDA_SUCCESS;
	return bench->cu->cuMemcpyDtoDAsync(bench->to, bench->from, bench->copy_bytes, stream);
}

struct timer {
	struct bench *bench;
	CUstream stream;
	CUevent start, end;
};

static int open_timer(struct bench *bench, CUstream stream, struct timer *timer)
{
	CUresult result;

	*timer = (struct timer){.bench = bench, .stream = stream};
	result = bench->cu->cuEventCreate(&timer->start, CU_EVENT_DEFAULT);
	if (!result)
		result = bench->cu->cuEventCreate(&timer->end, CU_EVENT_DEFAULT);
	return result ? kvs_cu_fail(bench->cu, result, "creating an event") : 0;
}

static void close_timer(struct timer *timer)
{
	if (timer->end)
		KVS_CU_GIVE_BACK(timer->bench->cu->cuEventDestroy, timer->end);
	if (timer->start)
		KVS_CU_GIVE_BACK(timer->bench->cu->cuEventDestroy, timer->start);
}

static int time_runs(struct timer *timer, int (*run)(void *arg), void *arg, int runs, double *seconds)
{
	kvs_cu *cu = timer->bench->cu;
	float ms = 0;
	CUresult result = keep_busy(timer->bench, timer->stream, runs);
	int err = 0;

	if (!result)
		result = cu->cuEventRecord(timer->start, timer->stream);
	for (int i = 0; i < runs && !result && !err; i++)
		err = run(arg);
	if (err)
		return err;
	if (!result)
		result = cu->cuEventRecord(timer->end, timer->stream);
	if (!result)
		result = cu->cuEventSynchronize(timer->end);
	if (!result)
		result = cu->cuEventElapsedTime(&ms, timer->start, timer->end);
	*seconds = ms / 1000 / runs;
	return result ? kvs_cu_fail(cu, result, "timing") : 0;
}

int bench_time(struct bench *bench, CUstream stream, int (*run)(void *arg), void *arg, int runs, double *seconds)
{
	double samples[1000], begun;
	struct timer timer;
	size_t count = 0;
	int err = open_timer(bench, stream, &timer);

	if (bench->cu->kind == KVS_DEVICE_HOST)
		runs = 1; /* there is no launch latency to hide, and a run takes long */
	for (int warm = 0; warm < 3 && !err; warm++)
		err = time_runs(&timer, run, arg, 1, &samples[0]);
	begun = run_now_s();
	while (!err && count < 1000 && (count < 5 || run_now_s() - begun < 0.5))
		err = time_runs(&timer, run, arg, runs, &samples[count++]);
	close_timer(&timer);
	if (!err)
		*seconds = bench_median(samples, count);
	return err;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

#define PIECE_BYTES ((size_t)16 << 20)

/* The bits of a number of magnitude 1/2 to 1. */
static uint32_t random_bits(uint64_t random, enum kvs_dtype dtype)
{
	uint32_t sign = random >> 63, mantissa = random >> 40 & 0x7fffff;

	if (dtype == KVS_F32)
		return sign << 31 | 0x3f000000 | mantissa;
	return sign << 15 | (dtype == KVS_F16 ? 0x3800 | mantissa >> 13 : 0x3f00 | mantissa >> 16);
}

int bench_fill_random(struct bench *bench, CUdeviceptr to, size_t bytes, enum kvs_dtype dtype)
{
	size_t size = kvs_dtype_bytes(dtype), piece = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
	char *host = malloc(piece);
	uint64_t state = 1;
	CUresult result = CUDA_SUCCESS;

	if (!host)
		return kvs_fail(-ENOMEM, "no memory for random numbers");
	for (size_t at = 0; at + size <= piece; at += size) {
		state = state * 6364136223846793005 + 1442695040888963407; /* Knuth's; the upper bits are used */
		uint32_t bits = random_bits(state, dtype);
		memcpy(host + at, &bits, size); /* little-endian: the low bytes */
	}
	for (size_t done = 0, now; done < bytes && !result; done += now) {
		now = bytes - done < piece ? bytes - done : piece;
		result = bench->cu->cuMemcpyHtoD(to + done, host, now);
	}
	free(host);
	if (!result)
		result = bench->cu->cuCtxSynchronize(); /* the last bytes may still be in flight */
	return result ? kvs_cu_fail(bench->cu, result, "filling %zu MiB", bytes >> 20) : 0;
}

struct kvs_kv_format bench_kv_format(const struct bench *bench)
{
	return (struct kvs_kv_format){bench->dtype, bench->shape.kv_heads, bench->shape.head_dim};
}

double bench_percent(const struct bench *bench, double bytes, double seconds)
{
	return 100 * bytes / seconds / 1e9 / bench->copy_gbs;
}

static void choose_shape(const struct env *env, struct bench *bench)
{
	bool host = bench->cu->kind == KVS_DEVICE_HOST;

	bench->shape = *find_shape(env->shape ? env->shape : host ? "tiny" : "llama3-8b");
	if (env->layers)
		bench->shape.layers = env->layers;
	bench->ctx_tokens = env->ctx_tokens ? env->ctx_tokens : host ? 512 : 8192;
	bench->dtype = env->dtype;
	bench->quiet = env->json;
}

/* The model's shape in place of a chosen one; the plan and its matrices. What is open here, run_command() closes. */
static int take_model(const struct env *env, struct bench *bench)
{
	const struct kvs_config *config;
	int err = kvs_checkpoint_open(env->model, &bench->ckpt);

	if (err)
		return err;
	config = kvs_checkpoint_config(bench->ckpt);
	bench->shape = (struct bench_shape){.name = config->model_type,
		.layers = config->layers,
		.hidden = config->hidden,
		.ff = config->ff,
		.heads = config->heads,
		.kv_heads = config->kv_heads,
		.head_dim = config->head_dim,
		.vocab = config->vocab};
	bench->dtype = config->dtype;
	if (env->plan)
		err = kvs_plan_load(env->plan, &bench->plan);
	return err ? err : run_patch_load(env->plan, bench->plan, bench->ckpt, &bench->patch);
}

static int run_suites(const struct env *env, struct bench *bench)
{
	const struct bench_shape *shape = &bench->shape;
	json_t *report = json_pack("{s:o,s:{s:s,s:i,s:i,s:i,s:i,s:i},s:s,s:i}", "device", run_json_device(bench->cu),
		"shape", "name", shape->name, "layers", shape->layers, "hidden", shape->hidden, "heads", shape->heads,
		"kv_heads", shape->kv_heads, "head_dim", shape->head_dim, "dtype", kvs_dtype_name(bench->dtype), "ctx",
		bench->ctx_tokens);
	int err = report ? 0 : kvs_fail(-ENOMEM, "no memory for the JSON report");

	if (!env->json)
		printf("%s, %s with %d layers, %s\n", bench->cu->name, shape->name, shape->layers,
			kvs_dtype_name(bench->dtype));
	for (size_t i = 0; i < SUITE_COUNT && !err; i++)
		if (env->wanted[i])
			err = suites[i].run(bench, report);
	if (err || !env->json) {
		json_decref(report);
		return err;
	}
	return run_print_json(report);
}

static const struct argp argp = {options, parse, NULL,
	"Measure kernels and engine on a model's shape, with random weights or the model's own.\v"
	"The first figure is the bandwidth of a copy on the device; the others are given as percentages of it.\n\n"
	"Examples:\n"
	"  kvshare-run bench\n"
	"  kvshare-run bench --suite attention,decode --shape llama2-7b --json\n"
	"  kvshare-run bench --suite decode -m DIR --plan plan.json\n",
	NULL, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct env env = {.dtype = KVS_BF16, .wanted = {true, true, true, true, true, true}};
	struct bench bench = {0};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = run_device_open(env.device, &bench.cu);
	if (!err)
		err = run_profile_open(env.profile, bench.cu, &bench.profile);
	if (!err) {
		choose_shape(&env, &bench);
		err = env.model ? take_model(&env, &bench) : 0;
	}
	if (!err)
		err = run_suites(&env, &bench);
	if (err)
		run_complain();
	if (bench.to)
		KVS_CU_GIVE_BACK(bench.cu->cuMemFree, bench.to);
	if (bench.from)
		KVS_CU_GIVE_BACK(bench.cu->cuMemFree, bench.from);
	if (run_profile_close(bench.profile))
		fprintf(stderr, "kvshare-run: warning: %s\n", kvs_error());
	kvs_patch_close(bench.patch);
	kvs_plan_free(bench.plan);
	kvs_checkpoint_close(bench.ckpt);
	kvs_cu_close(bench.cu);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct run_subcommand run_bench_command = {"bench",
	"kernels and engine on a model's shape, against the device's copy bandwidth", &argp, run_command, NULL};
