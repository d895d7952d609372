/*
 * tools/run/exec/inspect.c: `kvshare-run inspect` runs a program once and says which of its allocations look like a KV cache.
 *
 * The shim writes down the allocations, and the addresses that kernels that store K or V were handed, in the order in which
 * they first came. K and V of layer 0 come first, then those of layer 1: so the addresses tell the layout.
 */
#include "exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct env {
	struct exec_options exec;
	const char *output;
};

struct account {
	size_t granule, count, store_count;
	size_t *bytes;  /* [count], of each allocation */
	bool *reserved; /* [count], a range of addresses to which the program maps memory itself */
	struct exec_place *stores;
	size_t *numbers; /* [number_count] */
	size_t number_count;
};

enum { OPTION_DEVICE = 256, OPTION_WRITER };

static const struct argp_option options[] = {
	{"output", 'o', "FILE", 0, "write the layout that was found, as JSON, for `kvshare-run exec --layout`", 0},
	{"device", OPTION_DEVICE, "cuda|host", 0, "cuda (default): the driver that the program finds; host: softcuda",
		0},
	{"writer", OPTION_WRITER, "PATTERN", 0,
		"kernels that store K or V, beside those that are known; may be repeated", 0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case 'o':
		env->output = text;
		return 0;
	case OPTION_DEVICE:
		env->exec.device = exec_parse_device(state, text);
		return 0;
	case OPTION_WRITER:
		exec_parse_writer(state, &env->exec, text);
		return 0;
	case ARGP_KEY_ARG:
		env->exec.command = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!env->exec.command)
			argp_error(state, "which program? Name it after --");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] = "Run a CUDA program once, and say which of its allocations look like a KV cache.\v"
			  "Example:\n"
			  "  kvshare-run inspect -o layout.json -- ./program --with its-own-options\n";

static const struct argp argp = {
	.options = options, .parser = parse, .args_doc = "-- PROGRAM [ARGUMENT...]", .doc = doc};

/* ---- the shim's account ---- */

static void account_clear(struct account *account)
{
	free(account->bytes);
	free(account->reserved);
	free(account->stores);
	free(account->numbers);
}

/* All addresses that a kernel was handed count as stores, so those in what is too small to be shared are left out. */
static int stores_fill(const json_t *stores, struct account *out)
{
	const json_t *pair;
	size_t i;

	json_array_foreach(stores, i, pair)
	{
		struct exec_place *store = &out->stores[out->store_count];

		store->allocation = (size_t)json_integer_value(json_array_get(pair, 0));
		store->offset = (size_t)json_integer_value(json_array_get(pair, 1));
		if (store->allocation >= out->count)
			return kvs_fail(-EINVAL, "the account of allocations is damaged");
		out->store_count += out->bytes[store->allocation] >= out->granule;
	}
	return 0;
}

static int account_fill(const json_t *document, struct account *out)
{
	const json_t *allocations = json_object_get(document, "allocations"),
		     *stores = json_object_get(document, "stores"), *numbers = json_object_get(document, "numbers");

	out->count = json_array_size(allocations);
	out->granule = (size_t)json_integer_value(json_object_get(document, "granule_bytes"));
	out->bytes = calloc(out->count + 1, sizeof(*out->bytes));
	out->reserved = calloc(out->count + 1, sizeof(*out->reserved));
	out->stores = calloc(json_array_size(stores) + 1, sizeof(*out->stores));
	out->numbers = calloc(json_array_size(numbers) + 1, sizeof(*out->numbers));
	if (!out->bytes || !out->reserved || !out->stores || !out->numbers)
		return kvs_fail(-ENOMEM, "no memory for an account of allocations");
	for (size_t i = 0; i < out->count; i++) {
		const json_t *allocation = json_array_get(allocations, i);
		const char *call = json_string_value(json_object_get(allocation, "call"));

		out->bytes[i] = (size_t)json_integer_value(json_object_get(allocation, "bytes"));
		out->reserved[i] = call && !strcmp(call, "cuMemAddressReserve");
	}
	for (; out->number_count < json_array_size(numbers); out->number_count++)
		out->numbers[out->number_count] =
			(size_t)json_integer_value(json_array_get(numbers, out->number_count));
	return stores_fill(stores, out);
}

/* Places of K and V count most, then bytes. */
static size_t account_weigh(const json_t *document)
{
	const json_t *allocations = json_object_get(document, "allocations"), *allocation;
	size_t bytes = 0, most = ((size_t)1 << 48) - 1, i;

	json_array_foreach(allocations, i, allocation) bytes +=
		(size_t)json_integer_value(json_object_get(allocation, "bytes"));
	return json_array_size(json_object_get(document, "stores")) * (most + 1) + (bytes < most ? bytes : most);
}

static int account_read(const char *path, struct account *out)
{
	json_t *document = exec_account_take(path, account_weigh);
	int err;

	if (!document)
		return kvs_fail(-EINVAL, "the program has called no CUDA driver, or was killed");
	err = account_fill(document, out);
	if (err)
		account_clear(out);
	json_decref(document);
	return err;
}

/* ---- what it looks like ---- */

struct guess {
	const char *kind, *order; /* kind NULL: none */
	size_t layers, bytes;     /* of K, and of V, of one layer */
	size_t offset, size;      /* slab */
	char *text;               /* explicit: all of it */
	bool reserved;
	size_t skip; /* so many others of the size come first; an explicit text has its own */
};

/* The stores of all layers, K and V in turn, lie in one allocation, evenly spaced. */
static struct guess guess_slab(const struct account *a)
{
	const struct exec_place *s = a->stores;
	size_t pairs = a->store_count / 2, step;
	bool interleaved = true, separate = true;

	if (a->store_count < 4 || a->store_count % 2 || s[2].offset <= s[0].offset || s[1].offset <= s[0].offset)
		return (struct guess){0};
	step = s[1].offset - s[0].offset < s[2].offset - s[0].offset ? s[1].offset - s[0].offset
								     : s[2].offset - s[0].offset;
	for (size_t i = 0; i < a->store_count; i++) {
		if (s[i].allocation != s[0].allocation)
			return (struct guess){0};
		interleaved &= s[i].offset - s[0].offset == i * step;
		separate &= s[i].offset - s[0].offset == (i % 2 ? pairs + i / 2 : i / 2) * step;
	}
	if (!interleaved && !separate)
		return (struct guess){0};
	return (struct guess){"slab", interleaved ? "kv" : "kkvv", pairs, step, s[0].offset, a->bytes[s[0].allocation],
		NULL, false, 0};
}

/* Each store is at the start of an allocation of its own, all of one size. */
static struct guess guess_tensors(const struct account *a)
{
	size_t first = a->store_count ? a->stores[0].allocation : 0, pairs = a->store_count / 2;
	bool interleaved = true, separate = true;

	if (a->store_count < 4 || a->store_count % 2)
		return (struct guess){0};
	for (size_t i = 0; i < a->store_count; i++) {
		const struct exec_place *s = &a->stores[i];

		if (s->offset || a->bytes[s->allocation] != a->bytes[first])
			return (struct guess){0};
		interleaved &= s->allocation == first + i;
		separate &= s->allocation == first + (i % 2 ? pairs + i / 2 : i / 2);
	}
	if (!interleaved && !separate)
		return (struct guess){0};
	return (struct guess){"tensors", interleaved ? "kv" : "kkvv", pairs, a->bytes[first], 0, 0, NULL, false, 0};
}

static struct guess guess_halves(const struct account *a)
{
	size_t first = a->store_count ? a->stores[0].allocation : 0;

	if (a->store_count < 4 || a->store_count % 2)
		return (struct guess){0};
	for (size_t i = 0; i < a->store_count; i++)
		if (a->stores[i].allocation != first + i / 2 || a->bytes[first + i / 2] != a->bytes[first] ||
			a->stores[i].offset != (i % 2 ? a->bytes[first] / 2 : 0))
			return (struct guess){0};
	return (struct guess){"halves", "kv", a->store_count / 2, a->bytes[first] / 2, 0, 0, NULL, false, 0};
}

static struct exec_places places_of(const struct account *a)
{
	return (struct exec_places){
		a->granule, a->count, a->store_count, a->bytes, a->reserved, a->stores, a->numbers, a->number_count};
}

static struct guess guess_explicit(const struct account *a)
{
	const struct exec_places places = places_of(a);
	struct guess found = {"explicit", "kv", a->store_count / 2, 0, 0, 0, NULL, false, 0};

	if (exec_explicit_guess(&places, &found.bytes, &found.text))
		return (struct guess){0};
	for (size_t i = 0; a->granule && i < a->store_count && !found.offset; i++)
		found.offset = a->stores[i].offset % a->granule;
	return found;
}

static struct guess guess(const struct account *account)
{
	const struct exec_places places = places_of(account);
	struct guess found = guess_slab(account);

	if (!found.kind)
		found = guess_tensors(account);
	if (!found.kind)
		found = guess_halves(account);
	if (!found.kind)
		found = guess_explicit(account);
	if (!found.kind)
		return found;
	found.reserved = account->reserved[account->stores[0].allocation];
	for (size_t i = 0; i < account->store_count; i++)
		if (account->reserved[account->stores[i].allocation] != found.reserved) {
			free(found.text);
			return (struct guess){0};
		}
	found.skip = exec_same_before(&places, account->stores[0].allocation);
	return found;
}

/* ---- what is said ---- */

/* Runs of equal allocations, in order; small ones are no caches. */
static void put_allocations(const struct account *account)
{
	size_t small = 0, small_bytes = 0;

	for (size_t i = 0, run; i < account->count; i += run) {
		for (run = 1; i + run < account->count && account->bytes[i + run] == account->bytes[i] &&
			      account->reserved[i + run] == account->reserved[i];
			run++)
			;
		if (account->bytes[i] < (1 << 20)) {
			small += run;
			small_bytes += run * account->bytes[i];
			continue;
		}
		printf("  %4zu x %10.2f MiB%s\n", run, (double)account->bytes[i] / (1 << 20),
			account->reserved[i] ? " of addresses, reserved" : "");
	}
	if (small)
		printf("  %4zu smaller than 1 MiB, together %.2f MiB\n", small, (double)small_bytes / (1 << 20));
}

static void put_command(const struct guess *found)
{
	if (found->text) {
		puts("  It is a guess. -o FILE writes it, for kvshare-run exec --layout FILE.");
		return;
	}
	printf("  kvshare-run exec --plan PLAN --layout %s:layers=%zu", found->kind, found->layers);
	if (strcmp(found->kind, "slab"))
		printf(",bytes=%zu", strcmp(found->kind, "halves") ? found->bytes : 2 * found->bytes);
	else
		printf(",k=%zu,v=%zu,offset=%zu,size=%zu", found->bytes, found->bytes, found->offset, found->size);
	printf("%s%s", strcmp(found->order, "kkvv") ? "" : ",order=kkvv", found->reserved ? ",memory=reserved" : "");
	if (found->skip)
		printf(",skip=%zu", found->skip);
	puts(" -- ...");
}

/* The strides of some block-major caches are no parameters, but come from a table. */
static void put_doubt(const struct guess *found)
{
	size_t cache = 2 * found->layers * found->bytes;

	if (!strcmp(found->kind, "slab") && found->size - found->offset >= 2 * cache)
		printf("They take %zu bytes of %zu. If the rest is the cache's too, its blocks hold all layers, and it "
		       "cannot be shared with any context.\n",
			cache, found->size);
}

static void put_guess(const struct guess *found, const struct account *account)
{
	size_t granule = account->granule, whole = granule ? (found->bytes + granule - 1) / granule * granule : 0;
	bool aligned =
		!granule || !strcmp(found->kind, "tensors") || !(found->bytes % granule || found->offset % granule);

	printf("These look like a KV cache: %zu layers, K and V of %zu bytes each (%s%s%s).\n", found->layers,
		found->bytes, found->kind, found->text ? "" : ", order ", found->text ? "" : found->order);
	if (aligned) {
		put_command(found);
		return;
	}
	printf("They cannot be shared as they are: memory is shared in granules of %zu bytes. %zu bytes would align "
	       "them: a context %.4g times as long.\n",
		granule, whole, (double)whole / (double)found->bytes);
	put_doubt(found);
}

static void put_reason(const struct account *account)
{
	if (!account->store_count)
		puts("No kernel that is known to store K or V was launched: name those of this program with --writer.");
	else
		printf("Known writers store to %zu places, which are no layout that can be shared (slab, tensors, "
		       "halves, explicit).\n",
			account->store_count);
}

/* False: it is no such cache. */
static bool put_blocks(const struct account *account)
{
	const struct exec_places places = places_of(account);
	struct exec_blocks blocks;

	if (!exec_blocks_find(&places, &blocks))
		return false;
	if (blocks.places == 2) {
		printf("This looks like a KV cache with an allocation for each layer, in whose blocks K and V take "
		       "turns: they "
		       "go to 2 places, %zu bytes apart, and to the same places %zu bytes on.\nIt cannot be shared "
		       "yet: no "
		       "layout has K and V of a layer in one piece. A cache that has all K of a layer before its V "
		       "can.\n",
			blocks.distance, blocks.stride);
		return true;
	}
	printf("This looks like a KV cache whose blocks hold all layers (block-major): rows of K and V go to %zu "
	       "places, "
	       "%zu bytes apart, in an allocation of %zu bytes, and to the same places %zu bytes on.\n",
		blocks.places, blocks.distance, blocks.bytes, blocks.stride);
	printf("It cannot be shared: memory is shared in granules of %zu bytes, and each holds all layers. Choose a "
	       "cache with the layers one after another: in vLLM, VLLM_KV_CACHE_LAYOUT=LBNHC or LBHNC, and a KV "
	       "connector without enable_cross_layers_blocks.\n",
		account->granule);
	return true;
}

static int layout_write(const struct guess *found, const char *path)
{
	const char *memory = found->reserved ? "\"memory\": \"reserved\", " : "";
	char *text = NULL;
	int length, err;

	if (found->text)
		length = asprintf(&text, "{%s%s", memory, found->text + 1);
	else
		length = asprintf(&text,
			"{\"kvshare_layout\": 1, %s\"kind\": \"%s\", \"layers\": %zu, \"k_bytes\": %zu, \"v_bytes\": "
			"%zu, \"order\": \"%s\", \"offset\": %zu, \"size\": %zu, \"skip\": %zu}\n",
			memory, found->kind, found->layers, found->bytes, found->bytes, found->order, found->offset,
			found->size, found->skip);
	if (length < 0)
		return kvs_fail(-ENOMEM, "no memory for a layout");
	err = run_write_output(path, text);
	free(text);
	return err;
}

static int conclude(const struct env *env, const struct account *account)
{
	struct guess found = {0};
	int err;

	printf("Allocations of device memory, in order:\n");
	put_allocations(account);
	if (!put_blocks(account)) {
		found = guess(account);
		if (!found.kind)
			put_reason(account);
	}
	if (!found.kind) {
		return env->output ? kvs_fail(-ENOENT, "no layout was found, so %s is not written", env->output) : 0;
	}
	put_guess(&found, account);
	err = env->output ? layout_write(&found, env->output) : 0;
	free(found.text);
	return err;
}

static int run(int argc, char **argv)
{
	char path[4096];
	struct account account = {0};
	struct env env = {0};
	int status, err;

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &env);
	err = exec_run_once(&env.exec, "inspect", &env.exec.inspect, path, sizeof(path), &status);
	if (err)
		return run_complain();
	err = account_read(path, &account);
	free(env.exec.writers);
	if (!err) {
		err = conclude(&env, &account);
		account_clear(&account);
	}
	return err ? run_complain() : status;
}

const struct run_subcommand run_inspect_command = {
	"inspect", "say which allocations of a CUDA program look like a KV cache", &argp, run, NULL};
