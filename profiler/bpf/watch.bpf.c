// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * profiler/bpf/watch.bpf.c: what runs in the kernel while processes are watched.
 *
 * Processes that are watched stand in a map, which forks extend before the child runs. Probes on the driver's functions keep
 * the arguments of a call until it returns, then send one record, or only count. The rest are tracepoints: processes that come
 * and go, files that are mapped, and the kernel driver's devices. Every program leaves at once for a process that is not watched.
 *
 * This file alone may also be used under the GPL: the kernel asks that of programs that read a process's memory.
 */
#include "kernel.h"
#include "records.h"

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#if defined(__TARGET_ARCH_x86)
enum { NR_MMAP = 9, NR_IOCTL = 16, NR_OPENAT = 257 };
#elif defined(__TARGET_ARCH_arm64)
enum { NR_MMAP = 222, NR_IOCTL = 29, NR_OPENAT = 56 };
#else
#error "the numbers of system calls of this architecture are not known here"
#endif

enum { PROT_EXECUTE = 4, MAP_NO_FILE = 0x20, SIGNAL_STOP = 19, GROUP_EXIT = 4 }; /* as Linux has them */
enum { KIND_OF_FILE = 0170000, CHARACTER_DEVICE = 0020000 };
enum { MAX_PROCESSES = 16384, MAX_CALLS = 16384, MAX_COUNTS = 4096, MAX_DRIVERS = 64 };
enum { PID_LEVELS = 8 }; /* PID namespaces in each other; the kernel allows 32 */

#define DRIVER "libcuda.so"
#define DEVICE "/dev/nvidia"

char program_license[] SEC("license") = "GPL";

/* Set before loading. */
const volatile __u32 target;    /* the first process to watch, as we number it */
const volatile __u32 namespace; /* our PID namespace; 0: that of the kernel itself */
const volatile bool hold;       /* stop a process that maps a driver which is not watched yet */

__u64 lost; /* records and counts that found no room */

/* ---- maps ---- */

/* Value: the process as we number it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PROCESSES);
	__type(key, __u32);
	__type(value, __u32);
} processes SEC(".maps");

/* A call of the driver that is under way on a thread. */
struct call {
	__u64 stack_pointer, time_ns;
	union prof_cookie cookie;
	__u64 args[PROF_ARGS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u64);
	__type(value, struct call);
} calls SEC(".maps");

/* A system call that is under way on a thread and means something to us. */
struct system_call {
	__u64 time_ns;
	__u32 number;
	bool driver;
	struct prof_file file;         /* of a mapping */
	char device[PROF_DEVICE_NAME]; /* of an open or ioctl */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u64);
	__type(value, struct system_call);
} system_calls SEC(".maps");

/* Drivers' files that have probes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DRIVERS);
	__type(key, struct prof_file);
	__type(value, __u8);
} drivers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COUNTS);
	__type(key, struct prof_count_key);
	__type(value, struct prof_count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} ring SEC(".maps");

/* ---- processes and threads ---- */

/* The number of a thread in our PID namespace, 0 where it has none there. */
static __always_inline __u32 number_of(struct task_struct *task)
{
	struct pid *pid;
	unsigned int level;

	if (!namespace)
		return BPF_CORE_READ(task, pid);
	pid = BPF_CORE_READ(task, thread_pid);
	level = BPF_CORE_READ(pid, level);
	for (unsigned int i = 0; i < PID_LEVELS && i <= level; i++) {
		struct upid *in =
			(void *)__builtin_preserve_access_index(&pid->numbers) + i * bpf_core_type_size(struct upid);
		if (BPF_CORE_READ(in, ns, ns.inum) == namespace)
			return BPF_CORE_READ(in, nr);
	}
	return 0;
}

static __always_inline __u32 number_of_process(struct task_struct *task)
{
	return number_of(BPF_CORE_READ(task, group_leader));
}

static __always_inline __u32 current_number(__u64 id)
{
	return namespace ? number_of((struct task_struct *)bpf_get_current_task()) : (__u32)id;
}

static __always_inline void fill(struct prof_record *record, __u32 type, __u32 key, __u32 pid, __u32 tid)
{
	record->type = type;
	record->key = key;
	record->pid = pid;
	record->tid = tid;
	record->time_ns = bpf_ktime_get_ns();
}

static __always_inline void lose(void)
{
	__sync_fetch_and_add(&lost, 1);
}

/*
 * Calls wait to be fetched, as waking somebody for each would cost more than the call: only one that makes the ring a quarter full
 * wakes. All else is told at once.
 */
static __always_inline __u64 wake_for_call(void)
{
	__u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA),
	      quarter = bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 4;

	return waiting >= quarter && waiting < quarter + 2 * sizeof(struct prof_call_stack) ? BPF_RB_FORCE_WAKEUP
											    : BPF_RB_NO_WAKEUP;
}

/* Run once, over all threads: finds the process to begin with. */
SEC("iter/task")
int find_target(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (!task || task->pid != task->tgid || number_of(task) != target)
		return 0;
	__u32 key = task->tgid, pid = target;
	bpf_map_update_elem(&processes, &key, &pid, BPF_ANY);
	if (!task->signal->live.counter) /* it has ended, and may have done so before it stood in the map */
		bpf_map_delete_elem(&processes, &key);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_forks, struct task_struct *parent, struct task_struct *child)
{
	__u32 key = child->tgid, parent_key = parent->tgid, pid, *parent_pid;
	struct prof_fork *record;

	if (key == parent_key)
		return 0;
	parent_pid = bpf_map_lookup_elem(&processes, &parent_key);
	if (!parent_pid)
		return 0;
	pid = number_of(child);
	if (bpf_map_update_elem(&processes, &key, &pid, BPF_ANY)) {
		lose();
		return 0;
	}
	record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	if (!record) {
		lose();
		return 0;
	}
	fill(&record->record, PROF_FORK, key, pid, pid);
	record->parent_key = parent_key;
	record->parent = *parent_pid;
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_execs, struct task_struct *task)
{
	__u32 key = task->tgid, *pid = bpf_map_lookup_elem(&processes, &key);
	unsigned long start, bytes;
	struct prof_exec *record;

	if (!pid)
		return 0;
	record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	if (!record) {
		lose();
		return 0;
	}
	fill(&record->record, PROF_EXEC, key, *pid, *pid);
	record->parent = number_of_process(task->real_parent);
	start = task->mm->arg_start;
	bytes = task->mm->arg_end - start;
	if (bytes > sizeof(record->command))
		bytes = sizeof(record->command);
	if (bpf_probe_read_user(record->command, bytes, (void *)start))
		bytes = 0;
	record->bytes = bytes;
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exits, struct task_struct *task)
{
	__u64 id = (__u64)task->tgid << 32 | task->pid;
	__u32 key = task->tgid, pid, *known = bpf_map_lookup_elem(&processes, &key);
	struct prof_exit *record;

	if (!known)
		return 0;
	pid = *known;
	bpf_map_delete_elem(&calls, &id);
	bpf_map_delete_elem(&system_calls, &id);
	/* Several threads that end at once may each see that none is left: the one that takes it off the map is the last. */
	if (task->signal->live.counter || bpf_map_delete_elem(&processes, &key))
		return 0;
	record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	if (!record) {
		lose();
		return 0;
	}
	fill(&record->record, PROF_EXIT, key, pid, pid);
	record->status =
		task->signal->flags & GROUP_EXIT ? task->signal->group_exit_code : task->group_leader->exit_code;
	record->unused = 0;
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/* ---- calls of the driver ---- */

static __always_inline __u64 argument(const __u64 *args, unsigned int number)
{
	switch (number) { /* an index that varies would not pass the kernel's verifier */
	case 1:
		return args[0];
	case 2:
		return args[1];
	case 3:
		return args[2];
	case 4:
		return args[3];
	}
	return args[4];
}

static __always_inline void read_inside(struct call *call)
{
	const void *from = (const void *)call->args[0] + call->cookie.inside;

	if (call->cookie.words == 2)
		bpf_probe_read_user(&call->args[2], 2 * sizeof(__u64), from);
	else
		bpf_probe_read_user(&call->args[2], 3 * sizeof(__u64), from);
}

/*
 * A driver's function may call another one, which is no call of the program's: it is left out. It is told by the stack, which
 * reaches further down then; where it does not, the call before never returned, as after a longjmp. Gives whether the call's end is
 * of interest.
 */
static __always_inline bool begin_call(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 key = id >> 32;
	struct call call = {}, *outer;

	if (!bpf_map_lookup_elem(&processes, &key))
		return false;
	call.stack_pointer = PT_REGS_SP(ctx);
	outer = bpf_map_lookup_elem(&calls, &id);
	if (outer && outer->stack_pointer > call.stack_pointer)
		return false;
	call.cookie.word = bpf_get_attach_cookie(ctx);
	call.args[0] = PT_REGS_PARM1(ctx);
	call.args[1] = PT_REGS_PARM2(ctx);
	call.args[2] = PT_REGS_PARM3(ctx);
	call.args[3] = PT_REGS_PARM4(ctx);
	call.args[4] = PT_REGS_PARM5(ctx);
	if (call.cookie.words)
		read_inside(&call);
	call.time_ns = bpf_ktime_get_ns();
	if (!bpf_map_update_elem(&calls, &id, &call, BPF_ANY))
		return true;
	lose();
	return false;
}

static __always_inline unsigned int log2_of(__u64 value)
{
	unsigned int log = 0;

#pragma unroll
	for (int shift = 32; shift; shift >>= 1) {
		if (value >> shift) {
			value >>= shift;
			log += shift;
		}
	}
	return log & (PROF_LATENCIES - 1);
}

static __always_inline void count(const struct prof_count_key *key, __u64 duration_ns, bool failed)
{
	struct prof_count *counted = bpf_map_lookup_elem(&counts, key);

	if (!counted) {
		static const struct prof_count zero;
		bpf_map_update_elem(&counts, key, &zero, BPF_NOEXIST);
		counted = bpf_map_lookup_elem(&counts, key);
	}
	if (!counted) {
		lose();
		return;
	}
	__sync_fetch_and_add(&counted->latency[log2_of(duration_ns)], 1);
	__sync_fetch_and_add(&counted->total_ns, duration_ns);
	if (failed)
		__sync_fetch_and_add(&counted->failures, 1);
}

static __always_inline void tell_call(
	struct pt_regs *ctx, const struct call *call, struct prof_call *out, __u64 id, __u32 pid, __u64 now)
{
	fill(&out->record, PROF_CALL, id >> 32, pid, current_number(id));
	out->record.time_ns = call->time_ns;
	out->duration_ns = now - call->time_ns;
	out->result = PT_REGS_RC(ctx);
	out->function = call->cookie.function;
	out->frames = 0;
	__builtin_memcpy(out->args, call->args, sizeof(out->args));
	out->outs[0] = out->outs[1] = 0;
	if (call->cookie.out)
		bpf_probe_read_user(&out->outs[0], sizeof(__u64), (void *)argument(call->args, call->cookie.out));
	if (call->cookie.out2)
		bpf_probe_read_user(&out->outs[1], sizeof(__u64), (void *)argument(call->args, call->cookie.out2));
}

static __always_inline void send_call(struct pt_regs *ctx, const struct call *call, __u64 id, __u32 pid, __u64 now)
{
	struct prof_call *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);

	if (!record) {
		lose();
		return;
	}
	tell_call(ctx, call, record, id, pid, now);
	bpf_ringbuf_submit(record, wake_for_call());
}

static __always_inline void send_call_with_stack(
	struct pt_regs *ctx, const struct call *call, __u64 id, __u32 pid, __u64 now)
{
	struct prof_call_stack *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	long bytes;

	if (!record) {
		lose();
		return;
	}
	tell_call(ctx, call, &record->call, id, pid, now);
	bytes = bpf_get_stack(ctx, record->stack, sizeof(record->stack), BPF_F_USER_STACK);
	if (bytes > 0)
		record->call.frames = bytes / sizeof(__u64);
	bpf_ringbuf_submit(record, wake_for_call());
}

static __always_inline void end_call(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid();
	union prof_cookie cookie = {.word = bpf_get_attach_cookie(ctx)};
	struct call *call = bpf_map_lookup_elem(&calls, &id);
	__u32 key = id >> 32, *pid;

	/* An inner call of the same function returns with less of the stack given back. */
	if (!call || call->cookie.function != cookie.function || PT_REGS_SP(ctx) < call->stack_pointer)
		return;
	pid = bpf_map_lookup_elem(&processes, &key);
	if (pid && cookie.counted) {
		struct prof_count_key counted = {.process = key, .function = cookie.function};
		count(&counted, now - call->time_ns, (__u32)PT_REGS_RC(ctx));
	} else if (pid && (cookie.stack || (__u32)PT_REGS_RC(ctx))) { /* of one that failed people ask where it was */
		send_call_with_stack(ctx, call, id, *pid, now);
	} else if (pid) {
		send_call(ctx, call, id, *pid, now);
	}
	bpf_map_delete_elem(&calls, &id);
}

/* One program for both, from Linux 6.13 on. With 1 a call's end is left alone: in processes that are not watched it costs nothing. */
extern bool bpf_session_is_return(void) __ksym __weak;

SEC("uprobe")
int call_passes(struct pt_regs *ctx)
{
	if (!bpf_session_is_return())
		return !begin_call(ctx);
	end_call(ctx);
	return 0;
}

SEC("uprobe")
int call_begins(struct pt_regs *ctx)
{
	begin_call(ctx);
	return 0;
}

SEC("uretprobe")
int call_ends(struct pt_regs *ctx)
{
	end_call(ctx);
	return 0;
}

/* ---- system calls ---- */

static __always_inline struct file *file_of(unsigned int fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd), *file = NULL;

	if (fd < BPF_CORE_READ(table, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

static __always_inline void name_of(struct file *file, char *name, unsigned int bytes)
{
	bpf_probe_read_kernel_str(name, bytes, BPF_CORE_READ(file, f_path.dentry, d_name.name));
}

static __always_inline bool begins_with(const char *text, const char *beginning, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		if (text[i] != beginning[i])
			return false;
	return true;
}

/* Those of NVIDIA's kernel driver are all named nvidia..., wherever a container has them. */
static __always_inline bool begin_ioctl(struct system_call *call, struct pt_regs *regs)
{
	struct file *file = file_of(PT_REGS_PARM1_SYSCALL(regs));

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & KIND_OF_FILE) != CHARACTER_DEVICE)
		return false;
	name_of(file, call->device, sizeof(call->device));
	return begins_with(call->device, "nvidia", 6);
}

static __always_inline bool begin_open(struct system_call *call, const char *user_path)
{
	char path[sizeof("/dev/") - 1 + PROF_DEVICE_NAME] = {};

	bpf_probe_read_user_str(path, sizeof(path), user_path);
	__builtin_memcpy(call->device, path + sizeof("/dev/") - 1, sizeof(call->device));
	return begins_with(path, DEVICE, sizeof(DEVICE) - 1);
}

static __always_inline bool begin_mmap(struct system_call *call, struct pt_regs *regs)
{
	struct file *file;

	if (!(PT_REGS_PARM3_SYSCALL(regs) & PROT_EXECUTE) || PT_REGS_PARM4_SYSCALL(regs) & MAP_NO_FILE)
		return false;
	file = file_of(PT_REGS_PARM5_SYSCALL(regs));
	if (!file)
		return false;
	name_of(file, call->device, sizeof(call->device));
	call->driver = begins_with(call->device, DRIVER, sizeof(DRIVER) - 1);
	call->file.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	call->file.inode = BPF_CORE_READ(file, f_inode, i_ino);
	return true;
}

static __always_inline bool begin(struct system_call *call, struct pt_regs *regs, long number)
{
	switch (number) {
	case NR_IOCTL:
		return begin_ioctl(call, regs);
	case NR_OPENAT:
		return begin_open(call, (const char *)PT_REGS_PARM2_SYSCALL(regs));
	case NR_MMAP:
		return begin_mmap(call, regs);
	}
	return false;
}

static __always_inline void begin_system_call(struct pt_regs *regs, long number)
{
	struct system_call call = {.number = number};
	__u64 id = bpf_get_current_pid_tgid();
	__u32 key = id >> 32;

	if (!bpf_map_lookup_elem(&processes, &key) || !begin(&call, regs, number))
		return;
	call.time_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&system_calls, &id, &call, BPF_ANY))
		lose();
}

/* The process stops before it runs a line of what it mapped. */
static __always_inline void tell_mapping(const struct system_call *call, __u64 id, __u32 pid)
{
	bool fresh = call->driver && !bpf_map_lookup_elem(&drivers, &call->file);
	struct prof_mapped *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);

	if (!record) {
		lose();
		return;
	}
	fill(&record->record, PROF_MAPPED, id >> 32, pid, current_number(id));
	record->file = call->file;
	record->driver = call->driver;
	record->fresh = fresh;
	record->held = fresh && hold && !bpf_send_signal(SIGNAL_STOP);
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void end_system_call(long result)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 key = id >> 32, *pid;
	struct system_call *call = bpf_map_lookup_elem(&system_calls, &id);
	bool failed = result < 0 && result >= -4095;

	if (!call)
		return;
	pid = bpf_map_lookup_elem(&processes, &key);
	if (pid && call->number == NR_MMAP) {
		if (!failed)
			tell_mapping(call, id, *pid);
	} else if (pid) {
		struct prof_count_key counted = {
			.process = key, .function = call->number == NR_IOCTL ? PROF_IOCTL : PROF_OPEN};
		__builtin_memcpy(counted.device, call->device, sizeof(counted.device));
		count(&counted, bpf_ktime_get_ns() - call->time_ns, failed);
	}
	bpf_map_delete_elem(&system_calls, &id);
}

/* All system calls of the whole machine pass here, so that is decided first which of them matter. */
SEC("tp_btf/sys_enter")
int BPF_PROG(system_call_begins, struct pt_regs *regs, long number)
{
	if (number == NR_IOCTL || number == NR_OPENAT || number == NR_MMAP)
		begin_system_call(regs, number);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(system_call_ends, struct pt_regs *regs, long result)
{
	end_system_call(result);
	return 0;
}
