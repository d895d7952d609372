/*
 * profiler/symbols.c: places in programs by name: function, file and line of the frames that a report shows.
 *
 * Names come from the files that are on this machine now, which may be others than those that ran. elfutils (libdw) reads
 * them, if it was there when this was built; without it, and for files that are gone, a place is its module and offset.
 */
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Functions of the driver and of us: who called them is the place that people look for. */
static bool is_library(const char *module)
{
	const char *slash = strrchr(module, '/'), *name = slash ? slash + 1 : module;

	return !strncmp(name, "libcuda", 7) || !strncmp(name, "libkvshare", 10) || !strncmp(name, "libnvidia", 9);
}

const char *prof_frame_text(const kvs_report *report, const struct prof_frame *frame, char *out)
{
	const char *module = prof_names_text(&report->modules, frame->module), *slash = strrchr(module, '/');
	const char *function = prof_names_text(&report->names, frame->function);
	const char *file = prof_names_text(&report->names, frame->file), *file_slash = strrchr(file, '/');

	module = slash ? slash + 1 : *module ? module : "?";
	if (*file)
		snprintf(out, PROF_FRAME_TEXT, "%.70s (%.40s:%u)", *function ? function : "?",
			file_slash ? file_slash + 1 : file, frame->line);
	else if (*function)
		snprintf(out, PROF_FRAME_TEXT, "%.70s (%.40s)", function, module);
	else
		snprintf(out, PROF_FRAME_TEXT, "%.100s+0x%llx", module, (unsigned long long)frame->offset);
	return out;
}

unsigned prof_stack_place(const kvs_report *report, const struct prof_stack *stack)
{
	for (unsigned i = 0; i < stack->count; i++)
		if (!is_library(prof_names_text(&report->modules, stack->frames[i].module)))
			return i;
	return 0;
}

#ifdef PROF_LIBDW

#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <gelf.h>
#include <sys/stat.h>
#include <unistd.h>

struct names_of_module {
	Dwfl *dwfl;
	Dwfl_Module *module;
	GElf_Addr bias;
	Elf *elf;
};

struct symbols {
	kvs_report *report;
	struct names_of_module *modules; /* [number - 1] */
	bool *opened;
};

/* A path of a trace may name anything: only a regular file is read. */
static int open_regular(const char *path)
{
	int fd = *path == '/' ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	struct stat status;

	if (fd >= 0 && (fstat(fd, &status) || !S_ISREG(status.st_mode))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void open_module(struct symbols *s, uint32_t number)
{
	/* Debug information may lie beside the file, under /usr/lib/debug, or on a server that DEBUGINFOD_URLS names. */
	static const Dwfl_Callbacks callbacks = {
		.find_debuginfo = dwfl_standard_find_debuginfo, .section_address = dwfl_offline_section_address};
	struct names_of_module *m = &s->modules[number - 1];
	const char *path = prof_names_text(&s->report->modules, number);
	int fd = open_regular(path);

	s->opened[number - 1] = true;
	if (fd < 0)
		return;
	m->dwfl = dwfl_begin(&callbacks);
	if (!m->dwfl) {
		close(fd);
		return;
	}
	dwfl_report_begin(m->dwfl);
	m->module = dwfl_report_offline(m->dwfl, path, path, fd); /* takes the descriptor where it succeeds */
	dwfl_report_end(m->dwfl, NULL, NULL);
	if (!m->module)
		close(fd);
	else
		m->elf = dwfl_module_getelf(m->module, &m->bias);
}

/* Where the byte at `offset` of the file would be in memory. */
static bool address_of(const struct names_of_module *m, uint64_t offset, GElf_Addr *address)
{
	size_t count = 0;
	GElf_Phdr header;

	if (!m->elf || elf_getphdrnum(m->elf, &count))
		return false;
	for (size_t i = 0; i < count; i++) {
		if (!gelf_getphdr(m->elf, (int)i, &header) || header.p_type != PT_LOAD || offset < header.p_offset ||
			offset - header.p_offset >= header.p_filesz)
			continue;
		*address = m->bias + header.p_vaddr + (offset - header.p_offset);
		return true;
	}
	return false;
}

static uint32_t keep(struct symbols *s, const char *text)
{
	uint32_t number = prof_names_add(&s->report->names, text);

	s->report->no_memory |= !number && *text;
	return number;
}

static uint32_t keep_function(struct symbols *s, const char *name)
{
	char plain[PROF_PLAIN_NAME];

	return keep(s, prof_demangle(name, plain, sizeof(plain)));
}

/*
 * The source file at an address, and its line; NULL if unknown. elfutils looks in the table of addresses (.debug_aranges),
 * which gcc writes and clang does not: without it every unit is asked.
 */
static const char *source_of(const struct names_of_module *m, GElf_Addr address, int *number)
{
	Dwfl_Line *known = dwfl_module_getsrc(m->module, address);
	Dwarf_Die *unit = NULL;
	Dwarf_Addr bias;
	Dwarf_Line *line;

	if (known)
		return dwfl_lineinfo(known, NULL, number, NULL, NULL, NULL);
	while ((unit = dwfl_module_nextcu(m->module, unit, &bias))) {
		if (dwarf_haspc(unit, address - bias) <= 0)
			continue;
		line = dwarf_getsrc_die(unit, address - bias);
		return line && !dwarf_lineno(line, number) ? dwarf_linesrc(line, NULL, NULL) : NULL;
	}
	return NULL;
}

static void resolve(struct symbols *s, struct prof_frame *frame)
{
	struct names_of_module *m;
	GElf_Addr address;
	const char *name, *file;
	int number = 0;

	if (!frame->module || !frame->offset || frame->function)
		return;
	if (!s->opened[frame->module - 1])
		open_module(s, frame->module);
	m = &s->modules[frame->module - 1];
	/* An offset is where the call returns to, which may be the next line, or the next function. */
	if (!m->module || !address_of(m, frame->offset - 1, &address))
		return;
	name = dwfl_module_addrname(m->module, address);
	if (name)
		frame->function = keep_function(s, name);
	file = source_of(m, address, &number);
	if (!file)
		return;
	frame->file = keep(s, file);
	frame->line = number > 0 ? (unsigned)number : 0;
}

static void resolve_stack(struct symbols *s, uint32_t stack)
{
	for (unsigned i = 0; stack && i < s->report->stacks[stack - 1]->count; i++)
		resolve(s, &s->report->stacks[stack - 1]->frames[i]);
}

/* Only what is shown: a trace may have many more stacks. */
static void resolve_all(struct symbols *s)
{
	kvs_report *r = s->report;

	for (size_t i = 0; i < r->at_peak.count; i++)
		resolve_stack(s, r->at_peak.list[i].stack);
	for (size_t i = 0; i < r->leaks.count; i++)
		resolve_stack(s, r->leaks.list[i].stack);
	for (size_t i = 0; i < r->process_count; i++)
		for (unsigned f = 0; f < r->processes[i]->account.finding_count; f++)
			resolve_stack(s, r->processes[i]->account.findings[f].stack);
}

int prof_resolve(kvs_report *report)
{
	uint32_t count = report->modules.intern.count;
	struct symbols s = {.report = report,
		.modules = calloc(count + 1, sizeof(*s.modules)),
		.opened = calloc(count + 1, sizeof(*s.opened))};
	int err = 0;

	if (s.modules && s.opened)
		resolve_all(&s);
	else
		err = kvs_fail(-ENOMEM, "no memory for names of functions");
	for (uint32_t i = 0; s.modules && i < count; i++)
		if (s.modules[i].dwfl)
			dwfl_end(s.modules[i].dwfl);
	free(s.modules);
	free(s.opened);
	return err;
}

#else

int prof_resolve(kvs_report *report)
{
	(void)report;
	return 0;
}

#endif
