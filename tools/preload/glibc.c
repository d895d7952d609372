/*
 * tools/preload/glibc.c: functions of glibc by the oldest of their versions, so that the shim loads with glibc 2.31 wherever it was
 * built. A program's machine may have an older glibc than ours, and the linker binds to the newest version that it sees.
 *
 * The linker sends each call of NAME here (--wrap=NAME in build.mk). Before 2.34 the functions of threads and of dlopen were in
 * libpthread and libdl, which the shim names as needed; they have been empty since. tests/preload/glibc_test.sh looks at the result.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__
#define FIRST "GLIBC_2.2.5"
#define CONDATTR_SETCLOCK "GLIBC_2.3.3"
#else
#define FIRST "GLIBC_2.17"
#define CONDATTR_SETCLOCK "GLIBC_2.17"
#endif

#define OLD(name, version)                                                                                             \
	extern __typeof__(name) old_##name, __wrap_##name;                                                             \
	__asm__(".symver old_" #name ", " #name "@" version)

OLD(dlopen, FIRST);
OLD(dlclose, FIRST);
OLD(dlerror, FIRST);
OLD(pthread_create, FIRST);
OLD(pthread_join, FIRST);
OLD(pthread_once, FIRST);
OLD(pthread_key_create, FIRST);
OLD(pthread_setspecific, FIRST);
OLD(pthread_sigmask, FIRST);
OLD(pthread_rwlock_rdlock, FIRST);
OLD(pthread_rwlock_wrlock, FIRST);
OLD(pthread_rwlock_unlock, FIRST);
OLD(pthread_condattr_setclock, CONDATTR_SETCLOCK);
extern __typeof__(stat) __wrap_stat;
extern __typeof__(fstat) __wrap_fstat;

void *__wrap_dlopen(const char *file, int mode)
{
	return old_dlopen(file, mode);
}

int __wrap_dlclose(void *library)
{
	return old_dlclose(library);
}

char *__wrap_dlerror(void)
{
	return old_dlerror();
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
	return old_pthread_create(thread, attr, start, arg);
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
	return old_pthread_join(thread, result);
}

int __wrap_pthread_once(pthread_once_t *control, void (*routine)(void))
{
	return old_pthread_once(control, routine);
}

int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
	return old_pthread_key_create(key, end);
}

int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
	return old_pthread_setspecific(key, value);
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return old_pthread_sigmask(how, set, old);
}

int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
	return old_pthread_rwlock_rdlock(lock);
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
	return old_pthread_rwlock_wrlock(lock);
}

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
	return old_pthread_rwlock_unlock(lock);
}

int __wrap_pthread_condattr_setclock(pthread_condattr_t *attr, clockid_t clock)
{
	return old_pthread_condattr_setclock(attr, clock);
}

/* Until 2.33 they were no functions; the kernel's struct stat is glibc's on 64-bit machines. */
int __wrap_stat(const char *restrict path, struct stat *restrict out)
{
	return (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0);
}

int __wrap_fstat(int fd, struct stat *out)
{
	return (int)syscall(SYS_fstat, fd, out);
}
