/*
 * tests/model/chat_test.c: chat templates give the text that transformers gives, or are refused.
 *
 * tests/golden/chat/chat.json has templates of real models; KVS_TEST_CHAT names a larger file (make_chat.py).
 */
#include "../../model/model.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/chat/chat.json"

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* ---- against transformers ---- */

static void check_case(const kvs_chat *chat, const char *name, const json_t *item, time_t now)
{
	const char *user = text_of(item, "user"), *expected = text_of(item, "text");
	char *text = NULL;
	size_t bytes;
	int err = kvs_chat_render(chat, text_of(item, "system"), user, strlen(user), now, &text, &bytes);

	if (err && expected)
		fail_msg("%s: %s", name, kvs_error());
	if (!err && !expected)
		fail_msg("%s: transformers refuses this, here it is: %s", name, text);
	if (!err && strcmp(text, expected))
		fail_msg("%s: expected\n%s\nfound\n%s", name, expected, text);
	free(text);
}

/* Returns whether the template was read. */
static bool check_template(const json_t *from, time_t now)
{
	const char *name = text_of(from, "name"), *form = text_of(from, "form"), *template = text_of(from, "template");
	const json_t *cases = json_object_get(from, "cases"), *item;
	kvs_chat *chat;
	size_t i;
	int err = kvs_chat_parse(template, strlen(template), name, text_of(from, "bos"), &chat);

	if (getenv("KVS_TEST_CHAT"))
		printf("%s: %s\n", name, err ? kvs_error() : kvs_chat_form(chat));
	if (form && (err ? *form : strcmp(form, kvs_chat_form(chat))))
		fail_msg("%s: expected \"%s\": %s", name, form, err ? kvs_error() : kvs_chat_form(chat));
	json_array_foreach(cases, i, item) if (!err) check_case(chat, name, item, now);
	kvs_chat_free(chat);
	return !err;
}

static void texts_are_those_of_transformers(void **state)
{
	const char *path = getenv("KVS_TEST_CHAT");
	json_t *golden = json_load_file(path ? path : GOLDEN, 0, NULL);
	const json_t *templates = json_object_get(golden, "templates"), *item;
	size_t i, read = 0;

	(void)state;
	assert_true(json_array_size(templates) > 10);
	json_array_foreach(templates, i, item) read +=
		check_template(item, json_integer_value(json_object_get(golden, "now")));
	assert_true(read >= 10);
	json_decref(golden);
}

/* ---- what is refused ---- */

#define TURN "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
#define LOOP "{% for message in messages %}" TURN "{% endfor %}"
#define START "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* Conditions that are not known, where nothing depends on them. */
#define DECIDED                                                                                                        \
	"{% if x and tools %}{{ 'y' }}{% endif %}{% if messages %}" LOOP "{% elif x %}{{ 'y' }}{% endif %}" START

#define FOUR(text) text text text text
#define SIXTY_FOUR(text) FOUR(FOUR(FOUR(text))) /* deeper than conditions are followed */

static const struct {
	const char *template, *message;
} refused[] = {
	{"", "none of the forms"},
	{LOOP, "a part of it is missing"},
	{LOOP START "{{ 'x' }}", "statement that is not known"},
	{LOOP START "x", "text outside of its statements"},
	{LOOP TURN "\n" START, "white space between"},
	{LOOP START "{% macro x() %}", "statement of the template is not known"},
	{LOOP START "{% endif %}", "do not match"},
	{LOOP START "{% if x %}", "do not match"},
	{"{% if add_bos %}{{ bos_token }}{% endif %}" LOOP START, "condition that is not known: add_bos"},
	{"{% if loop.first and x %}{{ bos_token }}{% endif %}" LOOP START, "condition that is not known: x"},
	{"{% if " SIXTY_FOUR("loop.first or ") "x %}{{ bos_token }}{% endif %}" LOOP START,
		"condition that is not known: x"},
	{"{% if tools is defined %}{{ bos_token }}{% endif %}" LOOP START,
		"there is none"}, /* transformers passes None */
	{LOOP "{% if add_generation_prompt +%}\n{{ '<|im_start|>assistant\n' }}{% endif %}", "keeps the line end"},
	{LOOP START "{% for x in y %}{% endif %}", "do not match"},
	{LOOP START "{{ 'x", "has no end"},
	{LOOP START "{{ 'x\\x41' }}", "string of the template is not read"},
	{"{{ bos_token }}" LOOP START, "there is none"},
	{"{{ '<|im_start|>system\\na<|im_end|>\\n' }}{{ '<|im_start|>system\\nb<|im_end|>\\n' }}" LOOP START,
		"two texts"},
	{"\x02" LOOP START, "control characters"},
};

static void what_is_not_known_is_refused(void **state)
{
	kvs_chat *chat;

	(void)state;
	assert_int_equal(kvs_chat_parse(LOOP "\n" START, strlen(LOOP "\n" START), "T", NULL, &chat), 0);
	kvs_chat_free(chat);
	assert_int_equal(kvs_chat_parse(DECIDED, strlen(DECIDED), "T", NULL, &chat), 0);
	kvs_chat_free(chat);
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		int err = kvs_chat_parse(refused[i].template, strlen(refused[i].template), "T", NULL, &chat);
		if (!err || !strstr(kvs_error(), refused[i].message) || strncmp(kvs_error(), "T: ", 3))
			fail_msg("%s: %s", refused[i].template, err ? kvs_error() : "is read");
		assert_null(chat);
	}
}

/* As long as a template may be, and made to be looked at again and again: each is refused at once. */
static void a_long_template_takes_no_time(void **state)
{
	static const struct {
		const char *start, *unit, *end;
	} hostile[] = {
		{"{{ '", "[INST]", "' + message.content + 'x' }}"},
		{"{{ '[INST]' + message.content + '", "[/INST]", "x' }}"},
		{"{{ '[INST]", "' + message.content + '", "x' }}"},
		{"{{ '<|im_start|>system\\n", "<|im_end|>\\n", "x' }}"},
		{"{% if ", "not ", "x %}{{ '[INST]' }}{% endif %}"},
		{"{% if ", "x or ", "x %}{{ '[INST]' }}{% endif %}"},
		{"{% if ", "(", "x %}{{ '[INST]' }}{% endif %}"},
		{"{{ '[INST]' }}{{ x", "['a']", " }}"},
		{"{{ '[INST]' }}", "{{ 'a' }}", ""},
		{"{{ '[INST]' }}", "{% set ns = 'a' %}", "{{ x }}"},
		{"{{ '[INST]' }}{% set ns.", "a=", " %}{{ x }}"},
	};
	enum { BYTES = 256 << 10 };
	char *text = malloc(BYTES);
	kvs_chat *chat;

	(void)state;
	alarm(15); /* all take a part of a second; one that is quadratic, half a minute */
	for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
		size_t unit = strlen(hostile[i].unit), at = strlen(hostile[i].start), end = strlen(hostile[i].end);
		memcpy(text, hostile[i].start, at);
		for (; at + unit + end <= BYTES; at += unit)
			memcpy(text + at, hostile[i].unit, unit);
		memcpy(text + at, hostile[i].end, end);
		if (!kvs_chat_parse(text, at + end, "T", NULL, &chat))
			fail_msg("%s: is read", hostile[i].start);
	}
	alarm(0);
	free(text);
}

static void the_tokens_must_be_in_the_vocabulary(void **state)
{
	kvs_tokenizer *tok;
	kvs_chat *chat;

	(void)state;
	assert_int_equal(kvs_tokenizer_open("tests/models/storyworld-3m", &tok), 0);
	assert_int_equal(kvs_chat_parse(LOOP START, strlen(LOOP START), "T", NULL, &chat), 0);
	assert_true(kvs_chat_check(chat, tok) < 0);
	assert_non_null(strstr(kvs_error(), "<|im_start|>"));
	kvs_chat_free(chat);
	kvs_tokenizer_close(tok);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(texts_are_those_of_transformers),
		cmocka_unit_test(what_is_not_known_is_refused), cmocka_unit_test(a_long_template_takes_no_time),
		cmocka_unit_test(the_tokens_must_be_in_the_vocabulary)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
