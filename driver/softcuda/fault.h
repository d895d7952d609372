/*
 * driver/softcuda/fault.h: running something that may fault, on a worker thread, and coming back from it.
 *
 * Use: fill `explain` or leave it NULL; then, in one function,
 *         if (sigsetjmp(guard.back, 0) == 0) { sc_guard_set(&guard); work(); sc_guard_clear(); } else { guard.reason ... }
 * A fault in work() comes back with the guard cleared. Only between sc_worker_begin() and sc_worker_end().
 */
#ifndef SOFTCUDA_FAULT_H
#define SOFTCUDA_FAULT_H

#include <setjmp.h>
#include <stdint.h>

enum sc_reason {
	SC_FAULT,     /* SIGSEGV or SIGBUS at `address` */
	SC_TIMEOUT,   /* ran longer than SOFTCUDA_TIMEOUT */
	SC_ABANDONED, /* another block of a cooperative grid failed: sc_guard_leave() */
};

struct sc_guard {
	sigjmp_buf back;
	enum sc_reason reason;
	uintptr_t address;
	const char *what; /* `explain`'s answer, or NULL */
	const char *(*explain)(const void *address);
	void *fiber; /* of ThreadSanitizer, where it is built in */
};

/* Called before each piece of work: a program may have put handlers of its own in place of ours since the last. */
void sc_handlers_install(void);
void sc_guard_set(struct sc_guard *guard);
void sc_guard_clear(void);
/* While a guarded block waits on a lock of ours: it may not be jumped out of there, and its time does not count. */
void sc_guard_pause(void);
void sc_guard_resume(void);
/* Leave what runs under this thread's guard. */
void sc_guard_leave(enum sc_reason reason) __attribute__((noreturn));

#endif
