/*
 * profiler/names.c: strings with numbers, and the words that reports use.
 */
#include "report.h"

#include <stdlib.h>
#include <string.h>

uint32_t prof_names_add(struct prof_names *names, const char *text)
{
	size_t bytes = strlen(text);
	bool is_new;

	/* Room first, so that a string that has a number always has a text. */
	if (names->intern.count >= names->room) {
		uint32_t room = names->room ? 2 * names->room : 64;
		char **larger = realloc(names->texts, room * sizeof(*larger));
		if (!larger)
			return 0;
		names->texts = larger;
		names->room = room;
	}
	uint32_t number = bytes ? prof_intern(&names->intern, text, bytes + 1, &is_new) : 0;
	if (number && is_new)
		names->texts[number - 1] = prof_intern_data(&names->intern, text, bytes + 1);
	return number;
}

const char *prof_names_text(const struct prof_names *names, uint32_t number)
{
	return number && number <= names->intern.count ? names->texts[number - 1] : "";
}

void prof_names_clear(struct prof_names *names)
{
	prof_intern_clear(&names->intern);
	free(names->texts);
	*names = (struct prof_names){0};
}

const char *kvs_memory_kind_name(enum kvs_memory_kind kind)
{
	static const char *const names[KVS_MEMORY_KINDS] = {
		[KVS_MEMORY_UNKNOWN] = "other",
		[KVS_MEMORY_WEIGHTS] = "weights",
		[KVS_MEMORY_K] = "K",
		[KVS_MEMORY_V] = "V",
		[KVS_MEMORY_WORKSPACE] = "workspace",
		[KVS_MEMORY_ACTIVATIONS] = "activations",
		[KVS_MEMORY_SINK] = "sink",
		[KVS_MEMORY_PROFILER] = "profiler",
	};

	return kind < KVS_MEMORY_KINDS ? names[kind] : names[KVS_MEMORY_UNKNOWN];
}

const char *prof_source_name(enum kvs_source source)
{
	return source == KVS_SOURCE_OURS    ? "ours"
	       : source == KVS_SOURCE_EBPF  ? "ebpf"
	       : source == KVS_SOURCE_CUPTI ? "cupti"
					    : "none";
}

const char *prof_copy_name(enum kvs_copy_kind kind)
{
	static const char *const names[KVS_COPY_KINDS] = {
		[KVS_COPY_OTHER] = "other",
		[KVS_COPY_HTOD] = "host to device",
		[KVS_COPY_DTOH] = "device to host",
		[KVS_COPY_DTOD] = "within a device",
		[KVS_COPY_PTOP] = "between devices",
		[KVS_COPY_FILL] = "fill",
	};

	return names[kind];
}

const char *prof_span_name(enum kvs_span_kind kind)
{
	return kind == KVS_SPAN_RANGE ? "range" : kind == KVS_SPAN_OVERHEAD ? "overhead" : "other";
}

const char *prof_finding_name(enum prof_finding_kind kind)
{
	static const char *const names[PROF_FINDING_KINDS] = {
		[PROF_DOUBLE_MAP] = "mapped twice",
		[PROF_USE_AFTER_UNMAP] = "used after it was given back",
		[PROF_DOUBLE_FREE] = "given back twice",
	};

	return names[kind];
}

/* The first of these words that is in the name says what the kernel does; in this order, as names hold several. */
const char *prof_kernel_class(const char *name)
{
	static const struct {
		const char *word, *class;
	} words[] = {
		{"attention", "attention"},
		{"flash", "attention"},
		{"fmha", "attention"},
		{"paged", "attention"},
		{"gemv", "gemm"},
		{"gemm", "gemm"},
		{"cutlass", "gemm"},
		{"cublas", "gemm"},
		{"splitK", "gemm"},
		{"rope", "rope and append"},
		{"rotary", "rope and append"},
		{"set_rows", "rope and append"},
		{"reshape_and_cache", "rope and append"},
		{"index_copy", "rope and append"},
		{"norm", "norm"},
		{"silu", "activation"},
		{"gelu", "activation"},
		{"act_and_mul", "activation"},
		{"embed", "embedding"},
		{"softmax", "logits"},
		{"argmax", "logits"},
		{"nll", "logits"},
		{"memcpy", "copy"},
		{"memset", "copy"},
		{"copy", "copy"},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (strcasestr(name, words[i].word))
			return words[i].class;
	return "other";
}
