/*
 * profiler/bpf/exports.c: reads a library's table of exported symbols with libelf.
 */
#include "exports.h"

#include "functions.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>

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

static void read_symbol(Elf *elf, const char *name, uint64_t address, struct prof_exports *out)
{
	int function = prof_function_find(name);
	struct prof_export *item = &out->items[out->count];

	if (!strcmp(name, "softcuda_get_counters"))
		out->softcuda = true;
	if (function < 0 || out->count == prof_function_count() || !place_in_file(elf, address, &item->offset))
		return;
	item->function = (unsigned)function;
	out->count++;
}

static void read_table(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, struct prof_exports *out)
{
	Elf_Data *data = elf_getdata(section, NULL);
	size_t symbols = data && header->sh_entsize ? data->d_size / header->sh_entsize : 0;

	for (size_t i = 0; i < symbols; i++) {
		GElf_Sym symbol;
		const char *name;

		if (!gelf_getsym(data, (int)i, &symbol) || symbol.st_shndx == SHN_UNDEF ||
			GELF_ST_TYPE(symbol.st_info) != STT_FUNC)
			continue;
		name = elf_strptr(elf, header->sh_link, symbol.st_name);
		if (name)
			read_symbol(elf, name, symbol.st_value, out);
	}
}

static int compare(const void *a, const void *b)
{
	const struct prof_export *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return (x->function > y->function) - (x->function < y->function);
}

static void drop_aliases(struct prof_exports *exports)
{
	struct prof_export *items = exports->items;
	size_t kept = 0;

	qsort(items, exports->count, sizeof(*items), compare);
	for (size_t i = 0; i < exports->count; i++)
		if (!kept || items[i].offset != items[kept - 1].offset)
			items[kept++] = items[i];
	exports->count = kept;
}

static void read_elf(Elf *elf, struct prof_exports *out)
{
	Elf_Scn *section = NULL;

	while ((section = elf_nextscn(elf, section))) {
		GElf_Shdr header;
		if (gelf_getshdr(section, &header) && header.sh_type == SHT_DYNSYM)
			read_table(elf, section, &header, out);
	}
	drop_aliases(out);
}

int prof_exports_read(int fd, struct prof_exports *out)
{
	Elf *elf;

	*out = (struct prof_exports){.items = calloc(prof_function_count(), sizeof(*out->items))};
	if (!out->items)
		return kvs_fail(-ENOMEM, "no memory for a driver's functions");
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	if (elf && elf_kind(elf) == ELF_K_ELF)
		read_elf(elf, out);
	elf_end(elf);
	if (out->count)
		return 0;
	free(out->items);
	return kvs_fail(-ENOEXEC, "no functions of the CUDA driver are in it");
}
