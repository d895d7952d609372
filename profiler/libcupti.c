/*
 * profiler/libcupti.c: finds NVIDIA's libcupti.
 *
 * A copy that is loaded already comes first: PyTorch brings its own, and two in one process would not know of each other.
 */
#include "libcupti.h"

#include "profiler.h"

#include "../driver/cu.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>

/* CUDA 13 and 12: the fields of the records that are used (cupti/records.c) have the same offsets in both. */
static const char *const names[] = {"libcupti.so.13", "libcupti.so.12"};
static const char *const places[] = {"libcupti.so.13", "libcupti.so.12", "/usr/local/cuda/lib64/libcupti.so",
	"/usr/local/cuda/extras/CUPTI/lib64/libcupti.so", "/opt/cuda/lib64/libcupti.so",
	"/opt/cuda/extras/CUPTI/lib64/libcupti.so"};

static void *open_usual(void)
{
	void *library = NULL;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !library; i++)
		library = dlopen(names[i], RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
	for (size_t i = 0; i < sizeof(places) / sizeof(*places) && !library; i++)
		library = dlopen(places[i], RTLD_NOW | RTLD_NODELETE);
	return library;
}

void *prof_libcupti_open(void)
{
	const char *asked = getenv("KVSHARE_CUPTI"), *reason;
	void *library;

	if (!asked || !*asked) {
		library = open_usual();
		if (!library)
			kvs_fail(-ENOENT, "there is no libcupti.so.13 or .12 here: it comes with the CUDA toolkit "
					  "(extras/CUPTI); "
					  "KVSHARE_CUPTI names one that lies elsewhere");
		return library;
	}
	library = dlopen(asked, RTLD_NOW | RTLD_NODELETE);
	reason = library ? NULL : dlerror();
	if (!library)
		kvs_fail(-ENOENT, "KVSHARE_CUPTI=%s cannot be loaded: %s", asked, reason ? reason : "no reason");
	return library;
}

int kvs_libcupti_find(char *path, size_t bytes)
{
	void *library = prof_libcupti_open();
	struct link_map *map;

	if (!library)
		return -ENOENT;
	if (dlinfo(library, RTLD_DI_LINKMAP, &map) || snprintf(path, bytes, "%s", map->l_name) >= (int)bytes)
		return kvs_fail(-ENOENT, "cannot tell where libcupti is");
	return 0;
}
