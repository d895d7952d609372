/*
 * calib/calib.h: which layers can read the KV cache of which others, and the loss in quality that follows.
 *
 * A text is cut into samples, which a search runs, and into windows after them, on which plans are measured. A capture
 * holds the unshared model's state on the samples: mean K and V of each layer, and the last hidden states. A search
 * walks pairs of layers and yields a plan with every trial on the way; a measure gives the cost of a plan on the
 * windows.
 *
 *   kvs_calib_text_cut(tokenizer, bytes, count, &text_options, &text);
 *   kvs_calib_open_engine(cu, ckpt, NULL, &text, 1, &engine);
 *   kvs_capture_run(engine, &text, NULL, &capture);
 *   kvs_search_run(engine, &text, &capture, &search_options, &result);
 *   kvs_search_plan(&result, &result.best, &search_options, &text, &model, true, &plan);
 *   kvs_plan_save(plan, "plan.json");
 *
 * Sources: "paper" is KVSharer, arXiv 2410.18517; "code" is its reference, github.com/yangyifei729/KVSharer at
 * 39e5c191, test_llama.ipynb. Where they differ, both are here. docs/calibration.md explains the formulas and how to
 * read results.
 *
 * Everything returns 0 or a negative errno with a message in kvs_error(). -ECANCELED: the progress callback asked to
 * stop.
 */
#ifndef KVS_CALIB_H
#define KVS_CALIB_H

#include "../model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- progress ---- */

/*
 * `step` hears of the activity and its progress, and returns false to stop; it may be NULL. `total` stays the same within one
 * call of a function below, and `done` grows up to it.
 */
struct kvs_calib_progress {
	bool (*step)(void *arg, const char *what, size_t done, size_t total);
	void *arg;
};

/* ---- text (text.c) ---- */

enum kvs_sample_by {
	KVS_SAMPLE_RUN, /* consecutive runs of the text's tokens */
	KVS_SAMPLE_LINE, /* the first tokens of each line; shorter lines are skipped. The code's: its tokenizer cuts lines off */
	KVS_SAMPLE_SPREAD /* runs at even distances over the whole text, and windows between them */
};

#define KVS_CALIB_SAMPLES 30 /* paper and code */

struct kvs_calib_text_options {
	enum kvs_sample_by by;
	int samples, sample_tokens;     /* 0: KVS_CALIB_SAMPLES and 64, as in paper and code */
	int held_tokens, window_tokens; /* most tokens to measure on, and the length of a window; 0: 1024 and 256 */
	bool need_held;                 /* fail if no text is left after the samples */
};

struct kvs_calib_text {
	int samples, sample_tokens, skipped_lines;
	int32_t *ids; /* [samples][sample_tokens] */
	int windows, window_tokens;
	int32_t *window_ids, *window_targets; /* [windows][window_tokens]; a target is the token after its id */
	bool held_back;                       /* false: no text was left, the windows are the samples themselves */
	enum kvs_sample_by by;
	char digest[17]; /* of the text's bytes, FNV-1a 64 in hex */
};

/*
 * Cut a text. The windows begin where the samples end, or lie between them (spread); if fewer than 17 tokens are left there, they are the samples
 * themselves, or an error with need_held. -EINVAL (too few tokens or lines, with their number; options), -ENOMEM.
 */
int kvs_calib_text_cut(const kvs_tokenizer *tok, const char *text, size_t bytes,
	const struct kvs_calib_text_options *options, struct kvs_calib_text *out);
/*
 * Windows alone: whole windows of `window_tokens` (0: 256) from the first `tokens` tokens of a text (0: 1024), or from
 * all of a shorter one. -EINVAL (the text is too short), -ENOMEM.
 */
int kvs_calib_windows_cut(const kvs_tokenizer *tok, const char *text, size_t bytes, int tokens, int window_tokens,
	struct kvs_calib_text *out);
void kvs_calib_text_clear(struct kvs_calib_text *text);

/*
 * An engine with room for each of `count` texts. Of `base` (NULL: defaults) only the part that does not depend on a
 * plan counts; its chunk_tokens is the number of rows in a batch, at least one sample or window.
 */
int kvs_calib_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const struct kvs_engine_options *base,
	const struct kvs_calib_text *texts, size_t count, kvs_engine **out);

/* ---- capture (capture.c) ---- */

enum kvs_distance {
	/* ‖A − B‖₂ over head_dim for each position and KV head, then the mean of these. Code, cell "compute distances". */
	KVS_DISTANCE_CODE,
	/* ‖A − B‖₂ of the flattened tensors. Paper, section 3. */
	KVS_DISTANCE_PAPER
};

struct kvs_capture {
	int layers, samples, tokens, kv_heads, head_dim, hidden_size;
	double *k, *v; /* [layer][token][kv_head][head_dim]: mean over samples, K after RoPE, as in the cache */
	float *hidden; /* [sample][token][hidden]: the unshared model's, after the final norm */
};

/* Runs the engine without a plan over all samples. -EIO if the model yields something that is not a number. */
int kvs_capture_run(kvs_engine *engine, const struct kvs_calib_text *text, const struct kvs_calib_progress *progress,
	struct kvs_capture *out);
/* Frees k and v only: a search needs them for distances alone, and they are most of the memory. */
void kvs_capture_drop_means(struct kvs_capture *capture);
void kvs_capture_clear(struct kvs_capture *capture);
/* k[i * layers + j], v[i * layers + j]: distance of the means of layers i and j. */
void kvs_capture_distances(const struct kvs_capture *capture, enum kvs_distance kind, double *k, double *v);

/* ---- owner maps and pairs (pairs.c) ---- */

enum kvs_share_what { KVS_SHARE_KV, KVS_SHARE_K, KVS_SHARE_V };

struct kvs_pair {
	enum kvs_share_what what;
	int layer, owner; /* owner < layer */
	double distance;
};

enum kvs_order { KVS_ORDER_DISSIMILAR, KVS_ORDER_SIMILAR, KVS_ORDER_RANDOM };

/*
 * owner[layer] = to, with the consequences (code, re_map): from the first layer up, a layer that is not its own owner
 * takes the owner of its owner. So a chain collapses to its root, and readers of `layer` read its new owner. An
 * idempotent map stays idempotent.
 */
void kvs_owners_remap(int *owner, int layers, int layer, int to);

/*
 * All pairs (layer, owner < layer) that may share at all: windows equal, layer not among the last `protect_last`.
 * Ordered by distance, ties by layer, then owner; or at random: Fisher and Yates' shuffle, from the end, by splitmix64
 * of `seed` modulo the number of choices.
 *
 * The distance of K and V together is (d_K + d_V) / 2 (code; the paper gives no rule, so its norm uses this one too).
 * `split`: a pair for each of them; as K is larger than V by nature, each distance is divided by the mean of its kind.
 */
struct kvs_pair_options {
	enum kvs_distance distance;
	enum kvs_order order;
	uint64_t seed;
	int protect_last;
	bool split;
};
int kvs_pairs_list(const struct kvs_capture *capture, const struct kvs_config *config,
	const struct kvs_pair_options *options, struct kvs_pair **out, size_t *count);
/* The largest number of layers that can share. */
int kvs_pairs_most_shared(const struct kvs_config *config, int protect_last);

/* ---- reruns (rerun.c) ---- */

/*
 * Batches that run again and again while plans change from some layer on. Residuals of tokens 0 .. tokens - 1 of slot 0
 * are kept on the device, f32 [copies][tokens][hidden]: copies - 1 are the inputs of layers at even distances (at most
 * as many copies as layers), and one is the input of the layer that was rerun last. The engine must outlive it, and
 * have been opened with share_by_pointer. -EINVAL, -ENOMEM.
 */
typedef struct kvs_rerun kvs_rerun;
int kvs_rerun_create(kvs_engine *engine, int tokens, int copies, kvs_rerun **out);
void kvs_rerun_free(kvs_rerun *rerun);
/*
 * As kvs_engine_run_batch(), to the bit, but skips layers whose result is still that of the batch's last rerun: all
 * below the highest kept residual that is not above `layer` and below which the last plan and the present one agree.
 * The first rerun runs all layers. Residuals are kept at `layer` (1 and up), where the next plans are expected to
 * differ, and below. A rerun then costs (layers - layer) / layers of a run, and more by the layers between when `layer`
 * rises.
 *
 * The batch must have the ids, and the division into sequences, that it had when its tokens were rerun before. After
 * anything else wrote or truncated these tokens of slot 0, the next rerun is a whole run. -EINVAL (nothing is kept of
 * these tokens; the batch does not fit; an engine with KVS_POLICY_LAST), -ENOMEM, -EIO.
 */
int kvs_rerun_batch(kvs_rerun *rerun, const struct kvs_batch *batch, int layer);

/* ---- measures (measure.c) ---- */

enum kvs_cosine {
	/* cos of the flattened [token][hidden] of each sample, then the mean over samples. Code. */
	KVS_COSINE_CODE,
	/* the mean over samples of [token][hidden], then cos of the flattened means. Paper, section 3. */
	KVS_COSINE_PAPER
};

/*
 * The cosine of the last hidden states with `plan` and those of the capture. `rerun`: of all samples, so that only the layers from the
 * first one on run that differs from the plan before; NULL: whole runs. The same bits.
 */
int kvs_measure_cosine(kvs_engine *engine, kvs_rerun *rerun, const struct kvs_calib_text *text,
	const struct kvs_capture *capture, const kvs_plan *plan, enum kvs_cosine kind, double *cosine);

/* Mean next-token loss over the windows, in nats. `nll_of` [windows * window_tokens] takes each token's, or is NULL. */
int kvs_measure_nll(
	kvs_engine *engine, const struct kvs_calib_text *text, const kvs_plan *plan, float *nll_of, double *nll);

/*
 * The unshared model's predictions on the windows, with which changed models are compared. Creating it, and each
 * comparison, leave the engine with the plan that they ran, and tokens in slot 0. They tell `progress` (NULL: nobody)
 * the number of tokens done. -EIO (the loss is not a number; the device), -ENOMEM, -ECANCELED.
 */
typedef struct kvs_reference kvs_reference;
int kvs_reference_create(kvs_engine *engine, const struct kvs_calib_text *text,
	const struct kvs_calib_progress *progress, kvs_reference **out);
void kvs_reference_free(kvs_reference *reference);
double kvs_reference_nll(const kvs_reference *reference); /* the unshared model's loss */

struct kvs_quality {
	double nll, full_nll;  /* nats a token */
	double top1_agreement; /* fraction of tokens for which both models have the same likeliest token */
	double kl;             /* mean KL(full ‖ shared) of the next token's distribution, nats */
	size_t tokens;
};
int kvs_measure_quality(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const kvs_plan *plan, const struct kvs_calib_progress *progress, struct kvs_quality *out);

/* ---- baselines: the proposals of others (neighbours.c, merge.c) ---- */

/*
 * `share` layers that read the layer below them, spread evenly; if half of the layers share, it is every second one, as
 * in cross-layer attention (CLA, arXiv 2405.12981). Below means the next lower one with the same attention window.
 * owners [layers]. -ERANGE (fewer layers have such a neighbour), -ENOMEM.
 */
int kvs_neighbours_spread(const struct kvs_config *config, int share, int *owners);
/*
 * The `share` disjoint pairs of neighbours whose mean K and V have the least sum of angles, which is similarity in
 * MiniCache (arXiv 2405.14366). owners[upper] = lower, [layers]. -ERANGE, -ENOMEM.
 */
int kvs_neighbours_similar(const struct kvs_capture *capture, const struct kvs_config *config, int share, int *owners);

/*
 * Turns both vectors to one direction, at 0.6 of the arc from lower to upper, and keeps their lengths (MiniCache,
 * equations 2 and 3, without its retention of distinct tokens). f32 [dim].
 */
void kvs_merge_vectors(float *lower, float *upper, int dim);
/*
 * The quality of the unshared model when it decodes the windows token by token, and the K and V of each token in layers
 * l and owners[l] are merged. Otherwise as kvs_measure_quality().
 */
int kvs_measure_merged(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const int *owners, const struct kvs_calib_progress *progress, struct kvs_quality *out);

/* ---- search (search.c, search_nll.c) ---- */

enum kvs_method {
	KVS_METHOD_KVSHARER, /* the paper's walk: see kvs_search_run() */
	KVS_METHOD_NLL,      /* greedy by measured loss */
	KVS_METHOD_AUTO,     /* the walks dissimilar first and similar first, and nll: the least loss wins */
	KVS_METHOD_REFIT     /* greedy by what compensation leaves of each pair's damage */
};

enum kvs_walk { KVS_WALK_DISSIMILAR, KVS_WALK_SIMILAR, KVS_WALK_RANDOM, KVS_WALK_NLL, KVS_WALK_REFIT, KVS_WALK_COUNT };
const char *kvs_walk_name(enum kvs_walk walk);

struct kvs_trial {
	enum kvs_walk walk;
	enum kvs_share_what what;
	int layer, owner; /* as paired; in a chain, the layer then reads the root of `owner` */
	double distance;
	double cosine; /* NAN with nll, which does not measure it */
	/*
	 * With nll, else NAN: the loss of the first `tokens` of the windows, and the standard error of what the pair adds to it (of
	 * the mean difference between the tokens' losses with and without). In the first step a trial goes on as long as the pair may still be
	 * the cheapest.
	 */
	double nll, nll_error;
	int tokens;
	/*
	 * Refit only: the mean square error behind the attention that is left of what the attention adds, and, of the best owner
	 * of each layer, in a second trial, the mean KL(original || with this pair) of the predictions, else NAN.
	 */
	double left, kl;
	bool accepted;
};

#define KVS_THRESHOLD 0.5 /* of the reference code and the paper */
struct kvs_search_options {
	enum kvs_method method;
	int share;                     /* layers that should share; with split_kv twice as many tensors, K or V */
	struct kvs_pair_options pairs; /* its order counts for KVS_METHOD_KVSHARER only */
	enum kvs_cosine cosine;
	double threshold;       /* a pair is kept if the cosine is above it; usually KVS_THRESHOLD */
	enum kvs_policy policy; /* what the engine was opened with: it decides all losses and cosines */
	int pass_tokens;        /* the engine's kvs_engine_pass_tokens() */
	bool plans_alone; /* leave losses and cosines of whole plans NAN, for callers that measure them; with one walk only */
	bool sweep;       /* also keep, and measure, the plan for every number of layers up to `share` */
	/* Free the capture's means once pairs are ordered: a walk has no use for them. */
	bool drop_means;
	const kvs_checkpoint *ckpt; /* refit: whose matrices the engine holds */
	/* Trials of a stopped search: as long as the same ones come up, they are not run again. */
	const struct kvs_trial *replay;
	size_t replay_count;
	double replay_full_nll; /* kvs_search_full_nll() of their plan; 0: unknown */
	struct kvs_calib_progress progress;
};

enum kvs_search_end {
	KVS_SEARCH_COMPLETE,
	KVS_SEARCH_EXHAUSTED, /* no pair is left, and too few layers share (the code ends like this; the paper gives up) */
	KVS_SEARCH_STOPPED    /* by the callback; the result so far is valid */
};

/* A plan on the way. */
struct kvs_search_point {
	enum kvs_walk walk;
	int tensors;              /* that share: 2 for a layer's K and V */
	int *k_owners, *v_owners; /* [layers] */
	double nll;               /* NAN: not measured */
};

struct kvs_search_result {
	int layers;
	enum kvs_search_end end;
	struct kvs_search_point best;
	double full_nll;
	double cosine; /* of the best plan, on the samples */
	struct kvs_trial *trials;
	size_t trial_count, replayed;
	struct kvs_search_point walks[KVS_WALK_COUNT]; /* the end of each walk; k_owners NULL: it was not walked */
	struct kvs_search_point *sweep;                /* [sweep_count], for 1, 2, ... layers */
	size_t sweep_count;
	double search_s, measure_s; /* time of the trials and around them; time of measuring whole plans */
};

/*
 * About how many tokens go through the whole model until such a piece of work is done, to weigh pieces against each other
 * (cost.c).
 */
double kvs_capture_cost(const struct kvs_calib_text *text);
double kvs_search_cost(const struct kvs_search_options *options, const struct kvs_calib_text *text, int layers);
double kvs_compensate_cost(const struct kvs_calib_text *text);

/*
 * Find a plan. The walk (paper, algorithm 1; code, last cells): for each pair in order, skip it if its layer shares
 * already; else remap, run the samples, and keep the map if the cosine of the hidden states is above the threshold;
 * stop when `share` layers share. An owner may itself come to share later: its readers then move to its new owner. A trial runs the layers
 * from the first that reads otherwise than in the trial before, and up to an eighth of the model below it (owner policy).
 *
 * nll: each step takes the pair that raises the measured loss least. A pair's loss from an earlier step stands in until
 * the pair looks cheapest (lazy evaluation as in accelerated greedy, Minoux 1978; sharing is not submodular, so it is a
 * heuristic here). A trial runs the layers from the pair's own up, and no more of those below than it must; on a quarter, half or
 * all of the windows, as long as the pair may be the cheapest by two standard errors.
 *
 * refit: for each pair of a layer with one of three owners below it, or layer 0, W_q and W_o are fitted alone on about 2,048
 * tokens of the samples (compensate/pair_costs.c), and the pairs that leave least are taken. The capture may be NULL: no distances or
 * cosines are measured. The plan's own loss is measured without the matrices, which kvs_compensate() makes for the whole plan.
 *
 * -EINVAL (share out of range; options that are not the engine's; trials of a model with another loss; a model of one layer), -ECANCELED if stopped before the first walk. A later
 * stop ends in KVS_SEARCH_STOPPED with a valid best plan, whose figures are NAN if they had not been measured. So does a failure after
 * the first trial (-EIO of the device, -ENOMEM), which is returned all the same: its trials can be gone on from. `out` is cleared by
 * the caller in each case; without a best plan it is empty.
 */
int kvs_search_run(kvs_engine *engine, const struct kvs_calib_text *text, struct kvs_capture *capture,
	const struct kvs_search_options *options, struct kvs_search_result *out);
/* Whether these options suit a model of that shape, to be asked before anything is loaded. -EINVAL as above. */
int kvs_search_check(const struct kvs_search_options *options, const struct kvs_config *config);
void kvs_search_result_clear(struct kvs_search_result *result);

/* ---- records (record.c) ---- */

/*
 * A plan for a point of the result, which names the model and the search ("calibration": text digest, samples, tokens,
 * order, distance, threshold, cosine, trials, nll). `with_trials` false leaves the trials out.
 */
int kvs_search_plan(const struct kvs_search_result *result, const struct kvs_search_point *point,
	const struct kvs_search_options *options, const struct kvs_calib_text *text, const struct kvs_plan_model *model,
	bool with_trials, kvs_plan **out);
/*
 * The trials in a plan that kvs_search_plan() made, for `replay`; the caller frees *trials, which is unchanged on
 * failure. -EINVAL (the plan's search had another text or other options: the message names the difference; trials are
 * damaged).
 */
int kvs_search_replay(const kvs_plan *plan, const struct kvs_search_options *options, const struct kvs_calib_text *text,
	struct kvs_trial **trials, size_t *count);
/* The loss without sharing that the search of a plan measured; 0: it did not. */
double kvs_search_full_nll(const kvs_plan *plan);
/* The sweep as JSON, and as an SVG of loss against KV memory. Each file is written aside and renamed. -EIO. */
int kvs_search_write_sweep(const struct kvs_search_result *result, const char *json_path, const char *svg_path);

/* ---- compensation (compensate/) ---- */

enum kvs_refit_kind {
	KVS_REFIT_QUERIES = 1, /* W_q of layers that borrow K */
	KVS_REFIT_OUTPUTS = 2, /* W_o of layers that borrow */
	KVS_REFIT_ABOVE = 4,   /* W_o of the other layers above the first that borrows */
	KVS_REFIT_DOWN = 8,    /* W_down of all layers from the first that borrows on */
	KVS_REFIT_ALL = 15,
	/* A skip's two matrices (see patches in model.h): in results, not asked for by these */
	KVS_REFIT_SKIP_A = 16,
	KVS_REFIT_SKIP_B = 32
};

/* A refitted matrix, with its name in the checkpoint; `values` are rounded to `dtype`. */
struct kvs_refit {
	char name[96];
	enum kvs_refit_kind kind;
	int layer, rows, cols;
	enum kvs_dtype dtype; /* as the checkpoint stores it; of a quantised one, the type of its K and V */
	float *values;        /* [rows][cols] */
	double strength;      /* of the ridge; NAN for queries */
	/*
	 * With the old matrix and with this: the mean square error of the residual on the fit's text; of queries the mean of
	 * KL(original attention || this) over heads, on the part of that text that is held back from them; of a skip with W_o
	 * alone, and with both; of a linear map in place of attention with nothing there, and with the map.
	 */
	double before, after;
};

struct kvs_compensate_options {
	unsigned matrices; /* kvs_refit_kind, added up; 0: all */
	double ridge;      /* of W_o, and its matrix is taken in any case; 0: strengths are chosen */
	int skip;          /* the rank of the skip that layers get which take both K and V of others; 0: none */
	/*
	 * Such layers get a linear map of their normed input in place of their attention (NBL, arXiv 2505.21077): for comparison, in
	 * studies. Its two matrices come as a skip's of full rank, beside a W_o of zeros. Neither with `skip` nor with `stopped`.
	 */
	bool linear;
	/*
	 * A file: a fit that is stopped leaves the matrices of its finished layers in it, and with `resume` one goes on from there.
	 * Whoever has a patch of the whole fit removes it. NULL: none.
	 */
	const char *stopped;
	bool resume;
};

struct kvs_compensation {
	struct kvs_refit *refits; /* [count], by layer */
	size_t count;
	int layers;              /* that are finished: of a fit that was stopped, those whose matrices the file has */
	int tokens;              /* that the fit saw */
	int skip;                /* the rank that was asked for */
	bool queries_normalised; /* the model normalises its queries (QK norm), so W_q was left as it is */
	double plain_nll, nll;   /* of the windows: the plan without, and with the refitted matrices */
	bool applied;            /* the second is lower */
};

/*
 * Refit W_q, W_o and W_down so that a model with this plan follows the original's residual as nearly as it can, in the order
 * of the layers: each sees the refits of those below. docs/compensation.md has the formulas. The samples are fitted on, a
 * quarter of them to choose strengths and steps; a matrix that does not help there stays as it is. The plan's loss on
 * the windows is measured before and after. What grows with the text is in a temporary file.
 *
 * The engine must hold the checkpoint's own matrices. It keeps the plan, and the refitted matrices whether they help or not. A
 * plan without borrowers gives no refits. A fit that goes on from a file gives the same bits as one that was not stopped: both
 * models walk up again, which takes one run of each layer that is finished, or two, and no fits.
 *
 * -EINVAL (too little text, or the samples are all there is: the message has the number; a file of another text, plan,
 * model, of other options, cut or changed), -ENOENT (no such file), -EIO (statistics that are not numbers or singular; the
 * temporary file; the file), -ENODEV (no LAPACK), -ENOMEM, -ECANCELED. On failure there are no refits; with -ECANCELED
 * out->layers is above 0 where the file has something to go on from.
 */
int kvs_compensate(kvs_engine *engine, const kvs_checkpoint *ckpt, const struct kvs_calib_text *text,
	const kvs_plan *plan, const struct kvs_compensate_options *options, const struct kvs_calib_progress *progress,
	struct kvs_compensation *out);
/* The samples of a fit: `count` (0: as usual) of `tokens` each (0: 1,024). */
struct kvs_fit_samples {
	int count, tokens;
};
/*
 * Cuts the samples of a fit, spread over the text: so many and no fewer; or as usual 16 of 1,024 tokens, or 8 or 4 of 1,024 or of
 * 256 where the text has no room for more. Where the model takes fewer tokens they are shorter. Of the options held_tokens and
 * window_tokens count. -EINVAL (the text is too short), -ENOMEM.
 */
int kvs_compensate_cut(const kvs_tokenizer *tok, const struct kvs_config *config, const char *bytes, size_t count,
	const struct kvs_calib_text_options *options, struct kvs_fit_samples fit, struct kvs_calib_text *out);
/* The rank with which a skip has as many numbers as the K and V projections that it stands in for. */
int kvs_skip_rank(const struct kvs_config *config);
/* Whether this text and model can be fitted at all, to be asked before anything runs. -EINVAL as above. */
int kvs_compensate_check(const struct kvs_config *config, const struct kvs_calib_text *text,
	const struct kvs_compensate_options *options);
/* Whether all W_q, W_o and W_down are numbers; reads them all. -EINVAL names the first that is not; -ENOMEM, -EIO. */
int kvs_compensate_check_weights(const kvs_checkpoint *ckpt);
void kvs_compensation_clear(struct kvs_compensation *compensation);

/* ---- studies: many ways to share, measured on one text (study/) ---- */

enum kvs_study_method {
	KVS_STUDY_DISSIMILAR,       /* the walk, most dissimilar pairs first (paper) */
	KVS_STUDY_SIMILAR,          /* the walk from the other end */
	KVS_STUDY_RANDOM,           /* pairs in random order, all accepted */
	KVS_STUDY_THRESHOLD,        /* the walk in that random order: the effect of the paper's filter alone */
	KVS_STUDY_ADJACENT,         /* kvs_neighbours_spread() */
	KVS_STUDY_MERGE,            /* kvs_neighbours_similar() with kvs_measure_merged() */
	KVS_STUDY_NLL,              /* greedy by loss */
	KVS_STUDY_DISSIMILAR_SPLIT, /* the first with owners for K and V apart */
	KVS_STUDY_NLL_SPLIT,
	KVS_STUDY_REFIT, /* greedy by what compensation leaves */
	KVS_STUDY_METHODS
};
const char *kvs_study_method_name(enum kvs_study_method method); /* "dissimilar", ..., "refit" */

/* A plan of a study runs alone, or with matrices that were refitted for it (see compensation). */
enum kvs_study_fit {
	KVS_STUDY_ALONE,
	KVS_STUDY_FIT_O,    /* W_o of the layers that borrow */
	KVS_STUDY_FIT_QO,   /* their W_q too */
	KVS_STUDY_FIT_ALL,  /* and W_o and W_down of the layers above */
	KVS_STUDY_FIT_SKIP, /* all, with a skip of rank kvs_skip_rank() */
	/* all, but layers that borrow have a linear map in place of attention: which saves what their plan saves */
	KVS_STUDY_FIT_LINEAR,
	KVS_STUDY_FITS
};
const char *kvs_study_fit_name(enum kvs_study_fit fit); /* "alone", "o", "qo", "all", "skip", "linear" */

#define KVS_STUDY_MOST_RATES 8
#define KVS_STUDY_MOST_SOURCES 4
#define KVS_STUDY_MOST_TRIALS 4
#define KVS_STUDY_MOST_ALSO 3
#define KVS_STUDY_MOST_PLANS 8
/* Those that depend on the text most. */
#define KVS_STUDY_VARIED (1u << KVS_STUDY_DISSIMILAR | 1u << KVS_STUDY_SIMILAR | 1u << KVS_STUDY_NLL)

struct kvs_source {
	const char *name; /* for messages */
	const char *bytes;
	size_t count;
};

/* A plan of `calibrate` with the trials of its search. */
struct kvs_study_trials {
	const char *name; /* for messages */
	kvs_plan *plan;
};

/* A plan that is measured beside those that the study finds. */
struct kvs_study_plan {
	const char *name; /* a path: its last part is shown */
	kvs_plan *plan;
	kvs_patch *patch; /* checked (kvs_patch_check); NULL: the plan has none */
};

struct kvs_study_options {
	struct kvs_source text; /* plans are measured on it */
	/* Every search runs on the first; some run on the others too, to see whether the text matters. */
	struct kvs_source calib[KVS_STUDY_MOST_SOURCES];
	int calib_count;
	struct kvs_calib_text_options cut; /* of each `calib`: samples, and the windows that nll chooses by */
	struct kvs_fit_samples fit;        /* that matrices are fitted on; of none: those of the search */
	int text_tokens;                   /* of `text`, in windows of cut.window_tokens; 0: 2048 */
	/* Plans are measured on these too, and on `text` in windows of `also_ctx` tokens (0: not). */
	struct kvs_source also[KVS_STUDY_MOST_ALSO];
	int also_count, also_ctx;
	const char *prompt; /* that the unshared model, and those of plans on the first text, go on with; NULL: none */
	int prompt_tokens;  /* by so many tokens at most, 1 or more */
	unsigned methods;   /* bit 1 << method; 0: see kvs_study_methods() */
	unsigned fits;      /* bit 1 << fit: these too, for each method that makes plans */
	unsigned varied;    /* bit 1 << method: run on other amounts of the text and on the other texts too */
	/* Of searches that are among the study's: their trials are not run again. */
	struct kvs_study_trials trials[KVS_STUDY_MOST_TRIALS];
	int trials_count;
	struct kvs_study_plan plans[KVS_STUDY_MOST_PLANS]; /* each alone, and with its patch */
	int plan_count;
	double rates[KVS_STUDY_MOST_RATES]; /* fractions of the layers that share */
	int rate_count;                     /* 0: 1/8, 1/4 and 3/8, as in the paper, but at least one layer */
	int seeds;                          /* of random orders: 1, 2, ...; 0: 5 */
	double threshold;                   /* of the walks */
	kvs_cu *cu;                         /* its name is recorded; fits open engines of their own on it */
	struct kvs_engine_options engine;   /* as for kvs_calib_open_engine(), with kv_dtype set */
};

/* The methods that are run: where none is named all, but KVS_STUDY_REFIT, which chooses pairs for matrices, only with `fits`. */
unsigned kvs_study_methods(const struct kvs_study_options *options);

typedef struct kvs_study kvs_study;

/*
 * Lists the rows to run: every method on the first text as `cut` says; those that are `varied` also on a third and on five
 * thirds of that amount, if the text has as much, and on the other texts. Each of `fits` is run for the plans of every row
 * on the first text, and FIT_ALL for those on the others, on the samples that the row's search had or on those of `fit` (of a third
 * and five thirds of the amount so many of these). The options' texts and
 * `trials` are not needed afterwards; the checkpoint, the tokenizer, `cu`, `plans` and their patches must outlive the study.
 * -EINVAL (a text that is too short to search, to fit matrices or pairs on or to measure on; a window longer than the model's
 * positions; a text given twice; the text to measure on among those to search on; a
 * rate of no layer or of all; a model of one layer; fits without a method that makes plans; with KVS_STUDY_REFIT
 * weights that are not numbers; trials of none of the study's searches: the message says why), -ENOENT (a plan without a record), -ENOMEM.
 */
int kvs_study_create(
	const kvs_checkpoint *ckpt, const kvs_tokenizer *tok, const struct kvs_study_options *options, kvs_study **out);
void kvs_study_free(kvs_study *study);
/*
 * Takes over the rows of the same study in the file `path`, those of other methods and seeds included; if there is no
 * file, nothing happens. -EINVAL (of another study: the message names the setting; damaged), -ENOMEM.
 */
int kvs_study_resume(kvs_study *study, const char *path);
size_t kvs_study_left(const kvs_study *study, size_t *rows); /* number of rows left to run; *rows of all */
/* An engine with room for the study's texts; it is the caller's. Errors as kvs_engine_open(). */
int kvs_study_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const kvs_study *study, kvs_engine **out);
/*
 * Runs the rows that are left; the file `path` is written after each. The same options give the same bytes, stopped and
 * resumed or not, except for the time and memory of fits. A fit and the search of KVS_STUDY_REFIT hold the weights a second
 * time. -ECANCELED (stopped by the callback), -EINVAL (the unshared model's loss differs from when the study began), or the errors of searches and
 * measures; rows that were done before are written in any case.
 */
int kvs_study_run(kvs_study *study, kvs_engine *engine, const char *path, const struct kvs_calib_progress *progress);
/* The results as in the file, and as Markdown; the caller frees the text. -ENOMEM. */
int kvs_study_json(const kvs_study *study, char **json);
int kvs_study_markdown(const kvs_study *study, char **markdown);
/* study.md and its charts into a directory, each written aside and renamed. -EIO, -ENOMEM. */
int kvs_study_write(const kvs_study *study, const char *dir);

#ifdef __cplusplus
}
#endif
#endif
