/*
 * tools/run/run.h: what the subcommands of kvshare-run share: the options of a model, opening it, JSON and progress.
 */
#ifndef KVS_RUN_H
#define KVS_RUN_H

#include "../../model/model.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>

#define RUN_EXIT_USAGE 2
#define RUN_EXIT_INTERRUPTED 130 /* as a shell has it for SIGINT */

/* A subcommand, in the file of its name. */
struct run_subcommand {
	const char *name, *summary;
	const struct argp *argp;            /* its options, for help and completion; NULL where it has verbs */
	int (*run)(int argc, char **argv);  /* argv[0] is "kvshare-run NAME"; returns the exit status */
	const struct run_subcommand *verbs; /* NULL, or commands below this one, up to one without a name */
};
extern const struct run_subcommand run_bench_command, run_generate_command, run_eval_command, run_calibrate_command,
	run_study_command, run_plan_command, run_report_command, run_doctor_command;

/* `kvshare-run completion SHELL`, of commands up to NULL (completion.c). Returns the exit status. */
int run_print_completion(const struct run_subcommand *const *commands, const char *shell);

/* ---- options that all model commands share (options.c) ---- */

struct run_model_options {
	const char *dir, *device, *plan_path, *owners, *profile_path;
	int ctx_tokens, chunk_tokens; /* 0: the engine's defaults */
	enum kvs_dtype kv_dtype;
	bool kv_dtype_set, json, quiet, no_premap;
};

/* Argp children; a command's parser passes their inputs on, as child_inputs, at ARGP_KEY_INIT. */
extern const struct argp run_model_argp;   /* struct run_model_options */
extern const struct argp run_sharing_argp; /* struct run_model_options: its plan_path and owners */
extern const struct argp run_text_argp;    /* struct kvs_calib_text_options: how a text is cut (text_options.c) */

#define RUN_DEVICE_WORDS "auto|cuda|cuda:N|host"
#define RUN_DEVICE_HELP "auto (default): a GPU where there is one; host: the same kernels on the CPU"

/* A whole decimal number in [low, high]; ends in a usage error that names the option and the range. */
long run_parse_number(struct argp_state *state, const char *option, const char *text, long low, long high);
/* A number in [low, high], said as `legal`: "from 0 to 1". */
double run_parse_real(
	struct argp_state *state, const char *option, const char *text, double low, double high, const char *legal);
/* The index of `text` in `words`, which end in NULL. */
int run_parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words);
enum kvs_dtype run_parse_dtype(struct argp_state *state, const char *option, const char *text); /* f16, bf16 or f32 */
/* These only check, and give `text` back: what it says is usable without knowing device or model. */
const char *run_parse_device(struct argp_state *state, const char *text);
const char *run_parse_owners(struct argp_state *state, const char *text);

/* ---- a model that is open (session.c) ---- */

struct run_session {
	kvs_cu *cu;
	struct run_profile *profile; /* profile/profile.h; NULL: nobody asked for one */
	const char *profile_path;    /* to say what is in it at the end; NULL: not */
	kvs_checkpoint *ckpt;
	kvs_tokenizer *tokenizer;
	kvs_plan *plan;
	kvs_engine *engine;
	double load_s;
};

/* Opens all of it and shows a bar while weights load; on error what was opened is closed again. */
int run_session_open(const struct run_model_options *options, struct run_session *session);
/* All but the engine, for callers that open one of another shape. */
int run_session_open_model(const struct run_model_options *options, struct run_session *session);
void run_session_close(struct run_session *session);
/* A bar while weights load, as struct kvs_engine_options calls it; `arg` is not looked at. */
void run_show_load(void *arg, size_t done_bytes, size_t total_bytes);

/* ---- output (report.c) ---- */

double run_now_s(void); /* monotonic */
/* Prints kvs_error() behind the program's name; returns EXIT_FAILURE. */
int run_complain(void);
/* The whole file, or standard input for "-"; NUL-terminated; the caller frees it. */
int run_read_text(const char *path, char **text, size_t *bytes);
/* JSON has neither NaN nor infinity: null stands for both. */
json_t *run_json_number(double value);
json_t *run_json_device(const kvs_cu *cu);
json_t *run_json_model(const struct kvs_config *config);
json_t *run_json_memory(const struct kvs_engine_memory *memory);
/* Writes one object on stdout and drops it; NULL: there was no memory for it. -EIO where stdout takes no more. */
int run_print_json(json_t *object);
void run_print_memory_summary(const struct kvs_engine_memory *memory);

/* Makes the directory where there is none. -ENOTDIR, -EACCES and what mkdir says, named. */
int run_make_directory(const char *path);

/* A bar on stderr while something long runs, and only on a terminal. */
void run_progress_show(const char *what, size_t done, size_t total);
void run_progress_clear(void);

/* ---- standard streams (streams.c) ---- */

/* -o of every command that writes one file: "-" is standard output. What kvs_file_write() and run_flush_stdout() return. */
int run_write_output(const char *path, const char *text);
bool run_is_stdout(const char *path);
/* At the start, once: descriptors 0 to 2 are there, and what stdout did not take ends the program with EXIT_FAILURE. */
int run_open_streams(void);
/* -EIO with a message where stdout does not take all that was written. */
int run_flush_stdout(void);

/* ---- long work (watch.c) ---- */

/* A bar with the time that is left. A phase of the work ends where the total changes, or what is done falls back. */
struct run_watch {
	bool quiet, started;
	size_t first, done, total; /* of the phase */
	double start;
};
/*
 * From now on the first SIGINT, SIGTERM or SIGHUP asks work to stop, the second ends the program. Until there is something
 * to lose they end it at once.
 */
void run_watch_signals(void);
bool run_watch_stopped(void); /* asked to stop; as struct kvs_engine_options wants it */
/* As struct kvs_calib_progress calls it, with a struct run_watch: false when work should stop. */
bool run_watch_step(void *watch, const char *what, size_t done, size_t total);

#endif
