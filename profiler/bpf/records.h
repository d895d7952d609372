/*
 * profiler/bpf/records.h: what the programs in the kernel and the code that loads them tell each other. Internal to profiler/.
 *
 * Compiled twice, by clang for BPF and by the ordinary compiler, so it stands on fixed-width types alone.
 */
#ifndef KVS_PROFILER_BPF_RECORDS_H
#define KVS_PROFILER_BPF_RECORDS_H

#include <linux/types.h>

#define PROF_ARGS 5
#define PROF_OUTS 2
#define PROF_STACK 48 /* KVS_MAX_FRAMES */
#define PROF_LATENCIES 64
#define PROF_COMMAND 512
#define PROF_DEVICE_NAME 24

/*
 * How a function of the driver is watched; travels as the cookie of its probes. Arguments are numbered from 1, 0 is none.
 * `inside`: argument 1 points to a structure, and `words` numbers at this offset in it take the place of arguments 3 to 5.
 */
union prof_cookie {
	struct {
		__u64 function : 16, out : 4, out2 : 4, inside : 16, words : 4, stack : 1, counted : 1;
	};
	__u64 word;
};

/* Functions that are no driver's, in struct prof_count_key. */
enum { PROF_OPEN = 0x8000, PROF_IOCTL };

enum prof_record_type {
	PROF_CALL = 1,
	PROF_FORK,   /* a process was born to one that is watched */
	PROF_EXEC,   /* and became another program */
	PROF_EXIT,   /* its last thread ended */
	PROF_MAPPED, /* a file was mapped to be executed */
};

struct prof_record {
	__u32 type;
	__u32 key;      /* the process, as the kernel numbers it; key of all maps */
	__u32 pid, tid; /* as we number it: in our PID namespace */
	__u64 time_ns;  /* CLOCK_MONOTONIC; of a call, when it began */
};

struct prof_call {
	struct prof_record record;
	__u64 duration_ns;
	__u64 args[PROF_ARGS], outs[PROF_OUTS];
	__s32 result;
	__u16 function, frames;
};

struct prof_call_stack {
	struct prof_call call;
	__u64 stack[PROF_STACK];
};

struct prof_fork {
	struct prof_record record; /* of the child */
	__u32 parent_key, parent;
};

struct prof_exec {
	struct prof_record record;
	__u32 parent, bytes;
	char command[PROF_COMMAND]; /* arguments, each with its closing 0 */
};

struct prof_exit {
	struct prof_record record;
	__s32 status; /* as waitpid() gives it */
	__u32 unused;
};

/* A file as the kernel tells it apart. */
struct prof_file {
	__u64 device, inode;
};

struct prof_mapped {
	struct prof_record record;
	struct prof_file file;
	__u16 driver; /* it is called libcuda.so... */
	__u16 fresh;  /* and has no probes */
	__u32 held;   /* so the process stands still */
};

/* Calls that are counted where they happen. */
struct prof_count_key {
	__u32 process, function;
	char device[PROF_DEVICE_NAME]; /* of PROF_OPEN and PROF_IOCTL: "nvidia0" */
};

struct prof_count {
	__u64 failures, total_ns;
	__u64 latency[PROF_LATENCIES];
};

#endif
