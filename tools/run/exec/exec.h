/*
 * tools/run/exec/exec.h: what `kvshare-run exec`, `inspect` and `probe` share: a program with the shim in front of its driver.
 */
#ifndef KVS_RUN_EXEC_H
#define KVS_RUN_EXEC_H

#include "../run.h"

#include <jansson.h>

struct exec_options {
	const char *plan_path, *owners, *layout, *device, *stats, *log, *inspect, *probe;
	const char *writers_path;
	char *writers; /* the caller frees it */
	enum kvs_policy policy;
	bool strict, sync;
	char **command; /* ends in NULL */
};

/* Puts all of it into the environment of this process, which is that of the program to come. */
int exec_prepare(const struct exec_options *options);
/* One more --writer. */
void exec_parse_writer(struct argp_state *state, struct exec_options *options, const char *text);
/* Becomes the program. If it returns, with the exit status, that has failed. */
int exec_become(char **command);
/*
 * Runs the program in a process of its own, and says on stderr if it ends with another status than 0, which goes to *status: 128 and the
 * signal where one ended it. The shim writes an account of each process into a file of the name that *account (a member of `options`) is
 * made to have, `path`, and of the process's number; exec_account_take() reads them. What run_make_temporary() answers.
 */
int exec_run_once(const struct exec_options *options, const char *name, const char **account, char *path, size_t bytes,
	int *status);
/*
 * The account that weighs most, of those that the processes of a run have written; one line on stderr says which if there are several.
 * Removes all the files, and `path`. NULL: there is none.
 */
json_t *exec_account_take(const char *path, size_t (*weigh)(const json_t *account));
/* The device's two words, for an option of that name. */
const char *exec_parse_device(struct argp_state *state, const char *text);

/*
 * A file of `kvshare-run probe` as patterns for the shim, which the caller frees. -EINVAL: it is none, or says that a kernel
 * cannot be shared, which does not matter under the policy `last`; -ENOENT, -ENOMEM.
 */
int exec_writers_text(const char *path, bool last, char **out);

/*
 * The short form of a layout that is given in short form or as a JSON file, checked; the caller frees it. -EINVAL, -ENOENT,
 * -ENOMEM, -EIO.
 */
int exec_layout_text(const char *text, char **out);

/* Where K and V of layer 0, of layer 1, ... were stored. */
struct exec_place {
	size_t allocation, offset;
};
struct exec_places {
	size_t granule, allocations, count;
	const size_t *bytes;         /* [allocations] */
	const bool *reserved;        /* [allocations], of which the shim counts those of the cache's kind */
	const struct exec_place *at; /* [count] */
	const size_t *numbers;       /* [number_count], which were parameters of the kernels that store */
	size_t number_count;
};
/* How many of the size and kind of that allocation come before it. */
size_t exec_same_before(const struct exec_places *places, size_t allocation);
/* An explicit layout as JSON, for the caller to free, and the size of each K and V. -ENOENT: there is none; -ENOMEM. */
int exec_explicit_guess(const struct exec_places *places, size_t *bytes, char **text);

/* An allocation in which each block holds rows of all layers, or K and V of one, and the next block begins `stride` bytes on. */
struct exec_blocks {
	size_t places, distance, stride,
		bytes; /* places to which one block's rows are stored, how far apart, of how much */
};
/* False: there is none. */
bool exec_blocks_find(const struct exec_places *places, struct exec_blocks *out);

#endif
