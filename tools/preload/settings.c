/*
 * tools/preload/settings.c: what the environment asks for, read at the first driver call; `kvshare-run exec` sets it.
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct shim_settings settings;
_Atomic(const struct shim_settings *) shim_settings_known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void shim_say(const char *format, ...)
{
	char line[1024] = "kvshare: ";
	size_t used = strlen(line);
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
	va_end(args);
	used += length < 0 ? 0 : (size_t)length < sizeof(line) - used - 1 ? (size_t)length : sizeof(line) - used - 2;
	line[used++] = '\n';
	if (write(STDERR_FILENO, line, used) < 0) /* nobody listens: there is nothing to do about it */
		return;
}

static bool is_on(const char *name)
{
	const char *value = getenv(name);

	return value && *value && strcmp(value, "0");
}

/* A copy: a program may write over its environment, as those do that change their title. No memory: as if it were not set. */
static const char *kept(const char *name)
{
	const char *value = getenv(name);

	return value ? strdup(value) : NULL;
}

/* The program runs unshared, and only its launches are watched. */
static void probe_read(const char *layout)
{
	settings.off = true;
	if (!shim_layout_parse(layout, &settings.layout))
		return;
	shim_say("nothing is probed: %s", kvs_error());
	settings.probe_path = NULL;
}

static int policy_read(void)
{
	const char *policy = getenv("KVSHARE_POLICY");

	settings.last = policy && !strcmp(policy, "last");
	if (!policy || !*policy || settings.last || !strcmp(policy, "owner"))
		return 0;
	return kvs_fail(-EINVAL, "KVSHARE_POLICY is \"%s\"; owner or last is expected", policy);
}

/* "1" is stderr. */
static void log_read(void)
{
	const char *log = getenv("KVSHARE_LOG");

	settings.log_to_stderr = log && !strcmp(log, "1");
	settings.log_path = is_on("KVSHARE_LOG") && !settings.log_to_stderr ? kept("KVSHARE_LOG") : NULL;
}

static void settings_read(void)
{
	const char *owners = getenv("KVSHARE_OWNERS"), *layout = getenv("KVSHARE_LAYOUT");
	int err;

	settings.strict = is_on("KVSHARE_STRICT");
	settings.sync = is_on("KVSHARE_SYNC");
	settings.stats_path = kept("KVSHARE_STATS");
	log_read();
	settings.writers = kept("KVSHARE_WRITERS");
	settings.inspect_path = kept("KVSHARE_INSPECT");
	settings.probe_path = layout && !shim_is_disabled() ? kept("KVSHARE_PROBE") : NULL;
	settings.only_writers = is_on("KVSHARE_ONLY_WRITERS");
	settings.off = shim_is_disabled() || settings.inspect_path || !owners || !layout;
	if (settings.probe_path)
		probe_read(layout);
	if (settings.off)
		return;
	err = policy_read();
	if (!err)
		err = shim_owners_parse(owners, getenv("KVSHARE_V_OWNERS"), &settings.owners);
	if (!err)
		err = shim_layout_parse(layout, &settings.layout);
	if (!err)
		err = shim_layout_check(&settings.layout, &settings.owners, 0);
	settings.off = settings.broken = err != 0;
	if (err)
		shim_say("nothing is shared: %s", kvs_error());
}

static void settings_make(void)
{
	settings_read();
	settings.each_launch = settings.inspect_path || settings.probe_path || settings.sync;
	atomic_store_explicit(&shim_settings_known, &settings, memory_order_release);
}

const struct shim_settings *shim_settings_read(void)
{
	pthread_once(&once, settings_make);
	return &settings;
}
