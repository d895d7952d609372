/*
 * tools/run/run.h: what the subcommands of kvshare-run share: the options of a model, opening it, JSON and progress.
 */
#ifndef KVS_RUN_H
#define KVS_RUN_H

#include "../../model/model.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>

#define EXIT_USAGE 2
#define EXIT_INTERRUPTED 130 /* as a shell has it for SIGINT */

/* A subcommand: `argv[0]` is "kvshare-run NAME". Returns the exit status. */
typedef int command_fn(int argc, char **argv);
command_fn command_bench, command_generate, command_eval, command_calibrate, command_study, command_plan,
	command_doctor;

/* ---- options that all model commands share (options.c) ---- */

struct model_options {
	const char *dir, *device, *plan_path, *owners;
	int ctx_tokens, chunk_tokens; /* 0: the engine's defaults */
	enum kvs_dtype kv_dtype;
	bool kv_dtype_set, json, quiet, no_premap;
};

/* An argp child; a command's parser passes `struct model_options *` to it as child_inputs[0] at ARGP_KEY_INIT. */
extern const struct argp model_argp;
/* The same for how a text is cut (text_options.c): child_inputs[1], a struct kvs_text_options. */
extern const struct argp text_argp;

/* A whole decimal number in [low, high]; ends in a usage error that names the option and the range. */
long parse_number(struct argp_state *state, const char *option, const char *text, long low, long high);
double parse_real(struct argp_state *state, const char *option, const char *text);
/* The index of `text` in `words`, which end in NULL. */
int parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words);

/* ---- a model that is open (session.c) ---- */

struct session {
	kvs_cu *cu;
	kvs_checkpoint *ckpt;
	kvs_tokenizer *tokenizer;
	kvs_plan *plan;
	kvs_engine *engine;
	double load_s;
};

/* Opens all of it and shows a bar while weights load; on error what was opened is closed again. */
int session_open(const struct model_options *options, struct session *session);
/* All but the engine, for who opens one of another shape. */
int session_open_model(const struct model_options *options, struct session *session);
void session_close(struct session *session);
/* A bar while weights load, as struct kvs_engine_options calls it; `arg` is not looked at. */
void show_load(void *arg, size_t done_bytes, size_t total_bytes);

/* ---- output (report.c) ---- */

double now_s(void); /* monotonic */
/* Prints kvs_error() behind the program's name; returns EXIT_FAILURE. */
int complain(void);
/* The whole file, or standard input for "-"; NUL-terminated; the caller frees it. */
int read_text(const char *path, char **text, size_t *bytes);
/* JSON has neither NaN nor infinity: null stands for both. */
json_t *json_number(double value);
json_t *json_device(const kvs_cu *cu);
json_t *json_model(const struct kvs_config *config);
json_t *json_memory(const struct kvs_engine_memory *memory);
/* Writes one object on stdout and drops it; -EIO where stdout takes no more. */
int print_json(json_t *object);
void print_memory_summary(const struct kvs_engine_memory *memory);

/* Makes the directory where there is none. -ENOTDIR, -EACCES and what mkdir says, named. */
int make_directory(const char *path);

/* A bar on stderr while something long runs, and only on a terminal. */
void progress_show(const char *what, size_t done, size_t total);
void progress_clear(void);

/* ---- long work (watch.c) ---- */

/* A bar with the time that is left. A phase of the work ends where the total changes, or what is done falls back. */
struct watch {
	bool quiet, started;
	size_t first, done, total; /* of the phase */
	double start;
};
/* From now on the first SIGINT or SIGTERM asks work to stop, the second ends the program. */
void watch_signals(void);
/* As struct kvs_calib_progress calls it, with a struct watch: false when work shall stop. */
bool watch_step(void *watch, const char *what, size_t done, size_t total);

#endif
