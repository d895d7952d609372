/*
 * tools/preload/elf.c: finds a function of glibc's in memory, by name and version.
 *
 * The shim has a dlsym and a dlvsym of its own, so it cannot ask for the real ones by name; it reads the symbol table of
 * the library that has them, as the dynamic linker does. Nothing here allocates, locks or calls what another library may
 * have replaced, strcmp included, because dlsym is called by allocators and sanitizers while they start.
 */
#include "preload.h"

#include <elf.h>
#include <link.h>

struct tables {
	const ElfW(Sym) * symbols;
	const char *strings;
	const ElfW(Half) * versions;  /* of each symbol; NULL: none */
	const ElfW(Verdef) * defined; /* the versions' names */
	const uint32_t *gnu_hash;
	ElfW(Addr) base;
};

struct search {
	const char *library, *name, *version;
	void *found;
};

bool shim_same(const char *a, const char *b)
{
	for (; *a && *a == *b; a++)
		b++;
	return *a == *b;
}

/* What comes after the last slash. */
static const char *file_of(const char *path)
{
	const char *file = path;

	for (; *path; path++)
		if (*path == '/')
			file = path + 1;
	return file;
}

/* glibc replaces the addresses in the dynamic section by real ones, other linkers do not. */
static const void *address_of(const struct dl_phdr_info *info, ElfW(Addr) value)
{
	return (const void *)(value < info->dlpi_addr ? value + info->dlpi_addr : value);
}

static bool tables_read(const struct dl_phdr_info *info, struct tables *out)
{
	const ElfW(Dyn) *entry = NULL;

	*out = (struct tables){0};
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			entry = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	for (; entry && entry->d_tag != DT_NULL; entry++) {
		const void *address = address_of(info, entry->d_un.d_ptr);

		if (entry->d_tag == DT_SYMTAB)
			out->symbols = address;
		else if (entry->d_tag == DT_STRTAB)
			out->strings = address;
		else if (entry->d_tag == DT_VERSYM)
			out->versions = address;
		else if (entry->d_tag == DT_VERDEF)
			out->defined = address;
		else if (entry->d_tag == DT_GNU_HASH)
			out->gnu_hash = address;
	}
	out->base = info->dlpi_addr;
	return out->symbols && out->strings && out->versions && out->defined && out->gnu_hash;
}

static const char *version_name(const struct tables *tables, unsigned index)
{
	for (const ElfW(Verdef) *defined = tables->defined;;
		defined = (const void *)((const char *)defined + defined->vd_next)) {
		if (defined->vd_ndx == index) {
			const ElfW(Verdaux) *first = (const void *)((const char *)defined + defined->vd_aux);

			return tables->strings + first->vda_name;
		}
		if (!defined->vd_next)
			return "";
	}
}

static uint32_t hash_of(const char *name)
{
	uint32_t hash = 5381;

	for (; *name; name++)
		hash = hash * 33 + (unsigned char)*name;
	return hash;
}

static bool symbol_fits(const struct tables *tables, uint32_t at, const struct search *search)
{
	return tables->symbols[at].st_shndx != SHN_UNDEF &&
	       shim_same(tables->strings + tables->symbols[at].st_name, search->name) &&
	       shim_same(version_name(tables, tables->versions[at] & 0x7fff), search->version);
}

/* The layout of DT_GNU_HASH: four numbers, the bloom filter (machine words), the buckets, the chains. */
static void *symbol_find(const struct tables *tables, const struct search *search)
{
	uint32_t count = tables->gnu_hash[0], first = tables->gnu_hash[1], words = tables->gnu_hash[2];
	const uint32_t *buckets = tables->gnu_hash + 4 + words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
	const uint32_t *chain = buckets + count;
	uint32_t hash = hash_of(search->name), at = buckets[hash % count];

	for (; at >= first; at++) {
		if ((chain[at - first] | 1) == (hash | 1) && symbol_fits(tables, at, search))
			return (void *)(tables->base + tables->symbols[at].st_value);
		if (chain[at - first] & 1)
			break;
	}
	return NULL;
}

static int object_search(struct dl_phdr_info *info, size_t bytes, void *arg)
{
	struct search *search = arg;
	struct tables tables;

	(void)bytes;
	if (!shim_same(file_of(info->dlpi_name), search->library) || !tables_read(info, &tables))
		return 0;
	search->found = symbol_find(&tables, search);
	return search->found != NULL;
}

void *shim_elf_find(const char *library, const char *name, const char *version)
{
	struct search search = {library, name, version, NULL};

	dl_iterate_phdr(object_search, &search);
	return search.found;
}
