/*
 * tests/e2e/generate_test.c: `kvshare-run generate` as a user sees it: its output, its savings, and that options that
 * should not matter do not change a token.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define OWNERS "0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15"
#define GENERATE "kvshare-run generate -m " MODEL " -p 'Anna put the red key' -n 64 --device host --json "

static json_int_t memory(const json_t *report, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(report, "memory"), key));
}

static void sharing_saves_exactly_its_part(void **state)
{
	json_t *full = run_json(GENERATE), *shared = run_json(GENERATE "--owners " OWNERS);
	json_int_t granule = memory(shared, "granule_bytes");

	(void)state;
	assert_true(granule > 0);
	assert_int_equal(memory(full, "kv_physical_bytes"), memory(full, "kv_unshared_bytes"));
	assert_int_equal(memory(shared, "kv_unshared_bytes"), memory(full, "kv_unshared_bytes"));
	assert_int_equal(16 * memory(shared, "kv_physical_bytes"), 12 * memory(shared, "kv_unshared_bytes"));
	assert_int_equal(memory(shared, "kv_physical_bytes") % granule, 0);
	assert_true(memory(shared, "kv_physical_bytes") > 0);
	json_decref(full);
	json_decref(shared);
}

/* A program under exec keeps a GPU's granule: tests/preload counts in it. */
static void blocks_on_the_host_are_small_unless_asked_for(void **state)
{
	json_t *small = run_json(GENERATE), *large = run_json("SOFTCUDA_GRANULARITY=2M " GENERATE);

	(void)state;
	assert_int_equal(memory(small, "granule_bytes"), 64 << 10);
	assert_int_equal(memory(large, "granule_bytes"), 2 << 20);
	assert_int_equal(memory(small, "kv_physical_bytes") * 32, memory(large, "kv_physical_bytes"));
	json_decref(small);
	json_decref(large);
}

static void report_has_what_its_contract_names(void **state)
{
	static const char *const latency[] = {
		"load_s", "prefill_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s", "inter_token_ms"};
	json_t *report = run_json(GENERATE);
	const json_t *device = json_object_get(report, "device"), *times = json_object_get(report, "latency");

	(void)state;
	assert_string_equal(json_string_value(json_object_get(device, "kind")), "host");
	assert_true(json_is_string(json_object_get(device, "name")));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(report, "model"), "layers")), 16);
	assert_true(json_integer_value(json_object_get(report, "prompt_tokens")) > 0);
	assert_true(json_array_size(json_object_get(report, "tokens")) > 0);
	assert_true(strlen(json_string_value(json_object_get(report, "text"))) > 0);
	assert_true(memory(report, "weights_bytes") > 0);
	assert_true(memory(report, "kv_virtual_bytes") >= memory(report, "kv_unshared_bytes"));
	for (size_t i = 0; i < sizeof(latency) / sizeof(*latency); i++)
		assert_non_null(json_object_get(times, latency[i]));
	json_decref(report);
}

static void a_run_says_why_it_ended(void **state)
{
	static const struct {
		const char *options, *stop;
	} runs[] = {
		{"-n 4", "length"}, {"-n 0", "length"}, {"-n 100 --ctx 20", "context"},
		{"-n 4 --ctx 9", "length"}, /* both at once: all the tokens that were asked for are there */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		char command[256];
		json_t *report;
		snprintf(command, sizeof(command),
			"kvshare-run -m " MODEL " -p 'Anna put the red key' --ignore-eos --json %s", runs[i].options);
		report = run_json(command);
		assert_string_equal(json_string_value(json_object_get(report, "stop")), runs[i].stop);
		json_decref(report);
	}
}

/* The first token of the text becomes the end-of-text token. */
static void a_run_ends_with_the_text(void **state)
{
	json_t *report = run_json(
		"T=$(mktemp -d); cp -r " MODEL " $T/m; kvshare-run -m " MODEL " -p 'Anna put' -n 1 --json >$T/j; "
		"id=$(tr -d '\\n ' <$T/j | sed 's/.*\"tokens\":\\[\\([0-9]*\\).*/\\1/'); "
		"sed -i \"s/\\\"eos_token_id\\\": *[0-9]*/\\\"eos_token_id\\\": $id/\" $T/m/*config.json; "
		"kvshare-run -m $T/m -p 'Anna put' -n 5 --json; rm -r $T");

	(void)state;
	assert_string_equal(json_string_value(json_object_get(report, "stop")), "eos");
	assert_int_equal(json_array_size(json_object_get(report, "tokens")), 0);
	json_decref(report);
}

/* The prompt is what the template prints, and no token is put before it. */
static void a_chat_is_what_its_template_prints(void **state)
{
	json_t *chat = run_json(
		"T=$(mktemp -d); cp -r " MODEL " $T/m; printf %s \"{{ bos_token }}{% for message in messages %}"
		"{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}\" >$T/m/chat_template.jinja; "
		"echo '{\"bos_token\": \"<s>\"}' >$T/m/tokenizer_config.json; "
		"kvshare-run -m $T/m --chat -p 'Who put the red key there?' -n 8 --json; rm -r $T");
	json_t *text =
		run_json("kvshare-run -m " MODEL " -p '<s>[INST] Who put the red key there? [/INST]' -n 8 --json");

	(void)state;
	assert_int_equal(json_integer_value(json_object_get(chat, "prompt_tokens")),
		json_integer_value(json_object_get(text, "prompt_tokens")));
	assert_true(json_array_size(json_object_get(chat, "tokens")) > 0);
	assert_true(json_equal(json_object_get(chat, "tokens"), json_object_get(text, "tokens")));
	json_decref(chat);
	json_decref(text);
}

/* Token `id` of a vocabulary gets another name; no merges make or use it from then on. */
static void rename_token(json_t *tokenizer, json_int_t id, const char *name)
{
	json_t *model = json_object_get(tokenizer, "model"), *vocab = json_object_get(model, "vocab");
	json_t *merges = json_object_get(model, "merges"), *value, *added = json_object_get(tokenizer, "added_tokens");
	const char *key, *old = NULL;

	json_object_foreach(vocab, key, value) if (json_integer_value(value) == id) old = key;
	assert_non_null(old);
	for (size_t i = json_array_size(merges); i--;) {
		const json_t *merge = json_array_get(merges, i);
		char left[64], right[64], both[128];
		if (json_is_array(merge)) {
			snprintf(left, sizeof(left), "%s", json_string_value(json_array_get(merge, 0)));
			snprintf(right, sizeof(right), "%s", json_string_value(json_array_get(merge, 1)));
		} else {
			assert_int_equal(sscanf(json_string_value(merge), "%63s %63s", left, right), 2);
		}
		snprintf(both, sizeof(both), "%s%s", left, right);
		if (!strcmp(left, old) || !strcmp(right, old) || !strcmp(both, old))
			json_array_remove(merges, i);
	}
	json_object_del(vocab, old);
	json_object_set_new(vocab, name, json_integer(id));
	for (size_t i = json_array_size(added); i--;)
		if (json_integer_value(json_object_get(json_array_get(added, i), "id")) == id)
			json_array_remove(added, i);
	json_array_append_new(
		added, json_pack("{s:I,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content", name, "single_word", 0, "lstrip",
			       0, "rstrip", 0, "normalized", 0, "special", 1));
}

#define CHATML                                                                                                         \
	"{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}" \
	"{% endfor %}{{ '<|im_start|>assistant\\n' }}"

static void save(const char *dir, const char *name, const char *text)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static json_t *chat(const char *dir, json_t *tokenizer, const char *options)
{
	char command[256], *text = json_dumps(tokenizer, 0);

	save(dir, "tokenizer.json", text);
	free(text);
	snprintf(command, sizeof(command), "kvshare-run -m %s --chat -p 'Where is it?' -n 30 --json %s", dir, options);
	return run_json(command);
}

/* Where `id` is in a list; its size: nowhere. */
static size_t place(const json_t *tokens, json_int_t id)
{
	size_t i = 0;

	while (i < json_array_size(tokens) && json_integer_value(json_array_get(tokens, i)) != id)
		i++;
	return i;
}

/* With `id` as the token that ends a turn, an answer that has it stops before it. False: the answer has it not. */
static bool stops_before(const char *dir, const json_t *tokenizer, json_int_t id)
{
	json_t *changed = json_deep_copy(tokenizer), *whole, *cut;
	size_t end;
	bool comes;

	rename_token(changed, id, "<|im_end|>");
	whole = chat(dir, changed, "--ignore-eos");
	end = place(json_object_get(whole, "tokens"), id);
	comes = end < json_array_size(json_object_get(whole, "tokens"));
	cut = comes ? chat(dir, changed, "") : NULL;
	if (comes) {
		assert_string_equal(json_string_value(json_object_get(cut, "stop")), "eos");
		assert_int_equal(json_array_size(json_object_get(cut, "tokens")), end);
	}
	json_decref(whole);
	json_decref(cut);
	json_decref(changed);
	return comes;
}

/* The end of a turn is looked for among tokens of an answer; it is not the checkpoint's end-of-text token. */
static void an_answer_ends_with_its_turn(void **state)
{
	char dir[] = "/tmp/kvs-chat-XXXXXX", command[128];
	json_t *tokenizer = json_load_file(MODEL "/tokenizer.json", 0, NULL), *report, *tokens;
	size_t i = 0;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(command, sizeof(command), "cp %s/*.json %s/model.safetensors %s && echo []", MODEL, MODEL, dir);
	json_decref(run_json(command));
	save(dir, "chat_template.jinja", CHATML);
	rename_token(tokenizer, 0, "<|im_start|>");
	rename_token(tokenizer, 1, "<|im_end|>");
	report = chat(dir, tokenizer, "");
	assert_string_equal(json_string_value(json_object_get(report, "stop")), "length");
	rename_token(tokenizer, 1, "unused");
	tokens = json_object_get(report, "tokens");
	while (i < json_array_size(tokens) &&
		!stops_before(dir, tokenizer, json_integer_value(json_array_get(tokens, i))))
		i++;
	assert_true(i < json_array_size(tokens));
	json_decref(report);
	json_decref(tokenizer);
	snprintf(command, sizeof(command), "rm -r %s && echo []", dir);
	json_decref(run_json(command));
}

static void a_context_past_the_trained_positions_is_warned_of(void **state)
{
	static const struct {
		const char *command;
		bool warned;
	} runs[] = {
		{"kvshare-run -m " MODEL " -p Anna -n 1 -q --ctx 100000", true},
		{"kvshare-run -m " MODEL " -p Anna -n 1 -q --ctx 64", false},
		{"kvshare-run -m " MODEL " -p Anna -n 1 -q", false},
		{"kvshare-run eval -m " MODEL " --text " MODEL "/heldout.txt --max-tokens 20 -q --ctx 100000", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		struct process process = run_shell(runs[i].command, 60);
		assert_int_equal(process.status, 0);
		if (!!strstr(process.err, "max_position_embeddings") != runs[i].warned)
			fail_msg("%s: %s", runs[i].command, process.err);
		process_free(&process);
	}
}

static void text_goes_to_stdout_and_the_summary_to_stderr(void **state)
{
	struct process process = run_shell(
		"kvshare-run -m " MODEL " -p 'Anna put the red key' -n 16 --device host --owners " OWNERS, 120);
	int lines = 0;

	(void)state;
	assert_int_equal(process.status, 0);
	assert_true(strlen(process.out) > 1);
	for (const char *c = process.err; *c; c++)
		lines += *c == '\n';
	assert_int_equal(lines, 1 + 5); /* an empty line, then five */
	assert_non_null(strstr(process.err, "saved"));
	process_free(&process);
}

/* Each row is put before or after the command; all must give the tokens of the first. */
static void tokens_do_not_depend_on_how_memory_is_managed(void **state)
{
	static const struct {
		const char *environment, *options;
	} runs[] = {
		{"", ""},
		{"SOFTCUDA_GRANULARITY=64K", ""},
		{"SOFTCUDA_GRANULARITY=4M", ""},
		{"SOFTCUDA_GRANULARITY=64K", "--no-premap"},
		{"KVS_SIMT_SCHEDULE=reverse", ""},
		{"KVS_SIMT_SCHEDULE=random:7", ""},
		{"SOFTCUDA_WORKERS=1", ""},
		{"SOFTCUDA_WORKERS=5", "--ctx 300"},
		{"", "--chunk 1"},
		{"", "--chunk 2"},
		{"", "--chunk 5"},
	};
	json_t *expected[2] = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		for (int shared = 0; shared < 2; shared++) {
			char command[512];
			snprintf(command, sizeof(command), "%s " GENERATE "%s %s", runs[i].environment, runs[i].options,
				shared ? "--owners " OWNERS : "");
			json_t *report = run_json(command), *tokens = json_object_get(report, "tokens");
			if (!expected[shared])
				expected[shared] = json_incref(tokens);
			if (!json_equal(tokens, expected[shared]))
				fail_msg("`%s` gave other tokens than the plain run", command);
			json_decref(report);
		}
	}
	json_decref(expected[0]);
	json_decref(expected[1]);
}

static void a_seed_gives_the_same_text_again(void **state)
{
	static const char sampled[] = GENERATE "--temperature 0.9 --top-k 50 --top-p 0.9 --seed ";
	char command[512];
	json_t *reports[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		snprintf(command, sizeof(command), "%s%d", sampled, i == 2 ? 12 : 11);
		reports[i] = run_json(command);
	}
	assert_true(json_equal(json_object_get(reports[0], "tokens"), json_object_get(reports[1], "tokens")));
	assert_false(json_equal(json_object_get(reports[0], "tokens"), json_object_get(reports[2], "tokens")));
	for (int i = 0; i < 3; i++)
		json_decref(reports[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sharing_saves_exactly_its_part),
		cmocka_unit_test(blocks_on_the_host_are_small_unless_asked_for),
		cmocka_unit_test(report_has_what_its_contract_names),
		cmocka_unit_test(a_run_says_why_it_ended),
		cmocka_unit_test(a_run_ends_with_the_text),
		cmocka_unit_test(a_chat_is_what_its_template_prints),
		cmocka_unit_test(an_answer_ends_with_its_turn),
		cmocka_unit_test(a_context_past_the_trained_positions_is_warned_of),
		cmocka_unit_test(text_goes_to_stdout_and_the_summary_to_stderr),
		cmocka_unit_test(tokens_do_not_depend_on_how_memory_is_managed),
		cmocka_unit_test(a_seed_gives_the_same_text_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
