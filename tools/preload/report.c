/*
 * tools/preload/report.c: what `inspect` and `probe` have seen of a process, in a file of its own, PATH.PID, as a program may have
 * children that run its model. A signal handler may write one: nothing here allocates or locks.
 */
#include "preload.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

bool shim_report_open(struct shim_report *report, const char *path)
{
	char name[4096];

	report->failed = snprintf(name, sizeof(name), "%s.%d", path, (int)getpid()) >= (int)sizeof(name);
	report->text.bytes = 0;
	report->file = report->failed ? -1 : open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	return report->file >= 0;
}

static void flush(struct shim_report *report)
{
	const struct shim_text *text = &report->text;
	size_t done = 0;
	ssize_t wrote;

	while (done < text->bytes && (wrote = write(report->file, text->text + done, text->bytes - done)) > 0)
		done += wrote;
	report->failed |= done < text->bytes;
	report->text.bytes = 0;
}

struct shim_text *shim_report_text(struct shim_report *report)
{
	if (report->text.bytes > sizeof(report->text.text) / 2)
		flush(report);
	return &report->text;
}

void shim_report_close(struct shim_report *report, const char *path)
{
	flush(report);
	if (close(report->file) || report->failed)
		shim_say("cannot write %s.%d", path, (int)getpid());
}
