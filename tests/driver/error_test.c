/* Messages: what they quote cannot harm a terminal, and a long path does not push out the reason. */
#include "../../driver/cu.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void control_characters_are_made_visible(void **state)
{
	static const struct {
		const char *text, *shown;
	} rows[] = {
		{"plain, caf\xc3\xa9, \xe2\x82\xac, \xf0\x9f\x98\x80",
			"plain, caf\xc3\xa9, \xe2\x82\xac, \xf0\x9f\x98\x80"},
		{"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"},
		{"two\nlines\r\t", "two\\x0alines\\x0d\\x09"},
		{"del \x7f", "del \\x7f"},
		{"c1 \xc2\x9b"
		 "31m",
			"c1 \\xc2\\x9b31m"},
		{"nbsp \xc2\xa0", "nbsp \xc2\xa0"},
		{"raw c1 \x9b"
		 "31m",
			"raw c1 \\x9b31m"},
		{"cut \xe2\x82", "cut \\xe2\\x82"},
		{"overlong \xc0\x9b \xe0\x82\x9b", "overlong \\xc0\\x9b \\xe0\\x82\\x9b"},
		{"surrogate \xed\xa0\x80", "surrogate \\xed\\xa0\\x80"},
		{"past the end \xf4\x90\x80\x80", "past the end \\xf4\\x90\\x80\\x80"},
		{"turned \xe2\x80\xae", "turned \\xe2\\x80\\xae"},
		{"separator \xe2\x80\xa8", "separator \\xe2\\x80\\xa8"},
	};
	char shown[128], again[128];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		assert_string_equal(kvs_visible(rows[i].text, shown, sizeof(shown)), rows[i].shown);
		assert_string_equal(kvs_visible(shown, again, sizeof(again)), rows[i].shown);
		assert_int_equal(kvs_fail(-EINVAL, "%s: no", rows[i].text), -EINVAL);
		assert_memory_equal(kvs_error(), rows[i].shown, strlen(rows[i].shown));
	}
}

static void what_does_not_fit_is_cut_between_characters(void **state)
{
	char shown[10];

	(void)state;
	assert_string_equal(kvs_visible("123456789", shown, sizeof(shown)), "123456789");
	assert_string_equal(kvs_visible("1234567890", shown, sizeof(shown)), "123456...");
	assert_string_equal(kvs_visible("12345\xe2\x82\xac"
					"90",
				    shown, sizeof(shown)),
		"12345...");
	assert_string_equal(kvs_visible("123\x1b\x1b", shown, sizeof(shown)), "123...");
	assert_string_equal(kvs_visible("123", shown, 3), "..");
	assert_string_equal(kvs_visible("", shown, 1), "");
	memset(shown, 'x', sizeof(shown));
	kvs_visible("123", shown, 0);
	assert_int_equal(*shown, 'x');
}

/* Of every length, so that the cut falls at every position in a character of three bytes. */
static void a_long_message_keeps_beginning_and_reason(void **state)
{
	char path[8192];

	(void)state;
	for (size_t length = 1; length + 3 < sizeof(path); length += length < 900 || length > 1200 ? 97 : 1) {
		char again[8192];

		memset(path, 'p', length);
		for (size_t i = 0; i + 3 <= length; i += 3)
			memcpy(path + i, "\xe2\x82\xac", 3);
		path[length] = '\0';
		kvs_fail(-EIO, "plan %s: cannot write: No space left on device", path);
		assert_memory_equal(kvs_error(), "plan \xe2\x82\xac", length < 3 ? 5 : 8);
		assert_non_null(strstr(kvs_error(), ": cannot write: No space left on device"));
		assert_null(strstr(kvs_error(), "\\x"));
		assert_true(strlen(kvs_error()) < 1024);
		assert_ptr_equal(kvs_visible(kvs_error(), again, sizeof(again)), again);
		assert_string_equal(again, kvs_error());
	}
	memset(path, 0x1b, sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	kvs_fail(-EIO, "%s: the reason", path);
	assert_string_equal(kvs_error() + strlen(kvs_error()) - strlen(": the reason"), ": the reason");
}

static void context_is_added_to_a_message(void **state)
{
	(void)state;
	kvs_fail(-EIO, "inner");
	kvs_fail(-EIO, "outer: %s", kvs_error());
	assert_string_equal(kvs_error(), "outer: inner");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(control_characters_are_made_visible),
		cmocka_unit_test(what_does_not_fit_is_cut_between_characters),
		cmocka_unit_test(a_long_message_keeps_beginning_and_reason),
		cmocka_unit_test(context_is_added_to_a_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
