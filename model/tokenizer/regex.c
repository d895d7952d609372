/*
 * model/tokenizer/regex.c: regular expressions written for Oniguruma, run by PCRE2.
 *
 * Hugging Face compiles patterns with Oniguruma (Ruby syntax, Unicode 16). PCRE2 reads most of what tokenizers use the
 * same way; the pattern is rewritten where it does not (white space, letters and numbers that Unicode gave out after
 * 14.0, which is what PCRE2 10.42 knows) and refused by name where it could mean something else. Every match is bounded
 * in steps and memory, so that a hostile pattern ends in an error.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATTERN 4096  /* the longest in use has some 400 characters */
#define STEPS_BASE 100000 /* of one match; with so many a byte, \s+ over a whole text of spaces still passes */
#define STEPS_A_BYTE 64
#define HEAP_KIB (256 * 1024u)

struct tok_regex {
	pcre2_code *code;
};

/* Unicode's White_Space. PCRE2's \s has U+180E too, which lost the property in Unicode 6.3. */
#define SPACES "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                                     \
	"\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"            \
	"\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* What Unicode 15.0 to 16.0 added to a property; harmless on a PCRE2 that knows it already. */
static const struct addition {
	const char *property, *ranges;
} additions[] = {
	{"\\p{L}", "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
		   "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}"
		   "\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}"
		   "\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}"
		   "\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
		   "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
		   "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
	{"\\p{N}", "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
		   "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
		   "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"},
	{"\\p{M}", "\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}\\x{113b8}-\\x{113c0}"
		   "\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113d0}\\x{113d2}\\x{113e1}-\\x{113e2}"
		   "\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}"
		   "\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}\\x{1e5ee}-\\x{1e5ef}"},
	{"\\p{P}", "\\x{1b4e}-\\x{1b4f}\\x{1b7f}\\x{10d6e}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}"
		   "\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11f43}-\\x{11f4f}\\x{16d6d}-\\x{16d6f}\\x{1e5ff}"},
	{"\\p{S}", "\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}-\\x{31e5}\\x{31ef}\\x{10d8e}-\\x{10d8f}"
		   "\\x{1cc00}-\\x{1ccef}\\x{1cd00}-\\x{1ceb3}\\x{1f6dc}\\x{1f774}-\\x{1f776}\\x{1f77b}-\\x{1f77f}"
		   "\\x{1f7d9}\\x{1f8b2}-\\x{1f8bb}\\x{1f8c0}-\\x{1f8c1}\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}"
		   "\\x{1fa8f}\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{1face}-\\x{1facf}"
		   "\\x{1fada}-\\x{1fadc}\\x{1fadf}\\x{1fae8}-\\x{1fae9}\\x{1faf7}-\\x{1faf8}\\x{1fbcb}-\\x{1fbef}"},
	{"\\d", "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
		"\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1e4f0}-\\x{1e4f9}"
		"\\x{1e5f1}-\\x{1e5fa}"},
};

/* ---- rewriting ---- */

struct rewrite {
	const char *in; /* what is left */
	struct tok_text out;
	bool in_class;
	char refused[32]; /* the construct, when there is one that we do not take */
};

static int put(struct rewrite *re, const char *text)
{
	return tok_text_append(&re->out, text, strlen(text));
}

static int refuse(struct rewrite *re, size_t len)
{
	snprintf(re->refused, sizeof(re->refused), "%.*s", (int)len, re->in);
	return -EINVAL;
}

/* A set of characters: bare inside a class, else a class of its own. */
static int put_set(struct rewrite *re, const char *name, const char *more, bool negated)
{
	if (re->in_class)
		return put(re, name) || put(re, more) ? -ENOMEM : 0;
	return put(re, negated ? "[^" : "[") || put(re, name) || put(re, more) || put(re, "]") ? -ENOMEM : 0;
}

static const char *find_addition(const char *property)
{
	for (size_t i = 0; i < sizeof(additions) / sizeof(additions[0]); i++)
		if (!strcmp(additions[i].property, property))
			return additions[i].ranges;
	return "";
}

/* \p{NAME}, \P{NAME}, \p{^NAME}; the one-letter properties get what newer Unicode added. */
static int rewrite_property(struct rewrite *re)
{
	const char *close = strchr(re->in, '}');
	bool negated = re->in[1] == 'P';
	const char *name = re->in + 3;
	char property[40];

	if (re->in[2] != '{' || !close || close - re->in > 30)
		return refuse(re, 3);
	if (*name == '^') {
		negated = !negated;
		name++;
	}
	snprintf(property, sizeof(property), "\\p{%.*s}", (int)(close - name), name);
	if (negated && re->in_class) /* what newer Unicode added could not be taken away again */
		return refuse(re, (size_t)(close - re->in) + 1);
	re->in = close + 1;
	return put_set(re, property, find_addition(property), negated);
}

static int rewrite_escape(struct rewrite *re)
{
	char c = re->in[1], copy[3] = {'\\', c, 0};

	if (c == 'p' || c == 'P')
		return rewrite_property(re);
	if (c == 's' || c == 'S') {
		re->in += 2;
		return re->in_class ? put(re, c == 's' ? SPACES : NOT_SPACES) : put_set(re, SPACES, "", c == 'S');
	}
	if (c == 'd') {
		re->in += 2;
		return put_set(re, "\\d", find_addition("\\d"), false);
	}
	/* Of the letters and digits only those that mean one thing to both; \w, \b, \h, \v, \xHH and \1 do not. */
	if (!c ||
		(c < 0x7f && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", c) &&
			!strchr("rntfae", c) && (re->in_class || !strchr("Az", c)) && !(c == 'x' && re->in[2] == '{')))
		return refuse(re, 2);
	re->in += 2;
	return put(re, copy);
}

static int rewrite_group(struct rewrite *re)
{
	static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};

	if (re->in[1] == '*')
		return refuse(re, 2);
	if (re->in[1] == '?') {
		size_t i = 0;

		while (i < sizeof(known) / sizeof(known[0]) && strncmp(re->in, known[i], strlen(known[i])))
			i++;
		if (i == sizeof(known) / sizeof(known[0]))
			return refuse(re, 4);
		re->in += strlen(known[i]);
		return put(re, known[i]);
	}
	re->in++;
	return put(re, "(");
}

/* {n}, {n,} and {n,m}: Ruby repeats a group that a + follows, where PCRE2 would make it possessive. */
static int rewrite_brace(struct rewrite *re)
{
	size_t len = 1 + strspn(re->in + 1, "0123456789,");

	if (re->in[1] == ',' || (re->in[len] == '}' && re->in[len + 1] == '+'))
		return refuse(re, len + 2);
	re->in++;
	return put(re, "{");
}

static int rewrite_open(struct rewrite *re)
{
	size_t len = re->in[1] == '^' ? 2 : 1;
	int err = tok_text_append(&re->out, re->in, len);

	if (re->in[len] == ']')
		return refuse(re, len + 1);
	re->in += len;
	re->in_class = true;
	return err;
}

static int rewrite_one(struct rewrite *re)
{
	char c = *re->in;

	if (c == '\\')
		return rewrite_escape(re);
	if (re->in_class) {
		if (c == '[' || !strncmp(re->in, "&&", 2)) /* Ruby nests and intersects classes */
			return refuse(re, 2);
		re->in_class = c != ']';
	} else if (c == '[') {
		return rewrite_open(re);
	} else if (c == '(') {
		return rewrite_group(re);
	} else if (c == '{') {
		return rewrite_brace(re);
	}
	return tok_text_append(&re->out, re->in++, 1);
}

static int rewrite_pattern(const char *pattern, const char *file, const char *where, struct tok_text *out)
{
	struct rewrite re = {.in = pattern};
	int err = 0;

	while (*re.in && !err)
		err = rewrite_one(&re);
	if (err) {
		free(re.out.data);
		return err == -EINVAL ? kvs_fail(-EINVAL, "%s: %s: \"%s\" in a regular expression: not supported", file,
						where, re.refused)
				      : kvs_fail(-ENOMEM, "%s: no memory for %s", file, where);
	}
	*out = re.out;
	return 0;
}

/* ---- compiling and matching ---- */

static int compile(
	const struct tok_text *pattern, uint32_t options, const char *file, const char *where, pcre2_code **out)
{
	int code;
	PCRE2_SIZE at;
	PCRE2_UCHAR message[120];

	*out = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len, options | PCRE2_UTF, &code, &at, NULL);
	if (!*out) {
		pcre2_get_error_message(code, message, sizeof(message));
		return kvs_fail(
			-EINVAL, "%s: %s is no regular expression that we can use: %s", file, where, (char *)message);
	}
	pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it, matching is slower and the same */
	return 0;
}

int tok_regex_create(const char *pattern, bool literal, const char *file, const char *where, tok_regex **out)
{
	struct tok_text text = {0};
	tok_regex *regex;
	int err = 0;

	if (strlen(pattern) > MAX_PATTERN)
		return kvs_fail(-EINVAL, "%s: %s has %zu characters, at most %d are read", file, where, strlen(pattern),
			MAX_PATTERN);
	err = literal ? tok_text_append(&text, pattern, strlen(pattern)) : rewrite_pattern(pattern, file, where, &text);
	if (err)
		return err;
	regex = calloc(1, sizeof(*regex));
	if (!regex)
		err = kvs_fail(-ENOMEM, "%s: no memory for %s", file, where);
	else /* Ruby's ^ and $ match at every line */
		err = compile(&text, literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
			file, where, &regex->code);
	free(text.data);
	if (err) {
		free(regex);
		return err;
	}
	*out = regex;
	return 0;
}

void tok_regex_free(tok_regex *regex)
{
	if (!regex)
		return;
	pcre2_code_free(regex->code);
	free(regex);
}

struct search {
	const tok_regex *regex;
	const char *text;
	size_t len;
	pcre2_match_data *data;
	pcre2_match_context *context;
	size_t start, end; /* of the match found */
};

/* 1: found, 0: none, or an error. */
static int search_from(struct search *s, size_t from)
{
	PCRE2_SPTR text = (PCRE2_SPTR)s->text;
	int rc = pcre2_match(s->regex->code, text, s->len, from, PCRE2_NO_UTF_CHECK, s->data, s->context);

	if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its frames on the heap */
		rc = pcre2_match(
			s->regex->code, text, s->len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->data, s->context);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc == PCRE2_ERROR_NOMEMORY)
		return -ENOMEM;
	if (rc < 0)
		return kvs_fail(-EINVAL,
			"splitting %zu bytes of text at byte %zu: the tokenizer's regular expression gave up (PCRE2 "
			"error %d)",
			s->len, from, rc);
	s->start = pcre2_get_ovector_pointer(s->data)[0];
	s->end = pcre2_get_ovector_pointer(s->data)[1];
	return 1;
}

/* Like Oniguruma's iterator: an empty match right behind the last match does not count. */
static int each_match(struct search *s, int (*found)(void *, size_t, size_t, bool), void *arg)
{
	size_t from = 0, covered = 0, skip;
	bool any = false;
	int err = 0;

	while (from <= s->len && !err) {
		int hit = search_from(s, from);

		if (hit < 0)
			return hit;
		if (!hit)
			break;
		if (s->start == s->end && any && s->end == covered) {
			if (s->end == s->len)
				break;
			tok_utf8_look(s->text + s->end, s->len - s->end, &skip);
			from = s->end + skip;
			continue;
		}
		if (s->start > covered)
			err = found(arg, covered, s->start, false);
		if (!err)
			err = found(arg, s->start, s->end, true);
		any = true;
		from = covered = s->end;
	}
	if (!err && covered < s->len)
		err = found(arg, covered, s->len, false);
	return err;
}

int tok_regex_each(const tok_regex *regex, const char *text, size_t len,
	int (*found)(void *arg, size_t start, size_t end, bool match), void *arg)
{
	struct search s = {.regex = regex, .text = text, .len = len};
	size_t steps = STEPS_BASE + STEPS_A_BYTE * len;
	int err = -ENOMEM;

	s.data = pcre2_match_data_create(1, NULL);
	s.context = pcre2_match_context_create(NULL);
	if (s.data && s.context) {
		pcre2_set_match_limit(s.context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
		pcre2_set_heap_limit(s.context, HEAP_KIB);
		err = each_match(&s, found, arg);
	}
	pcre2_match_context_free(s.context);
	pcre2_match_data_free(s.data);
	return err;
}
