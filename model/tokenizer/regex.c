/*
 * model/tokenizer/regex.c: regular expressions written for Oniguruma, run by PCRE2.
 *
 * Hugging Face compiles patterns with Oniguruma (Ruby syntax, Unicode 16). PCRE2 reads most constructs in use the same
 * way. The pattern is rewritten where it does not (white space, scripts), and a construct that could mean something
 * else is refused by name. PCRE2 may have another version of Unicode: a stand-in is matched for characters that differ
 * (stand_ins.c). Every match is limited in steps and memory, so that a hostile pattern ends in an error.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_PATTERN 4096  /* the longest in use has about 400 characters */
#define STEPS_BASE 100000 /* of one match; with so many per byte, \s+ on a text of spaces only still passes */
#define STEPS_A_BYTE 64
#define HEAP_KIB (256 * 1024u)

struct tok_regex {
	pcre2_code *code;
	enum tok_pattern kind;
};

/* Unicode's White_Space. PCRE2's \s has U+180E too, which lost the property in Unicode 6.3. */
#define SPACES "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                                     \
	"\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"            \
	"\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* ---- rewriting ---- */

struct rewrite {
	const char *in; /* what is left */
	struct tok_text out;
	bool in_class;
	char refused[32]; /* the construct that we refuse, if there is one */
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

/* White space, or everything else: bare inside a class, otherwise a class of its own. */
static int put_spaces(struct rewrite *re, bool negated)
{
	if (re->in_class)
		return put(re, negated ? NOT_SPACES : SPACES);
	return put(re, negated ? "[^" : "[") || put(re, SPACES "]") ? -ENOMEM : 0;
}

/* One character as it is. */
static int put_character(struct rewrite *re)
{
	size_t bytes;

	if (tok_utf8_look(re->in, strlen(re->in), &bytes) == TOK_UTF8_OK) {
		uint32_t code = tok_utf8_code(re->in, bytes);
		if (tok_unicode_stand_in(code, false) != code) /* the text has a stand-in in its place */
			return refuse(re, bytes);
	}
	re->in += bytes;
	return tok_text_append(&re->out, re->in - bytes, bytes);
}

/*
 * \p{NAME}, \P{NAME}, \p{^NAME}. To Oniguruma a name of more than two letters is a script; to PCRE2 a bare one means all
 * characters that are used with that script.
 */
static int rewrite_property(struct rewrite *re)
{
	const char *close = strchr(re->in, '}');
	bool negated = re->in[1] == 'P';
	const char *name = re->in + 3;
	char property[48];

	if (re->in[2] != '{' || !close || close - re->in > 30)
		return refuse(re, 3);
	if (*name == '^') {
		negated = !negated;
		name++;
	}
	snprintf(property, sizeof(property), "\\%c{%s%.*s}", negated ? 'P' : 'p', close - name > 2 ? "sc:" : "",
		(int)(close - name), name);
	re->in = close + 1;
	return put(re, property);
}

static int rewrite_escape(struct rewrite *re)
{
	char c = re->in[1], copy[3] = {'\\', c, 0};

	if (c == 'p' || c == 'P')
		return rewrite_property(re);
	if (c == 's' || c == 'S') {
		re->in += 2;
		return put_spaces(re, c == 'S');
	}
	/* Only letters and digits that mean the same to both; \w, \b, \h, \v, \xHH and \1 do not. */
	if (!c ||
		(c < 0x7f && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", c) &&
			!strchr("drntfae", c) && (re->in_class || !strchr("Az", c)) && !(c == 'x' && re->in[2] == '{')))
		return refuse(re, 2);
	re->in += 2;
	return put(re, copy);
}

/*
 * When case is ignored, Oniguruma also matches a pair of letters with the one character that folds to it ("ss" with
 * U+00DF), and outside ASCII it folds by its own Unicode. The group is checked up to its first closing parenthesis.
 */
static bool folds_alike(const char *group)
{
	static const char *const pairs[] = {"ss", "st", "ff", "fi", "fl"};
	size_t len = strcspn(group, ")");

	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)group[i] >= 0x80)
			return false;
		for (size_t p = 0; p < sizeof(pairs) / sizeof(pairs[0]); p++)
			if (i + 1 < len && !strncasecmp(group + i, pairs[p], 2))
				return false;
	}
	return true;
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
		if (!strcmp(known[i], "(?i:") && !folds_alike(re->in + 4))
			return refuse(re, 4 + strcspn(re->in + 4, ")"));
		re->in += strlen(known[i]);
		return put(re, known[i]);
	}
	re->in++;
	return put(re, "(");
}

/*
 * {n}, {n,} and {n,m}. With + after it, Ruby repeats the group, but PCRE2 makes it possessive; {n}? means one or none in
 * Ruby; and PCRE2 10.42 misses matches of a lazy count of \P{...} in text that is not ASCII.
 */
static int rewrite_brace(struct rewrite *re)
{
	size_t len = 1 + strspn(re->in + 1, "0123456789,");

	if (re->in[1] == ',' || (re->in[len] == '}' && (re->in[len + 1] == '+' || re->in[len + 1] == '?')))
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
	return put_character(re);
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
		return kvs_fail(-EINVAL, "%s: %s is not a regular expression that we can use: %s", file, where,
			(char *)message);
	}
	pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it, matching is slower but the same */
	return 0;
}

int tok_regex_create(const char *pattern, enum tok_pattern kind, const char *file, const char *where, tok_regex **out)
{
	bool literal = kind == TOK_PATTERN_LITERAL;
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
	regex->kind = kind;
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

/* 1: found; 0: none; or an error. */
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

/* Like Oniguruma's iterator: an empty match right after the last match does not count. */
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
	char *with_stand_ins = NULL;
	int err = regex->kind == TOK_PATTERN_LITERAL
			  ? 0
			  : tok_unicode_stand_in_text(text, len, regex->kind == TOK_PATTERN_NUMBERS, &with_stand_ins);

	if (err)
		return err;
	if (with_stand_ins)
		s.text = with_stand_ins;
	err = -ENOMEM;
	s.data = pcre2_match_data_create(1, NULL);
	s.context = pcre2_match_context_create(NULL);
	if (s.data && s.context) {
		pcre2_set_match_limit(s.context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
		pcre2_set_heap_limit(s.context, HEAP_KIB);
		err = each_match(&s, found, arg);
	}
	pcre2_match_context_free(s.context);
	pcre2_match_data_free(s.data);
	free(with_stand_ins);
	return err;
}
