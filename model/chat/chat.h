/*
 * model/chat/chat.h: chat templates. Private to model/chat/.
 *
 * A template is a Jinja program, and we do not run it. It is read into its statements (template.c), those that a
 * conversation of one system message, one user message and the start of an answer can never reach are left out (live.c),
 * and each of the others must be a statement that one of our forms knows (forms.c). The form then prints the text
 * (render.c). So a template is either understood as a whole or refused.
 */
#ifndef KVS_CHAT_H
#define KVS_CHAT_H

#include "../model.h"

/* A quotation mark around a string in a normalised statement, and a backquote inside of one. */
#define CHAT_QUOTE '`'
#define CHAT_BACKQUOTE '\x02'

enum chat_kind { CHAT_PRINT, CHAT_SET, CHAT_IF, CHAT_ELIF, CHAT_ELSE, CHAT_ENDIF, CHAT_FOR, CHAT_ENDFOR };

/*
 * One statement, in a single spelling: strings in backquotes and without escapes, neighbours joined; x['y'] is x.y; no
 * spaces but between words.
 */
struct chat_step {
	enum chat_kind kind;
	char *text; /* without "set", "if" and the like; "" for else and the ends */
};

struct chat_steps {
	struct chat_step *list; /* [count] */
	size_t count;
};

/* -EINVAL (damaged, text outside of statements, an unknown statement), -ENOMEM. The caller clears *out, on failure too. */
int chat_read_steps(const char *text, size_t bytes, const char *name, struct chat_steps *out);
void chat_clear_steps(struct chat_steps *steps);

/* Leave only prints and sets, and of these only such as may be reached. -EINVAL: branches do not match. */
int chat_keep_live(struct chat_steps *steps, const char *name);

enum chat_form { CHAT_CHATML, CHAT_LLAMA2, CHAT_LLAMA3, CHAT_MISTRAL };

struct kvs_chat {
	enum chat_form form;
	unsigned seen;        /* enum chat_effect of forms.c, or-ed */
	char *bos;            /* its text; NULL: the template prints none */
	char *default_system; /* NULL: none */
	char *start;          /* ChatML: what follows the head of the answer; NULL: nothing */
	char *knowledge;      /* Llama 3.1: the cutoff that its system message names */
	char *date;           /* the date there; NULL: today's */
	/*
	 * Mistral: in front of [INST], between it and the text, between the text and [/INST]; then the same where a system
	 * message is in it, or around the system message's own marks.
	 */
	char *pads[6];
};

/* What rules say of a template. */
enum chat_effect {
	CHAT_BOS = 1,
	CHAT_TURN = 2,         /* messages are printed in the form's way */
	CHAT_TRIM = 4,         /* without white space around them */
	CHAT_SYSTEM = 8,       /* system messages are printed */
	CHAT_TRIM_SYSTEM = 16, /* without white space around them */
	CHAT_DEFAULT = 32,     /* a system message where none is given */
	CHAT_START = 64,       /* the head of the answer */
	CHAT_HEAD = 128,       /* a system message is always there */
	CHAT_KNOWLEDGE = 256,
	CHAT_TODAY = 512, /* it names a date: */
	CHAT_DATE = 1024, /* this one */
	CHAT_NOW = 2048,  /* the day's */
	CHAT_BLOCK = 4096 /* Mistral: system messages have marks of their own */
};

/* Fill all of `chat` but bos from the live statements. -EINVAL: no form knows one of them. -ENOMEM. */
int chat_find_form(const struct chat_steps *steps, const char *name, struct kvs_chat *chat);

#endif
