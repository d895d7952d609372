/*
 * tests/calib/policy_test.c: losses under the policy `last`, on a small random model.
 *
 * The oracle shares nothing: a model without a plan decodes, and after each pass the K and V of the group's last layer are copied
 * over those of all its layers, row by row. That is what memory that all of them write comes to.
 */
#include "../support/process.h"
#include "fixture.h"

#define LAYERS 6

static struct fixture open_policy(enum kvs_policy policy, int pass_tokens)
{
	struct kvs_engine_options options = {
		.kv_dtype = KVS_F32, .kv_dtype_set = true, .policy = policy, .pass_tokens = pass_tokens};
	struct fixture f = open_fixture_with(MODEL, &options, WINDOWS, WINDOW_TOKENS);

	assert_int_equal(f.layers, LAYERS);
	return f;
}

static double loss_of(struct fixture *f, const int *k_owners, const int *v_owners)
{
	kvs_plan *plan;
	double nll;

	must(kvs_plan_create(LAYERS, k_owners, v_owners, &plan));
	must(kvs_measure_nll(f->engine, &f->text, plan, NULL, &nll));
	kvs_plan_free(plan);
	return nll;
}

/* ---- the oracle ---- */

static int last_of(const int *owners, int layer)
{
	int last = layer;

	for (int l = 0; l < LAYERS; l++)
		if (owners[l] == owners[layer])
			last = l;
	return last;
}

/* Every layer gets the rows of the last of its group. The last layers' own rows are not changed by this. */
static void store_over(kvs_engine *engine, const int *k_owners, const int *v_owners, int token)
{
	const struct kvs_config *config = kvs_engine_config(engine);
	size_t size = (size_t)config->kv_heads * config->head_dim;
	float *rows = malloc(sizeof(*rows) * 3 * size), *k = rows, *v = rows + size, *unused = rows + 2 * size;

	assert_non_null(rows);
	for (int l = 0; l < LAYERS; l++) {
		must(kvs_engine_read_kv(engine, last_of(k_owners, l), token, 1, k, unused));
		must(kvs_engine_read_kv(engine, last_of(v_owners, l), token, 1, unused, v));
		must(kvs_engine_write_kv(engine, l, token, 1, k, v));
	}
	free(rows);
}

static double oracle(const struct fixture *f, const int *k_owners, const int *v_owners, int pass)
{
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true, .ctx_tokens = WINDOW_TOKENS};
	float nll[WINDOW_TOKENS];
	kvs_engine *engine;
	double sum = 0;

	must(kvs_engine_open(cu, f->ckpt, &options, &engine));
	for (int first = 0; first < WINDOWS * WINDOW_TOKENS; first += WINDOW_TOKENS) {
		must(kvs_engine_truncate(engine, 0, 0));
		for (int t = 0, now; t < WINDOW_TOKENS; t += now) {
			now = WINDOW_TOKENS - t < pass ? WINDOW_TOKENS - t : pass;
			must(kvs_engine_score(engine, 0, f->text.window_ids + first + t,
				f->text.window_targets + first + t, now, nll, NULL));
			for (int i = 0; i < now; i++) {
				store_over(engine, k_owners, v_owners, t + i);
				sum += nll[i];
			}
		}
	}
	kvs_engine_close(engine);
	return sum / (WINDOWS * WINDOW_TOKENS);
}

/* ---- losses ---- */

static const int plans[][2][LAYERS] = {
	{{0, 1, 2, 1, 4, 5}, {0, 1, 2, 1, 4, 5}}, /* a pair with a layer between */
	{{0, 0, 2, 0, 2, 0}, {0, 0, 2, 0, 2, 0}}, /* groups of several layers, one inside the other */
	{{0, 1, 1, 3, 4, 4}, {0, 0, 2, 3, 4, 5}}, /* K and V apart */
};

static void a_loss_is_that_of_rows_stored_over_each_other(void **state)
{
	static const int passes[] = {1, 3, 8};

	(void)state;
	for (size_t p = 0; p < sizeof(passes) / sizeof(*passes); p++) {
		struct fixture f = open_policy(KVS_POLICY_LAST, passes[p]);
		for (size_t i = 0; i < sizeof(plans) / sizeof(*plans); i++) {
			double measured = loss_of(&f, plans[i][0], plans[i][1]);
			double wanted = oracle(&f, plans[i][0], plans[i][1], passes[p]);
			if (!(fabs(measured - wanted) < 1e-5))
				fail_msg("plan %zu in passes of %d: %.8f, wanted %.8f", i, passes[p], measured, wanted);
		}
		close_fixture(&f);
	}
}

/* `eval` goes another way: through a cache in which the layers share memory, one window at a time. */
static void a_timeline_has_the_same_loss(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_LAST, 3);
	float nll[WINDOW_TOKENS];

	(void)state;
	for (size_t i = 0; i < sizeof(plans) / sizeof(*plans); i++) {
		struct kvs_engine_options options = {.kv_dtype = KVS_F32,
			.kv_dtype_set = true,
			.ctx_tokens = WINDOW_TOKENS,
			.chunk_tokens = 3,
			.policy = KVS_POLICY_LAST};
		kvs_engine *engine;
		kvs_plan *plan;
		double sum = 0;

		must(kvs_plan_create(LAYERS, plans[i][0], plans[i][1], &plan));
		options.plan = plan;
		must(kvs_engine_open(cu, f.ckpt, &options, &engine));
		for (int first = 0; first < WINDOWS * WINDOW_TOKENS; first += WINDOW_TOKENS) {
			must(kvs_engine_truncate(engine, 0, 0));
			must(kvs_engine_score(engine, 0, f.text.window_ids + first, f.text.window_targets + first,
				WINDOW_TOKENS, nll, NULL));
			for (int t = 0; t < WINDOW_TOKENS; t++)
				sum += nll[t];
		}
		assert_true(fabs(sum / (WINDOWS * WINDOW_TOKENS) - loss_of(&f, plans[i][0], plans[i][1])) < 1e-5);
		kvs_engine_close(engine);
		kvs_plan_free(plan);
	}
	close_fixture(&f);
}

static void passes_decide_the_loss(void **state)
{
	struct fixture owner = open_policy(KVS_POLICY_OWNER, 0), token = open_policy(KVS_POLICY_LAST, 0),
		       few = open_policy(KVS_POLICY_LAST, 5), whole = open_policy(KVS_POLICY_LAST, WINDOW_TOKENS);
	const int *k = plans[1][0], *v = plans[1][1];
	double full, nll = loss_of(&token, k, v);

	(void)state;
	must(kvs_measure_nll(owner.engine, &owner.text, NULL, NULL, &full));
	assert_true(fabs(loss_of(&whole, k, v) - full) < 1e-6); /* in one pass every layer reads its own */
	assert_true(fabs(nll - full) > 1e-4 && fabs(nll - loss_of(&owner, k, v)) > 1e-4);
	assert_true(fabs(nll - loss_of(&few, k, v)) > 1e-5);
	must(kvs_measure_nll(token.engine, &token.text, NULL, NULL, &nll));
	assert_true(fabs(nll - full) < 1e-6); /* passes alone change nothing */
	close_fixture(&owner);
	close_fixture(&token);
	close_fixture(&few);
	close_fixture(&whole);
}

/* ---- searches ---- */

static struct kvs_search_result capture_and_search(struct fixture *f, const struct kvs_search_options *options)
{
	struct kvs_search_result result;

	must(kvs_capture_run(f->engine, &f->text, NULL, &f->capture));
	result = search(f, options);
	kvs_capture_clear(&f->capture);
	return result;
}

static void nll_finds_the_pair_that_loses_least(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_LAST, 1);
	struct kvs_search_options options = {
		.method = KVS_METHOD_NLL, .share = 1, .policy = KVS_POLICY_LAST, .pass_tokens = 1};
	struct kvs_search_result result = capture_and_search(&f, &options);
	int best[LAYERS] = {0};
	double least = INFINITY;

	(void)state;
	for (int layer = 1; layer < LAYERS; layer++)
		for (int owner = 0; owner < layer; owner++) {
			int owners[LAYERS];
			double nll;
			for (int l = 0; l < LAYERS; l++)
				owners[l] = l == layer ? owner : l;
			nll = loss_of(&f, owners, owners);
			if (nll < least) {
				least = nll;
				memcpy(best, owners, sizeof(best));
			}
		}
	assert_memory_equal(result.best.k_owners, best, sizeof(best));
	assert_true(fabs(result.best.nll - least) < 1e-7);
	kvs_search_result_clear(&result);
	close_fixture(&f);
}

/* The walk's cosine is of hidden states under the policy too. */
static void the_walk_measures_under_the_policy(void **state)
{
	double cosines[2];

	(void)state;
	for (int last = 0; last < 2; last++) {
		struct fixture f = open_policy(last ? KVS_POLICY_LAST : KVS_POLICY_OWNER, last);
		struct kvs_search_options options = {.method = KVS_METHOD_KVSHARER,
			.share = 2,
			.threshold = -1,
			.policy = last ? KVS_POLICY_LAST : KVS_POLICY_OWNER,
			.pass_tokens = last};
		struct kvs_search_result result = capture_and_search(&f, &options);
		assert_true(fabs(result.best.nll - loss_of(&f, result.best.k_owners, result.best.v_owners)) < 1e-7);
		cosines[last] = result.cosine;
		kvs_search_result_clear(&result);
		close_fixture(&f);
	}
	assert_true(cosines[0] < 1 && cosines[1] < 1 && fabs(cosines[0] - cosines[1]) > 1e-5);
}

static kvs_plan *recorded(struct fixture *f, const struct kvs_search_options *options)
{
	struct kvs_plan_model model = {"llama", LAYERS, 1, 1, NULL};
	struct kvs_search_result result = capture_and_search(f, options);
	kvs_plan *plan;

	must(kvs_search_plan(&result, &result.best, options, &f->text, &model, true, &plan));
	kvs_search_result_clear(&result);
	return plan;
}

static void a_plan_names_the_policy_and_resumes_under_it_alone(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_LAST, 1);
	struct kvs_search_options last = {.method = KVS_METHOD_KVSHARER,
					  .share = 1,
					  .threshold = 0.5,
					  .policy = KVS_POLICY_LAST,
					  .pass_tokens = 1},
				  owner = last, chunks = last;
	kvs_plan *plan = recorded(&f, &last);
	struct kvs_trial *trials;
	size_t count;
	char *text;

	(void)state;
	must(kvs_plan_calibration(plan, &text));
	assert_non_null(strstr(text, "\"policy\": \"last\""));
	assert_non_null(strstr(text, "\"pass_tokens\": 1"));
	free(text);
	must(kvs_search_replay(plan, &last, &f.text, &trials, &count));
	assert_true(count > 0);
	free(trials);
	owner.policy = KVS_POLICY_OWNER;
	assert_int_equal(kvs_search_replay(plan, &owner, &f.text, &trials, &count), -EINVAL);
	assert_non_null(strstr(kvs_error(), "its policy is \"last\", this search's is \"owner\""));
	chunks.pass_tokens = 4;
	assert_int_equal(kvs_search_replay(plan, &chunks, &f.text, &trials, &count), -EINVAL);
	assert_non_null(strstr(kvs_error(), "its pass_tokens is 1, this search's is 4"));
	kvs_plan_free(plan);
	close_fixture(&f);
}

/* Plans of before there were policies. */
static void a_plan_without_a_policy_was_found_under_owner(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_OWNER, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_KVSHARER, .share = 1, .threshold = 0.5};
	kvs_plan *plan = recorded(&f, &options);
	struct kvs_trial *trials;
	size_t count;
	char *text, *key;

	(void)state;
	must(kvs_plan_calibration(plan, &text));
	key = strstr(text, "\"policy\": ");
	assert_non_null(key);
	memcpy(key, "\"unused\"", 8);
	must(kvs_plan_set_calibration(plan, text));
	free(text);
	must(kvs_search_replay(plan, &options, &f.text, &trials, &count));
	free(trials);
	options.policy = KVS_POLICY_LAST;
	assert_int_equal(kvs_search_replay(plan, &options, &f.text, &trials, &count), -EINVAL);
	kvs_plan_free(plan);
	close_fixture(&f);
}

/* ---- what cannot be ---- */

static void a_search_takes_an_engine_of_its_policy(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_LAST, 2);
	struct kvs_search_options options = {.method = KVS_METHOD_NLL, .share = 1};
	struct kvs_search_result result;
	struct kvs_capture capture;

	(void)state;
	must(kvs_capture_run(f.engine, &f.text, NULL, &capture));
	assert_int_equal(kvs_search_run(f.engine, &f.text, &capture, &options, &result), -EINVAL);
	options.policy = KVS_POLICY_LAST;
	options.pass_tokens = 1;
	assert_int_equal(kvs_search_run(f.engine, &f.text, &capture, &options, &result), -EINVAL);
	kvs_capture_clear(&capture);
	close_fixture(&f);
}

static void parts_of_the_model_cannot_run_alone(void **state)
{
	struct fixture f = open_policy(KVS_POLICY_LAST, 1);
	struct kvs_batch batch = {.ids = f.text.window_ids, .sequences = WINDOWS, .tokens = WINDOW_TOKENS};
	kvs_rerun *rerun;

	(void)state;
	assert_int_equal(kvs_engine_run_layer(f.engine, &batch, 1, NULL, &(struct kvs_layer_tap){0}), -EINVAL);
	must(kvs_rerun_create(f.engine, WINDOWS * WINDOW_TOKENS, 1, &rerun));
	assert_int_equal(kvs_rerun_batch(rerun, &batch, 1), -EINVAL);
	kvs_rerun_free(rerun);
	must(kvs_engine_run_batch(f.engine, &batch)); /* and nothing has happened to the engine */
	close_fixture(&f);
}

/* ---- the program ---- */

#define STORY "tests/models/storyworld-3m"
#define LOSS "-m " STORY " --text " STORY "/calib.txt --ctx 16 --kv-dtype f32 -q "
#define CALIBRATE                                                                                                      \
	"kvshare-run calibrate " LOSS "--samples 4 --sample-tokens 16 --held-tokens 32 --method kvsharer --share 2 "
#define EVAL "kvshare-run eval " LOSS "--max-tokens 33 "

static double real_at(const json_t *object, const char *key)
{
	assert_true(json_is_real(json_object_get(object, key)));
	return json_real_value(json_object_get(object, key));
}

static void calibrate_finds_plans_for_the_policy(void **state)
{
	json_t *plain = run_json("T=$(mktemp -d); " CALIBRATE "--policy last -o $T/p --json; rm -r $T");
	json_t *batched = run_json("T=$(mktemp -d); " CALIBRATE "--policy last -o $T/p --json --batch 1; rm -r $T");
	json_t *owner = run_json("T=$(mktemp -d); " CALIBRATE "-o $T/p --json; rm -r $T");

	(void)state;
	assert_string_equal(json_string_value(json_object_get(plain, "policy")), "last");
	assert_string_equal(json_string_value(json_object_get(owner, "policy")), "owner");
	assert_true(json_equal(json_object_get(plain, "owners"), json_object_get(batched, "owners")));
	assert_true(fabs(real_at(plain, "nll") - real_at(batched, "nll")) < 1e-5);
	assert_true(fabs(real_at(plain, "full_nll") - real_at(owner, "full_nll")) < 1e-5);
	assert_true(fabs(real_at(plain, "nll") - real_at(owner, "nll")) > 1e-5);
	json_decref(plain);
	json_decref(batched);
	json_decref(owner);
}

#define WARNING "was found under the policy last, and runs under owner"
/* Found under each policy, by a version that knew one only, and by hand. */
#define PLANS                                                                                                          \
	CALIBRATE "--policy last -o $T/last >$T/out && " CALIBRATE "-o $T/owner >$T/out && "                           \
		  "sed 's/\"policy\"/\"other\"/' $T/owner >$T/old && "                                                 \
		  "O=0,1,2,3,4,5,6,7,8,9,9,11,12,13,14,15 && echo \"{\\\"kvshare_plan\\\": 1, \\\"layers\\\": 16, "    \
		  "\\\"k_owners\\\": [$O], \\\"v_owners\\\": [$O]}\" >$T/hand"
#define NO_LAYOUT "--layout tensors:layers=16,bytes=2MiB -- true"

static void a_plan_of_another_policy_is_named(void **state)
{
	static const struct {
		const char *command, *said; /* NULL: nothing */
	} cases[] = {
		{EVAL "--plan $T/last", WARNING},
		{EVAL "--plan $T/last --policy last", NULL},
		{EVAL "--plan $T/owner", NULL},
		{EVAL "--plan $T/old --policy last", "under the policy owner, and runs under last"},
		{EVAL "--plan $T/hand --policy last", NULL},
		{"kvshare-run exec --plan $T/last " NO_LAYOUT, WARNING},
		{"kvshare-run exec --policy last --plan $T/last " NO_LAYOUT, NULL},
		{"kvshare-run exec --policy last --plan $T/owner " NO_LAYOUT,
			"under the policy owner, and runs under last"},
		{"kvshare-run plan show $T/last | grep 'policy     last'", NULL},
		{CALIBRATE "--resume -o $T/last", "its policy is \"last\", this search's is \"owner\""},
	};
	char dir[] = "/tmp/kvs-policy-XXXXXX", command[2048];
	struct process process;

	(void)state;
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	assert_non_null(mkdtemp(dir));
	snprintf(command, sizeof(command), "T=%s; " PLANS, dir);
	process = run_shell(command, 60);
	if (process.status)
		fail_msg("%s", process.err);
	process_free(&process);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		snprintf(command, sizeof(command), "T=%s; %s", dir, cases[i].command);
		process = run_shell(command, 60);
		if (!cases[i].said ? *process.err || process.status : !strstr(process.err, cases[i].said))
			fail_msg("%s: status %d, stderr \"%s\"", cases[i].command, process.status, process.err);
		process_free(&process);
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	process = run_shell(command, 60);
	process_free(&process);
}

static void what_cannot_be_measured_is_refused(void **state)
{
	static const struct {
		const char *command;
		int status;
		const char *said;
	} cases[] = {
		{CALIBRATE "-o $T/p --policy first", 2, "--policy"},
		{CALIBRATE "-o $T/p --policy last --compensate", 2, "--compensate"},
		{CALIBRATE "-o $T/p --policy last --chunk 16", 1, "--chunk 16 with samples of 16"},
		{EVAL "--policy last", 2, "--plan or --owners"},
		{EVAL "--policy last --owners 0,1,2,3,4,5,6,7,8,9,9,11,12,13,14,15 --chunk 16", 1,
			"shorter than a window"},
	};
	char command[2048];
	struct process process;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		snprintf(command, sizeof(command),
			"T=$(mktemp -d); (%s); status=$?; [ -e $T/p ] && echo left behind; rm -r $T; exit $status",
			cases[i].command);
		process = run_shell(command, 60);
		if (process.status != cases[i].status || !strstr(process.err, cases[i].said) || *process.out)
			fail_msg("%s: status %d, stdout \"%s\", stderr \"%s\"", cases[i].command, process.status,
				process.out, process.err);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_loss_is_that_of_rows_stored_over_each_other),
		cmocka_unit_test(a_timeline_has_the_same_loss),
		cmocka_unit_test(passes_decide_the_loss),
		cmocka_unit_test(nll_finds_the_pair_that_loses_least),
		cmocka_unit_test(the_walk_measures_under_the_policy),
		cmocka_unit_test(a_plan_names_the_policy_and_resumes_under_it_alone),
		cmocka_unit_test(a_plan_without_a_policy_was_found_under_owner),
		cmocka_unit_test(a_search_takes_an_engine_of_its_policy),
		cmocka_unit_test(parts_of_the_model_cannot_run_alone),
		cmocka_unit_test(calibrate_finds_plans_for_the_policy),
		cmocka_unit_test(a_plan_of_another_policy_is_named),
		cmocka_unit_test(what_cannot_be_measured_is_refused),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
