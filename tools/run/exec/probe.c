/*
 * tools/run/exec/probe.c: `kvshare-run probe` runs a program once and says which of its kernels write the KV cache, and through
 * which of their parameters. The shim watches; the file that is written here is for `kvshare-run exec --writers`.
 */
#include "exec.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct env {
	struct exec_options exec;
	const char *output;
	bool json;
};

enum { OPTION_DEVICE = 256, OPTION_LAYOUT, OPTION_JSON };

static const struct argp_option options[] = {
	{"layout", OPTION_LAYOUT, "LAYOUT", 0, "where the program keeps K and V: what `kvshare-run inspect -o` wrote",
		0},
	{"output", 'o', "FILE", 0, "write the writers that were found, as JSON, for `kvshare-run exec --writers`", 0},
	{"json", OPTION_JSON, NULL, 0, "print the JSON of -o instead of a table", 0},
	{"device", OPTION_DEVICE, "cuda|host", 0, "cuda (default): the driver that the program finds; host: softcuda",
		0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case 'o':
		env->output = text;
		return 0;
	case OPTION_LAYOUT:
		env->exec.layout = text;
		return 0;
	case OPTION_JSON:
		env->json = true;
		return 0;
	case OPTION_DEVICE:
		env->exec.device = exec_parse_device(state, text);
		return 0;
	case ARGP_KEY_ARG:
		env->exec.command = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!env->exec.command)
			argp_error(state, "which program? Name it after --");
		if (!env->exec.layout)
			argp_error(state, "where does the program keep K and V? --layout takes the file that "
					  "`kvshare-run inspect -o` writes");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] = "Run a CUDA program once, and say which of its kernels write the KV cache.\v"
			  "Each launch is waited for, and the whole cache is read before and after it. So let the "
			  "program generate a few tokens only.\n\n"
			  "Example:\n"
			  "  kvshare-run probe --layout layout.json -o writers.json -- ./program\n";

static const struct argp argp = {
	.options = options, .parser = parse, .args_doc = "-- PROGRAM [ARGUMENT...]", .doc = doc};

/* ---- what the shim has found ---- */

static const char *text_of(const json_t *place, const char *key)
{
	const char *text = json_string_value(json_object_get(place, key));

	return text ? text : "";
}

/* Why layers cannot be shared where this kernel runs; NULL: they can. */
static const char *reason_of(const json_t *place)
{
	const char *way = text_of(place, "way");

	if (!strcmp(text_of(place, "reads"), "yes"))
		return "reads what it writes in the same launch (it appends and attends)";
	if (!strcmp(way, "beyond"))
		return "writes one layer through a pointer to another";
	if (!strcmp(way, "table"))
		return "has the address from a table in device memory";
	if (!strcmp(way, "tensor map of several"))
		return "has the address from a tensor map of several layers";
	return strcmp(way, "parameter") ? "has the address from nowhere that was found" : NULL;
}

/* The document for the file: the writers, and apart from them those that cannot be shared. */
static json_t *writers_make(const json_t *places)
{
	json_t *writers = json_array(), *others = json_array(), *place;
	size_t i;

	json_array_foreach(places, i, place)
	{
		const char *reason = reason_of(place);
		json_t *copy = json_copy(place);

		if (reason)
			json_object_set_new(copy, "reason", json_string(reason));
		json_array_append_new(reason ? others : writers, copy);
	}
	return json_pack("{s:i, s:o, s:o}", "kvshare_writers", 1, "writers", writers, "not_shareable", others);
}

/* Places that were written count most, then launches. */
static size_t account_weigh(const json_t *document)
{
	return json_array_size(json_object_get(document, "places")) * ((size_t)1 << 48) +
	       (size_t)json_integer_value(json_object_get(document, "launches"));
}

static int found_read(const char *path, json_t **out, long long *launches)
{
	json_t *document = exec_account_take(path, account_weigh);

	if (!document)
		return kvs_fail(-EINVAL, "the program has made no allocation, or was killed");
	*launches = json_integer_value(json_object_get(document, "launches"));
	*out = writers_make(json_object_get(document, "places"));
	json_decref(document);
	return *out ? 0 : kvs_fail(-ENOMEM, "no memory for what was found");
}

/* ---- what is said ---- */

static void put_places(const json_t *places)
{
	const json_t *place;
	size_t i;

	json_array_foreach(places, i, place) printf("  %-6s %9lld %7lld %7lld %9lld  %s%s\n", text_of(place, "writes"),
		(long long)json_integer_value(json_object_get(place, "parameter")),
		(long long)json_integer_value(json_object_get(place, "offset")),
		(long long)json_integer_value(json_object_get(place, "layers")),
		(long long)json_integer_value(json_object_get(place, "launches")), text_of(place, "kernel"),
		json_is_true(json_object_get(place, "tensor_map")) ? " (a tensor map)" : "");
}

static void put_table(const json_t *found, long long launches)
{
	const json_t *writers = json_object_get(found, "writers"), *others = json_object_get(found, "not_shareable"),
		     *place;
	size_t i;

	printf("Kernels that write the KV cache, in %lld launches:\n", launches);
	printf("  writes parameter  offset  layers  launches  kernel\n");
	put_places(writers);
	put_places(others);
	json_array_foreach(others, i, place) printf(
		"Kernel %s %s: its layers cannot be shared.\n", text_of(place, "kernel"), text_of(place, "reason"));
}

static int conclude(const struct env *env, const json_t *found, long long launches)
{
	char *text = json_dumps(found, JSON_INDENT(2));
	int err = 0;

	if (!text)
		return kvs_fail(-ENOMEM, "no memory for what was found");
	if (env->json)
		puts(text);
	else
		put_table(found, launches);
	if (!json_array_size(json_object_get(found, "writers")) &&
		!json_array_size(json_object_get(found, "not_shareable")))
		err = kvs_fail(-ENOENT,
			"no kernel of %lld has written the cache: has the program generated anything, "
			"and is the layout its own (kvshare-run inspect)?",
			launches);
	else if (env->output)
		err = run_write_output(env->output, text);
	free(text);
	return err;
}

static int run(int argc, char **argv)
{
	char path[4096];
	struct env env = {0};
	long long launches = 0;
	json_t *found;
	int status, err;

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &env);
	err = exec_run_once(&env.exec, "probe", &env.exec.probe, path, sizeof(path), &status);
	if (err)
		return run_complain();
	err = found_read(path, &found, &launches);
	if (!err) {
		err = conclude(&env, found, launches);
		json_decref(found);
	}
	return err ? run_complain() : status;
}

const struct run_subcommand run_probe_command = {
	"probe", "say which kernels of a CUDA program write its KV cache", &argp, run, NULL};
