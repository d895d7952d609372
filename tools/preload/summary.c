/*
 * tools/preload/summary.c: what sharing did, as text for people. A signal handler may make it, so figures with a point are
 * made of whole numbers.
 */
#include "preload.h"

#include <stdarg.h>
#include <stdio.h>

void shim_text_add(struct shim_text *text, const char *format, ...)
{
	size_t room = sizeof(text->text) - text->bytes;
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text->text + text->bytes, room, format, args);
	va_end(args);
	if (length > 0)
		text->bytes += (size_t)length < room ? (size_t)length : room - 1;
}

/* Tenths of the largest unit that is not larger than the value. */
struct unit {
	unsigned long size;
	const char *name;
};

static void measure_add(struct shim_text *text, unsigned long value, const struct unit *unit)
{
	unsigned long tenths;

	while (unit->size > 1 && value < unit->size)
		unit++;
	tenths = value / unit->size * 10 + value % unit->size * 10 / unit->size;
	if (unit->size == 1)
		shim_text_add(text, "%lu %s", value, unit->name);
	else
		shim_text_add(text, "%lu.%lu %s", tenths / 10, tenths % 10, unit->name);
}

static void bytes_add(struct shim_text *text, unsigned long bytes)
{
	static const struct unit units[] = {{1ul << 30, "GiB"}, {1ul << 20, "MiB"}, {1ul << 10, "KiB"}, {1, "bytes"}};

	measure_add(text, bytes, units);
}

static void time_add(struct shim_text *text, unsigned long ns)
{
	static const struct unit units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};

	measure_add(text, ns, units);
}

static void memory_add(struct shim_text *text, const struct shim_account *account)
{
	const struct shim_memory *memory = &account->memory;

	if (!memory->virtual_bytes) {
		shim_text_add(text, "no KV cache was shared\n");
		return;
	}
	shim_text_add(text, "a KV cache of ");
	bytes_add(text, memory->virtual_bytes);
	shim_text_add(text, " took ");
	bytes_add(text, memory->physical_bytes);
	shim_text_add(text, " of device memory, ");
	bytes_add(text, memory->sink_bytes);
	shim_text_add(text, " of that for the sink; ");
	bytes_add(text, memory->saved_bytes);
	shim_text_add(text, " were saved; %lu launches were patched\n", account->launches_patched);
}

void shim_summary_make(struct shim_text *text, const char *name, const struct shim_account *account)
{
	const char *between = " calls, and their time with the driver's part: ";

	shim_text_add(text, "kvshare: %s: ", name);
	memory_add(text, account);
	shim_text_add(text, "kvshare: %s:", name);
	for (int i = 0; i < SHIM_KIND_COUNT; i++) {
		if (!account->calls[i])
			continue;
		shim_text_add(text, "%s%s %lu", between, shim_kind_names[i], account->calls[i]);
		if (account->ns[i]) { /* some were timed */
			shim_text_add(text, " (");
			time_add(text, account->ns[i]);
			shim_text_add(text, ")");
		}
		between = ", ";
	}
	shim_text_add(text, "%s\n", *between == ',' ? "" : " no calls");
}
