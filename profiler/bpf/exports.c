/*
 * profiler/bpf/exports.c: reads a library's table of exported symbols with libelf.
 */
#include "exports.h"

#include "functions.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <gelf.h>
#include <stdlib.h>

static bool place_in_file(Elf *elf, uint64_t address, uint64_t *offset)
{
	size_t count;
	GElf_Phdr segment;

	if (elf_getphdrnum(elf, &count))
		return false;
	for (size_t i = 0; i < count; i++) {
		if (!gelf_getphdr(elf, (int)i, &segment) || segment.p_type != PT_LOAD)
			continue;
		if (address - segment.p_vaddr < segment.p_filesz) {
			*offset = address - segment.p_vaddr + segment.p_offset;
			return true;
		}
	}
	return false;
}

/* Of one table of symbols: adds what is watched behind the `count` that are there. */
static size_t read_table(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, struct prof_export *out, size_t count)
{
	Elf_Data *data = elf_getdata(section, NULL);
	size_t symbols = data && header->sh_entsize ? data->d_size / header->sh_entsize : 0;

	for (size_t i = 0; i < symbols && count < prof_function_count(); i++) {
		GElf_Sym symbol;
		const char *name;
		int function;

		if (!gelf_getsym(data, (int)i, &symbol) || symbol.st_shndx == SHN_UNDEF ||
			GELF_ST_TYPE(symbol.st_info) != STT_FUNC)
			continue;
		name = elf_strptr(elf, header->sh_link, symbol.st_name);
		function = name ? prof_function_find(name) : -1;
		if (function < 0 || !place_in_file(elf, symbol.st_value, &out[count].offset))
			continue;
		out[count++].function = (unsigned)function;
	}
	return count;
}

static int compare(const void *a, const void *b)
{
	const struct prof_export *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return (x->function > y->function) - (x->function < y->function);
}

static size_t drop_aliases(struct prof_export *symbols, size_t count)
{
	size_t kept = 0;

	qsort(symbols, count, sizeof(*symbols), compare);
	for (size_t i = 0; i < count; i++)
		if (!kept || symbols[i].offset != symbols[kept - 1].offset)
			symbols[kept++] = symbols[i];
	return kept;
}

static size_t read_elf(Elf *elf, struct prof_export *out)
{
	Elf_Scn *section = NULL;
	size_t count = 0;

	while ((section = elf_nextscn(elf, section))) {
		GElf_Shdr header;
		if (gelf_getshdr(section, &header) && header.sh_type == SHT_DYNSYM)
			count = read_table(elf, section, &header, out, count);
	}
	return drop_aliases(out, count);
}

int prof_exports_read(int fd, struct prof_export **out, size_t *count)
{
	struct prof_export *symbols = calloc(prof_function_count(), sizeof(*symbols));
	Elf *elf;

	if (!symbols)
		return kvs_fail(-ENOMEM, "no memory for a driver's symbols");
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	*count = elf && elf_kind(elf) == ELF_K_ELF ? read_elf(elf, symbols) : 0;
	elf_end(elf);
	if (!*count) {
		free(symbols);
		return kvs_fail(-ENOEXEC, "no functions of the CUDA driver are in it");
	}
	*out = symbols;
	return 0;
}
