/*
 * tools/run/run.h: the parts that the subcommands of kvshare-run share: options, an open model, output, long work.
 *
 * Private to tools/run/. A name that several files use starts with run_, in bench/ and plan/ with bench_ and plan_.
 */
#ifndef KVS_RUN_H
#define KVS_RUN_H

#include "../../model/model.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>

#define RUN_EXIT_USAGE 2
#define RUN_EXIT_INTERRUPTED 130 /* 128 + SIGINT, as shells report it */

/* A subcommand, in the file of its name. */
struct run_subcommand {
	const char *name, *summary;
	const struct argp *argp;            /* its options, for help and completion; NULL if it has verbs */
	int (*run)(int argc, char **argv);  /* argv[0] is "kvshare-run NAME"; returns the exit status */
	const struct run_subcommand *verbs; /* NULL, or commands below this one, up to one without a name */
};
extern const struct run_subcommand run_bench_command, run_generate_command, run_eval_command, run_calibrate_command,
	run_study_command, run_compare_command, run_plan_command, run_profile_command, run_attach_command,
	run_top_command, run_report_command, run_exec_command, run_inspect_command, run_probe_command,
	run_doctor_command;

/* `kvshare-run completion SHELL`; `commands` ends in NULL (completion.c). Returns the exit status. */
int run_print_completion(const struct run_subcommand *const *commands, const char *shell);

/* ---- options that all model commands share (options.c) ---- */

struct run_model_options {
	const char *dir, *device, *plan_path, *owners, *profile_path;
	int ctx_tokens, chunk_tokens; /* 0: the engine's defaults */
	int threads;                  /* 0: softcuda's default */
	int score_rows;               /* 0: the engine's default, for commands that score */
	enum kvs_dtype kv_dtype;
	bool kv_dtype_set, json, quiet, no_premap;
	enum kvs_policy policy; /* of commands that have the option; chunk_tokens is a pass then */
	bool keep_patch;        /* the command takes the plan's matrices out again, and puts them back in */
};

#define RUN_THREADS_MAX 1024 /* softcuda's own limit */

/* Argp children; a command's parser sets their inputs (child_inputs) at ARGP_KEY_INIT. */
extern const struct argp run_model_argp;   /* struct run_model_options */
extern const struct argp run_sharing_argp; /* struct run_model_options: its plan_path and owners */
extern const struct argp run_text_argp;    /* struct kvs_calib_text_options: how a text is cut (text_options.c) */

#define RUN_DEVICE_WORDS "auto|cuda|cuda:N|host"
#define RUN_DEVICE_HELP "auto (default): a GPU where there is one; host: the same kernels on the CPU"

/* A whole decimal number in [low, high]; ends in a usage error that names the option and the range. */
long run_parse_number(struct argp_state *state, const char *option, const char *text, long low, long high);
/* Of --fit-samples: "16" or "16x1024" (text_options.c). */
struct kvs_fit_samples run_parse_fit_samples(struct argp_state *state, const char *text);
/* A number in [low, high], said as `legal`: "from 0 to 1". */
double run_parse_real(
	struct argp_state *state, const char *option, const char *text, double low, double high, const char *legal);
/* The index of `text` in `words`, which end in NULL. */
int run_parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words);
enum kvs_dtype run_parse_dtype(struct argp_state *state, const char *option, const char *text); /* f16, bf16 or f32 */
/* These check all that can be checked without a device or a model, and return `text`. */
const char *run_parse_device(struct argp_state *state, const char *text);
const char *run_parse_owners(struct argp_state *state, const char *text);

/* ---- an open model (session.c) ---- */

struct run_session {
	kvs_cu *cu;
	struct run_profile *profile; /* profile/profile.h; NULL: nobody asked for one */
	const char *profile_path;    /* to say what is in it at the end; NULL: not */
	kvs_checkpoint *ckpt;
	kvs_tokenizer *tokenizer;
	kvs_plan *plan;
	kvs_patch *patch; /* the plan's refitted matrices; NULL: it has none, or the engine has them (keep_patch) */
	kvs_engine *engine;
	double load_s;
};

/*
 * kvs_cu_open(), with the host device in granules of 64 KiB unless SOFTCUDA_GRANULARITY is set. NULL: "auto", which takes the host
 * device, with a warning, in place of a GPU that this build has no kernels for.
 */
int run_device_open(const char *device, kvs_cu **out);
/* Opens all of it, with a progress bar while weights load. On error nothing stays open. */
int run_session_open(const struct run_model_options *options, struct run_session *session);
/* All but the engine, for callers that open one with options of their own. */
int run_session_open_model(const struct run_model_options *options, struct run_session *session);
void run_session_close(struct run_session *session);
/* The progress callback of struct kvs_engine_options: a bar while weights load. `arg` is unused. */
void run_show_load(void *arg, size_t done_bytes, size_t total_bytes);

/* ---- policies (policy.c) ---- */

#define RUN_POLICY_WORDS "owner|last"
enum kvs_policy run_parse_policy(struct argp_state *state, const char *text);
const char *run_policy_name(enum kvs_policy policy);
/* If calibrate found the plan in `plan_path` under another policy. `plan_path` NULL: nothing. */
void run_policy_warn(const char *plan_path, const kvs_plan *plan, enum kvs_policy policy);

/* ---- refitted matrices of a plan (patch.c) ---- */

/* Where a plan's patch is: PLAN.patch.safetensors for PLAN.json. The caller frees *path. -ENOMEM. */
int run_patch_path(const char *plan_path, char **path);
/* Whether the name ends in .json: otherwise a patch that lies there may be that of NAME.json. */
bool run_patch_is_named(const char *plan_path);
/*
 * Whether a patch may be written beside a plan of this name. -EINVAL: it is not so named; or is a symbolic link, so that the plan
 * would go where it leads to, and the patch not.
 */
int run_patch_check_name(const char *plan_path);
/* As run_patch_path(), for a patch whose plan is not written yet: PLAN.patch.new. */
int run_patch_new_path(const char *plan_path, char **path);
/* As run_patch_path(), for the matrices of a fit that was stopped: PLAN.patch.part. */
int run_stopped_path(const char *plan_path, char **path);
/*
 * The patch of the plan in `plan_path` (NULL: none); *out is NULL if it has none. -ENOENT (the plan names one, and it is
 * not there), -EINVAL (one is there, and the plan does not name it; it is damaged, or another plan's or model's).
 */
int run_patch_load(const char *plan_path, const kvs_plan *plan, const kvs_checkpoint *ckpt, kvs_patch **out);
/*
 * The digest of the patch whose matrices are in the weights of the model that the plan is for (`plan convert --to checkpoint`);
 * "": they are not. -EINVAL: the record is damaged.
 */
int run_patch_in_weights(const kvs_plan *plan, char digest[KVS_PATCH_DIGEST]);
/* kvs_plan_check() against a checkpoint; the message tells where the plan's matrices are in another one's weights. */
int run_plan_check(const kvs_plan *plan, const kvs_checkpoint *ckpt);
/* For commands that pass on the plan without its patch. `plan_path` NULL: nothing. */
void run_patch_warn_left_out(const char *plan_path, const kvs_plan *plan);

/* ---- the loss on a text (text/score.c) ---- */

/*
 * The sum of the losses, in nats, of `count` tokens that are cut into windows of the engine's context, and the number of tokens
 * that were predicted: window k predicts tokens k*ctx+1 .. k*ctx+ctx from a fresh cache that starts at token k*ctx. -EIO
 * also where it is not a number.
 */
int run_score_windows(
	kvs_engine *engine, const int32_t *ids, size_t count, bool quiet, double *nll_sum, size_t *predicted);
/* Without --ctx a window is the model's context, but no more than 1024, which people use to compare perplexities. */
int run_default_window(struct run_model_options *model);

/* ---- output (report.c) ---- */

double run_now_s(void); /* monotonic */
/* Prints kvs_error() after the program's name; returns EXIT_FAILURE. */
int run_complain(void);
/* The whole file, or standard input for "-"; NUL-terminated; the caller frees it. */
int run_read_text(const char *path, char **text, size_t *bytes);
/* JSON has neither NaN nor infinity: null stands for both. */
json_t *run_json_number(double value);
json_t *run_json_device(const kvs_cu *cu);
json_t *run_json_model(const struct kvs_config *config);
json_t *run_json_memory(const struct kvs_engine_memory *memory);
/* Prints an object to stdout and releases it. -ENOMEM (also if `object` is NULL), -EIO (stdout cannot be written). */
int run_print_json(json_t *object);
void run_print_memory_summary(const struct kvs_engine_memory *memory);

/* Creates the directory unless it exists. -ENOTDIR, -EACCES or mkdir's errno. */
int run_make_directory(const char *path);

/*
 * Progress on stderr: a bar on a terminal; elsewhere a line each KVSHARE_PROGRESS_SECONDS (30; 0: none). `left`: the time
 * left, or "".
 */
void run_progress_show(const char *what, const char *left, size_t done, size_t total);
void run_progress_clear(void);

/* ---- standard streams (streams.c) ---- */

/*
 * -o of every command that writes one file: "-" is standard output. Errors are those of kvs_file_write() and
 * run_flush_stdout().
 */
int run_write_output(const char *path, const char *text);
/* An empty file in $TMPDIR, or else /tmp, which the caller unlinks; its path goes to `out`. What making it answers. */
int run_make_temporary(const char *name, char *out, size_t bytes);
bool run_is_stdout(const char *path);
/*
 * Call once at the start: opens missing descriptors 0 to 2; from then on lost output makes the exit status
 * EXIT_FAILURE.
 */
int run_open_streams(void);
/* -EIO if some of the output to stdout was lost. */
int run_flush_stdout(void);

/* ---- long work (watch.c) ---- */

/* Progress with the time left. A new phase begins when the total changes or `done` decreases. */
struct run_watch {
	bool quiet, started;
	/* Of work in parts, in one unit: all of it, the parts that are done, the one that runs. whole 0: it has no parts. */
	double whole, before, part;
	double first, done, total, start, latest; /* start, latest: times, in seconds */
};
/* The next part of the work, and its cost; `whole` is the cost of all. */
void run_watch_part(struct run_watch *watch, double cost);
/*
 * From this call on, the first SIGINT, SIGTERM or SIGHUP asks the work to stop, and the second ends the program. Call it
 * when there is something to lose; until then a signal ends the program at once.
 */
void run_watch_signals(void);
bool run_watch_stopped(void); /* a signal has asked to stop; also the callback of struct kvs_engine_options */
/* The callback of struct kvs_calib_progress, with a struct run_watch. False: the work should stop. */
bool run_watch_step(void *watch, const char *what, size_t done, size_t total);

#endif
