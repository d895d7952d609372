/*
 * tools/run/exec/exec.c: `kvshare-run exec` starts a program with the shim in front of its driver. It checks what can be
 * checked before, puts it into the environment, and becomes the program.
 */
#include "exec.h"

#include "../../preload/layout.h"
#include "../run.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHIM "libkvshare-preload.so"

enum {
	OPTION_PLAN = 256,
	OPTION_OWNERS,
	OPTION_LAYOUT,
	OPTION_DEVICE,
	OPTION_STATS,
	OPTION_LOG,
	OPTION_POLICY,
	OPTION_STRICT,
	OPTION_SYNC,
	OPTION_WRITER,
	OPTION_WRITERS
};

static const struct argp_option options[] = {
	{"plan", OPTION_PLAN, "FILE", 0, "share layers as this plan describes", 0},
	{"owners", OPTION_OWNERS, "LIST", 0, "share layers as listed: the owner of each layer's K and V, as in 0,1,2,1",
		0},
	{"layout", OPTION_LAYOUT, "LAYOUT", 0,
		"where the program keeps K and V: slab:layers=16,k=4MiB,v=4MiB, tensors:layers=16,bytes=4MiB,order=kv, "
		"halves:layers=16,bytes=8MiB, or a JSON file (which may name each place: kind explicit)",
		0},
	{"device", OPTION_DEVICE, "cuda|host", 0, "cuda (default): the driver that the program finds; host: softcuda",
		0},
	{"stats", OPTION_STATS, "FILE", 0, "write memory and counters as JSON at exit; %p is the process, %r the rank",
		0},
	{"log", OPTION_LOG, "FILE", OPTION_ARG_OPTIONAL,
		"the memory and counters of --stats as text, at the end of a file, or on standard error without a "
		"file; off by default",
		0},
	{"policy", OPTION_POLICY, RUN_POLICY_WORDS, 0,
		"what layers that share read: owner (default): the K and V of the owner; last: those of the layer that "
		"wrote last",
		0},
	{"strict", OPTION_STRICT, NULL, 0, "fail where a cache cannot be shared, instead of a warning", 0},
	{"writer", OPTION_WRITER, "PATTERN", 0,
		"kernels that store K or V, beside those that are known; may be repeated", 0},
	{"writers", OPTION_WRITERS, "FILE", 0,
		"the kernels that store K or V, as `kvshare-run probe -o` wrote them: these, those of --writer, and no "
		"others",
		0},
	{"sync", OPTION_SYNC, NULL, 0, "wait after each launch once memory is shared, to name a kernel that fails", 0},
	{0},
};

void exec_parse_writer(struct argp_state *state, struct exec_options *env, const char *text)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", env->writers ? env->writers : "", env->writers ? "," : "", text) < 0)
		argp_failure(state, EXIT_FAILURE, ENOMEM, "--writer");
	free(env->writers);
	env->writers = joined;
}

const char *exec_parse_device(struct argp_state *state, const char *text)
{
	static const char *const words[] = {"cuda", "host", NULL};

	return words[run_parse_word(state, "--device", text, words)];
}

static void check(struct argp_state *state, const struct exec_options *env)
{
	if (!env->command)
		argp_error(state, "which program? Name it after --");
	if (env->plan_path && env->owners)
		argp_error(state, "--plan and --owners both give a plan: use only one");
	if (!env->layout != !(env->plan_path || env->owners))
		argp_error(state, "sharing takes a plan (--plan or --owners) and a layout (--layout)");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct exec_options *env = state->input;

	switch (key) {
	case OPTION_PLAN:
		env->plan_path = text;
		return 0;
	case OPTION_OWNERS:
		env->owners = run_parse_owners(state, text);
		return 0;
	case OPTION_LAYOUT:
		env->layout = text;
		return 0;
	case OPTION_DEVICE:
		env->device = exec_parse_device(state, text);
		return 0;
	case OPTION_STATS:
		env->stats = text;
		return 0;
	case OPTION_LOG:
		env->log = text ? text : "";
		return 0;
	case OPTION_POLICY:
		env->policy = run_parse_policy(state, text);
		return 0;
	case OPTION_STRICT:
		env->strict = true;
		return 0;
	case OPTION_SYNC:
		env->sync = true;
		return 0;
	case OPTION_WRITER:
		exec_parse_writer(state, env, text);
		return 0;
	case OPTION_WRITERS:
		env->writers_path = text;
		return 0;
	case ARGP_KEY_ARG: /* the program, and all that is its own */
		env->command = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		check(state, env);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] =
	"Run a CUDA program that knows nothing of kvshare, with layers of its KV cache sharing memory.\v"
	"Examples:\n"
	"  kvshare-run exec --plan plan.json --layout layout.json \\\n"
	"    --writers writers.json -- ./program\n"
	"  kvshare-run exec --owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB \\\n"
	"    --stats stats.json -- ./program --with its-own-options\n";

static const struct argp argp = {
	.options = options, .parser = parse, .args_doc = "-- PROGRAM [ARGUMENT...]", .doc = doc};

/* ---- the environment ---- */

/* Everything below fails for want of memory alone. */
static int put(const char *name, const char *value)
{
	return setenv(name, value, 1) ? kvs_fail(-ENOMEM, "no memory for the environment") : 0;
}

/* Two parts of a list, the one that is not empty, or neither. */
static int put_joined(const char *name, const char *first, const char *last)
{
	char *joined;
	int err;

	if (asprintf(&joined, "%s%s%s", first, *first && *last ? ":" : "", last) < 0)
		return kvs_fail(-ENOMEM, "no memory for the environment");
	err = put(name, joined);
	free(joined);
	return err;
}

static const char *held(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "";
}

/* Behind other libraries, as those that hook the driver themselves call on to the next; ours calls the driver. */
static int put_shim(void)
{
	char path[PATH_MAX];
	int err = kvs_find_beside(SHIM, path, sizeof(path));

	if (!err && strpbrk(path, " :"))
		err = kvs_fail(-EINVAL, "%s: the loader takes no path with a space or a colon in LD_PRELOAD", path);
	return err ? err : put_joined("LD_PRELOAD", held("LD_PRELOAD"), path);
}

static int put_owners(const kvs_plan *plan, const char *name, enum kvs_k_or_v which)
{
	int layers = kvs_plan_layers(plan), err;
	char *text = malloc((size_t)layers * 12 + 1), *at = text;

	if (!text)
		return kvs_fail(-ENOMEM, "no memory for the environment");
	for (int layer = 0; layer < layers; layer++)
		at += sprintf(at, "%s%d", layer ? "," : "", kvs_plan_owner(plan, layer, which));
	err = put(name, text);
	free(text);
	return err;
}

/* The plan and the layout, if they fit together. */
static int put_sharing(const struct exec_options *env, const kvs_plan *plan)
{
	struct shim_layout layout;
	char *text;
	int err = exec_layout_text(env->layout, &text);

	if (err)
		return err;
	err = shim_layout_parse(text, &layout);
	if (err) {
		free(text);
		return err;
	}
	if (layout.layers != kvs_plan_layers(plan))
		err = kvs_fail(-EINVAL, "the plan has %d layers, the layout %d", kvs_plan_layers(plan), layout.layers);
	if (!err)
		err = put("KVSHARE_LAYOUT", text);
	if (!err)
		err = put_owners(plan, "KVSHARE_OWNERS", KVS_K);
	if (!err)
		err = put_owners(plan, "KVSHARE_V_OWNERS", KVS_V);
	shim_layout_clear(&layout);
	free(text);
	return err;
}

static int put_layout(const char *layout)
{
	char *text;
	int err = exec_layout_text(layout, &text);

	if (err)
		return err;
	err = put("KVSHARE_LAYOUT", text);
	free(text);
	return err;
}

/* Those of a file, then those of --writer. */
static int put_writers(const struct exec_options *env)
{
	char *found = NULL, *joined = NULL;
	int err = env->writers_path ? exec_writers_text(env->writers_path, env->policy == KVS_POLICY_LAST, &found) : 0;

	if (err)
		return err;
	if (asprintf(&joined, "%s%s%s", found ? found : "", found && env->writers ? "," : "",
		    env->writers ? env->writers : "") < 0) {
		free(found);
		return kvs_fail(-ENOMEM, "no memory for the environment");
	}
	err = put("KVSHARE_WRITERS", joined);
	if (!err && found)
		err = put("KVSHARE_ONLY_WRITERS", "1");
	free(joined);
	free(found);
	return err;
}

static int put_plan(const struct exec_options *env)
{
	kvs_plan *plan;
	int err;

	if (!env->layout)
		return 0;
	if (env->probe)
		return put_layout(env->layout);
	err = env->owners ? kvs_plan_parse(env->owners, &plan) : kvs_plan_load(env->plan_path, &plan);
	if (err)
		return err;
	run_patch_warn_left_out(env->owners ? NULL : env->plan_path, plan);
	run_policy_warn(env->owners ? NULL : env->plan_path, plan, env->policy);
	err = put_sharing(env, plan);
	kvs_plan_free(plan);
	return err;
}

/* The program may change its directory before it ends. */
static int put_path(const char *name, const char *path)
{
	char folder[PATH_MAX], *whole;
	int err;

	if (*path == '/')
		return put(name, path);
	if (!getcwd(folder, sizeof(folder)) || asprintf(&whole, "%s/%s", folder, path) < 0)
		return kvs_fail(-errno, "cannot tell the current directory");
	err = put(name, whole);
	free(whole);
	return err;
}

static int put_device(void)
{
	char path[PATH_MAX], whole[PATH_MAX];
	int err = kvs_cu_find_softcuda(path, sizeof(path));

	if (err)
		return err;
	if (!realpath(path, whole))
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	*strrchr(whole, '/') = '\0';
	return put_joined("LD_LIBRARY_PATH", whole, held("LD_LIBRARY_PATH"));
}

/* What an outer exec asked for does not count here. */
static void forget(void)
{
	static const char *const names[] = {"KVSHARE_OWNERS", "KVSHARE_V_OWNERS", "KVSHARE_LAYOUT", "KVSHARE_STATS",
		"KVSHARE_STRICT", "KVSHARE_SYNC", "KVSHARE_WRITERS", "KVSHARE_ONLY_WRITERS", "KVSHARE_INSPECT",
		"KVSHARE_PROBE", "KVSHARE_POLICY", "KVSHARE_LOG"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unsetenv(names[i]);
}

int exec_prepare(const struct exec_options *env)
{
	int err = put_shim();

	forget();
	if (!err)
		err = put_plan(env);
	if (!err && env->device && !strcmp(env->device, "host"))
		err = put_device();
	if (!err && env->stats)
		err = put_path("KVSHARE_STATS", env->stats);
	if (!err && env->log)
		err = *env->log ? put_path("KVSHARE_LOG", env->log) : put("KVSHARE_LOG", "1");
	if (!err && env->strict)
		err = put("KVSHARE_STRICT", "1");
	if (!err && env->policy == KVS_POLICY_LAST)
		err = put("KVSHARE_POLICY", "last");
	if (!err && env->sync)
		err = put("KVSHARE_SYNC", "1");
	if (!err && (env->writers || env->writers_path))
		err = put_writers(env);
	if (!err && env->inspect)
		err = put("KVSHARE_INSPECT", env->inspect);
	if (!err && env->probe)
		err = put("KVSHARE_PROBE", env->probe);
	return err;
}

int exec_become(char **command)
{
	int err;

	execvp(command[0], command);
	err = errno;
	kvs_fail(-err, "cannot run %s: %s", command[0], strerror(err));
	run_complain();
	return err == ENOENT ? 127 : 126; /* as shells have it */
}

static int run_program(const struct exec_options *options)
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	if (!child)
		_exit(exec_prepare(options) ? run_complain() : exec_become(options->command));
	while (child > 0 && waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return EXIT_FAILURE;
	if (child < 0)
		return EXIT_FAILURE;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int exec_run_once(const struct exec_options *options, const char *name, const char **account, char *path, size_t bytes,
	int *status)
{
	int err = run_make_temporary(name, path, bytes);

	if (err)
		return err;
	*account = path;
	*status = run_program(options);
	if (*status)
		fprintf(stderr, "kvshare-run: the program has ended with status %d\n", *status);
	return 0;
}

static int run(int argc, char **argv)
{
	struct exec_options env = {0};
	int err;

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &env);
	err = exec_prepare(&env);
	free(env.writers);
	if (err)
		return run_complain();
	return exec_become(env.command);
}

const struct run_subcommand run_exec_command = {
	"exec", "run an existing CUDA program with layers of its KV cache sharing memory", &argp, run, NULL};
