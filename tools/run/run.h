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

/* A subcommand, in the file of its name. */
struct command {
	const char *name, *summary;
	const struct argp *argp;           /* its options, for help and completion; NULL where it has verbs */
	int (*run)(int argc, char **argv); /* argv[0] is "kvshare-run NAME"; returns the exit status */
	const struct command *verbs;       /* NULL, or commands below this one, up to one without a name */
};
extern const struct command bench_command, generate_command, eval_command, calibrate_command, study_command,
	plan_command, doctor_command;

/* `kvshare-run completion SHELL`, of commands up to NULL (completion.c). Returns the exit status. */
int print_completion(const struct command *const *commands, const char *shell);

/* ---- options that all model commands share (options.c) ---- */

struct model_options {
	const char *dir, *device, *plan_path, *owners;
	int ctx_tokens, chunk_tokens; /* 0: the engine's defaults */
	enum kvs_dtype kv_dtype;
	bool kv_dtype_set, json, quiet, no_premap;
};

/* Argp children; a command's parser passes their inputs on, as child_inputs, at ARGP_KEY_INIT. */
extern const struct argp model_argp;   /* struct model_options */
extern const struct argp sharing_argp; /* struct model_options: its plan_path and owners */
extern const struct argp text_argp;    /* struct kvs_text_options: how a text is cut (text_options.c) */

#define DEVICE_WORDS "auto|cuda|cuda:N|host"
#define DEVICE_HELP "auto (default): a GPU where there is one; host: the same kernels on the CPU"

/* A whole decimal number in [low, high]; ends in a usage error that names the option and the range. */
long parse_number(struct argp_state *state, const char *option, const char *text, long low, long high);
/* A number in [low, high], said as `legal`: "from 0 to 1". */
double parse_real(
	struct argp_state *state, const char *option, const char *text, double low, double high, const char *legal);
/* The index of `text` in `words`, which end in NULL. */
int parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words);
enum kvs_dtype parse_dtype(struct argp_state *state, const char *option, const char *text); /* f16, bf16 or f32 */
/* These only check, and give `text` back: what it says is usable without knowing device or model. */
const char *parse_device(struct argp_state *state, const char *text);
const char *parse_owners(struct argp_state *state, const char *text);

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
/* All but the engine, for callers that open one of another shape. */
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
/* Writes one object on stdout and drops it; NULL: there was no memory for it. -EIO where stdout takes no more. */
int print_json(json_t *object);
void print_memory_summary(const struct kvs_engine_memory *memory);

/* Makes the directory where there is none. -ENOTDIR, -EACCES and what mkdir says, named. */
int make_directory(const char *path);

/* A bar on stderr while something long runs, and only on a terminal. */
void progress_show(const char *what, size_t done, size_t total);
void progress_clear(void);

/* ---- standard streams (streams.c) ---- */

/* -o of every command that writes one file: "-" is standard output. What kvs_file_write() and flush_stdout() return. */
int write_output(const char *path, const char *text);
bool is_stdout(const char *path);
/* At the start, once: descriptors 0 to 2 are there, and what stdout did not take ends the program with EXIT_FAILURE. */
int open_streams(void);
/* -EIO with a message where stdout does not take all that was written. */
int flush_stdout(void);

/* ---- long work (watch.c) ---- */

/* A bar with the time that is left. A phase of the work ends where the total changes, or what is done falls back. */
struct watch {
	bool quiet, started;
	size_t first, done, total; /* of the phase */
	double start;
};
/*
 * From now on the first SIGINT, SIGTERM or SIGHUP asks work to stop, the second ends the program. Until there is something
 * to lose they end it at once.
 */
void watch_signals(void);
bool watch_stopped(void); /* asked to stop; as struct kvs_engine_options wants it */
/* As struct kvs_calib_progress calls it, with a struct watch: false when work should stop. */
bool watch_step(void *watch, const char *what, size_t done, size_t total);

#endif
