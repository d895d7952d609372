/*
 * driver/softcuda/fault.c: bad accesses and endless blocks, on the threads that run the device's work.
 *
 * The host's MMU checks a kernel's accesses. A fault under a guard jumps back to the function that set it; any other
 * goes to the previous handler. A watchdog ends a block that runs too long by sending the same signal to its thread, so
 * that we use no other signal of the program's. The handler runs on a stack of its own, as a fiber's may be what
 * overflowed.
 */
#include "fault.h"

#include "state.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define SIGNAL_STACK_BYTES (64 * 1024)
#define WATCH_SIGNAL SIGBUS
#define WATCH_NS 200000000ull       /* how much later than its limit a block may end */
#define STANDSTILL_NS 1000000000ull /* without a look of the watchdog: the process was stopped, or the machine slept */

/* A thread that runs the device's work. */
struct worker {
	struct worker *next;
	pthread_t thread;
	void *signal_stack;
	atomic_uint_fast64_t since_ns; /* when the guard was set; 0: there is none */
	atomic_uint run;               /* counts guards, so that a late signal does not end the next one */
};

/* In the static TLS block, so that the handler's reads never allocate, whatever thread faults. */
#define HANDLER_TLS __thread __attribute__((tls_model("initial-exec")))
static HANDLER_TLS struct sc_guard *current;
static HANDLER_TLS struct worker *self;
static HANDLER_TLS bool chaining;

static struct sigaction before_segv, before_bus;
static pthread_mutex_t handlers_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t workers_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t workers_came = PTHREAD_COND_INITIALIZER;
static struct worker *workers;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A program's handler may pass back to us what we passed to it: then nobody handles it, and it ends the process. */
static void chain(int number, siginfo_t *info, void *machine)
{
	const struct sigaction *before = number == SIGSEGV ? &before_segv : &before_bus;
	bool nobody = chaining || (!(before->sa_flags & SA_SIGINFO) &&
					  (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN));

	if (nobody) {
		signal(number, SIG_DFL);
		if (info->si_code <= 0)
			raise(number); /* it was sent; an access is simply tried again */
		return;
	}
	chaining = true;
	if (before->sa_flags & SA_SIGINFO)
		before->sa_sigaction(number, info, machine);
	else
		before->sa_handler(number);
	chaining = false;
}

static void handler(int number, siginfo_t *info, void *machine)
{
	struct sc_guard *guard = current;
	bool from_watchdog = info->si_code == SI_QUEUE && number == WATCH_SIGNAL && self;

	if (from_watchdog && (!guard || (unsigned)info->si_value.sival_int != atomic_load(&self->run)))
		return; /* what it was meant for has just ended by itself */
	if (!guard || (!from_watchdog && info->si_code <= 0)) {
		chain(number, info, machine);
		return;
	}
	guard->address = from_watchdog ? 0 : (uintptr_t)info->si_addr;
	guard->what = !from_watchdog && guard->explain ? guard->explain(info->si_addr) : NULL;
	sc_guard_leave(from_watchdog ? SC_TIMEOUT : SC_FAULT);
}

void sc_guard_leave(enum sc_reason reason)
{
	struct sc_guard *guard = current;

	guard->reason = reason;
	sc_guard_clear();
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(guard->fiber, 0); /* it knows a jump's target by the fiber that set it */
#endif
	siglongjmp(guard->back, 1);
}

void sc_guard_set(struct sc_guard *guard)
{
#ifdef __SANITIZE_THREAD__
	guard->fiber = __tsan_get_current_fiber();
#endif
	atomic_fetch_add(&self->run, 1);
	atomic_store(&self->since_ns, sc_now_ns());
	current = guard;
	atomic_signal_fence(memory_order_seq_cst);
}

void sc_guard_clear(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	current = NULL;
	atomic_store(&self->since_ns, 0);
}

void sc_guard_pause(void)
{
	atomic_fetch_add(&self->run, 1);
	atomic_store(&self->since_ns, 0);
}

void sc_guard_resume(void)
{
	atomic_fetch_add(&self->run, 1);
	atomic_store(&self->since_ns, sc_now_ns());
}

/*
 * Ctrl-Z, a debugger, a machine that sleeps: time in which nothing ran is not a block's. Most blocks are short, so the one that was
 * stopped has mostly begun after the watchdog's last look; one that has begun since the process goes on begins now, at the latest.
 */
static void standstill_forgive(uint64_t now, uint64_t ns)
{
	for (struct worker *worker = workers; worker; worker = worker->next) {
		uint_fast64_t since = atomic_load(&worker->since_ns);

		if (since && since < now) /* and its guard is not set or cleared just now */
			atomic_compare_exchange_strong(&worker->since_ns, &since, now - since > ns ? since + ns : now);
	}
}

static void overdue_end(uint64_t now)
{
	for (struct worker *worker = workers; worker; worker = worker->next) {
		union sigval value = {.sival_int = (int)atomic_load(&worker->run)};
		uint64_t since = atomic_load(&worker->since_ns);

		if (since && now > since && now - since > sc_settings.timeout_ns)
			pthread_sigqueue(worker->thread, WATCH_SIGNAL, value);
	}
}

static void *watchdog(void *nothing)
{
	(void)nothing;
	pthread_mutex_lock(&workers_lock);
	for (;;) {
		struct timespec pause;
		uint64_t before, now;

		if (!workers)
			pthread_cond_wait(&workers_came, &workers_lock);
		before = sc_now_ns();
		clock_gettime(CLOCK_REALTIME, &pause);
		pause.tv_nsec += WATCH_NS;
		pause.tv_sec += pause.tv_nsec / 1000000000;
		pause.tv_nsec %= 1000000000;
		while (pthread_cond_timedwait(&workers_came, &workers_lock, &pause) != ETIMEDOUT)
			;
		now = sc_now_ns();
		if (now - before > STANDSTILL_NS)
			standstill_forgive(now, now - before - WATCH_NS);
		overdue_end(now);
	}
	return NULL;
}

/* SA_NODEFER: the handler is left by a jump, so the signal must not stay blocked. */
static void handler_install(int number, struct sigaction *before)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	struct sigaction now;

	if (sigaction(number, NULL, &now) || now.sa_sigaction == handler)
		return;
	*before = now;
	sigemptyset(&action.sa_mask);
	sigaction(number, &action, NULL);
}

void sc_handlers_install(void)
{
	pthread_mutex_lock(&handlers_lock);
	handler_install(SIGSEGV, &before_segv);
	handler_install(SIGBUS, &before_bus);
	pthread_mutex_unlock(&handlers_lock);
}

static void start(void)
{
	sc_thread_start(NULL, watchdog, NULL); /* without it an endless block is not ended, and all else works */
}

void sc_worker_begin(void)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	stack_t stack = {.ss_size = SIGNAL_STACK_BYTES};

	pthread_once(&once, start);
	if (!worker)
		abort(); /* a thread of our own that could not even begin: there is nobody to tell */
	stack.ss_sp = mmap(NULL, SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack.ss_sp != MAP_FAILED)
		sigaltstack(&stack, NULL);
	worker->signal_stack = stack.ss_sp;
	worker->thread = pthread_self();
	self = worker;
	pthread_mutex_lock(&workers_lock);
	worker->next = workers;
	workers = worker;
	pthread_cond_signal(&workers_came);
	pthread_mutex_unlock(&workers_lock);
}

void sc_worker_end(void)
{
	const stack_t off = {.ss_flags = SS_DISABLE};
	struct worker **link;

	pthread_mutex_lock(&workers_lock);
	for (link = &workers; *link != self; link = &(*link)->next)
		;
	*link = self->next;
	pthread_mutex_unlock(&workers_lock);
	sigaltstack(&off, NULL);
#ifdef __SANITIZE_ADDRESS__
	/*
	 * Frames that a jump left behind are still marked; the next mapping at this address would run into the marks.
	 */
	if (self->signal_stack != MAP_FAILED)
		__asan_unpoison_memory_region(self->signal_stack, SIGNAL_STACK_BYTES);
#endif
	if (self->signal_stack != MAP_FAILED)
		munmap(self->signal_stack, SIGNAL_STACK_BYTES);
	free(self);
	self = NULL;
}
