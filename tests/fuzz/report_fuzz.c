/*
 * tests/fuzz/report_fuzz.c: any bytes as a trace, made into a report in every form. JSON must be JSON, and the page small.
 *
 * As in trace_fuzz, the checksums of the chunks are put right first.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "../../profiler/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void put_checksums_right(uint8_t *data, size_t size)
{
	struct prof_chunk_header header;
	size_t after = offsetof(struct prof_chunk_header, payload_bytes);

	for (size_t at = sizeof(struct prof_file_header); at + sizeof(header) <= size;) {
		memcpy(&header, data + at, sizeof(header));
		if (header.magic != PROF_CHUNK_MAGIC || header.payload_bytes > size - at - sizeof(header))
			return;
		header.crc = crc32(0, data + at + after, sizeof(header) - after + header.payload_bytes);
		memcpy(data + at, &header, sizeof(header));
		at += sizeof(header) + header.payload_bytes;
	}
}

static void must_be_json(char *text)
{
	json_t *json = json_loads(text, 0, NULL);

	require(json != NULL);
	json_decref(json);
	free(text);
}

static void write_all(const kvs_report *report)
{
	struct kvs_left_out left_out;
	char *text;

	require(!kvs_report_text(report, &text));
	free(text);
	require(!kvs_report_json(report, &text));
	must_be_json(text);
	require(!kvs_report_html(report, &text));
	require(strlen(text) <= 2 << 20 && strstr(text, "</html>"));
	free(text);
	require(!kvs_report_perfetto(report, &text, &left_out));
	must_be_json(text);
	require(!kvs_report_csv(report, &text, &left_out));
	free(text);
	require(!kvs_report_speedscope(report, &text));
	must_be_json(text);
	require(!kvs_report_diff_text(report, report, &text));
	free(text);
	require(!kvs_report_diff_html(report, report, NULL, &text));
	require(strlen(text) <= 2 << 20 && strstr(text, "</html>"));
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);
	kvs_report *report;
	char path[64];
	int fd = memfd_create("trace", 0);

	require(copy && fd >= 0);
	memcpy(copy, data, size);
	put_checksums_right(copy, size);
	require(write(fd, copy, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!kvs_report_make(path, &report)) {
		write_all(report);
		kvs_report_free(report);
	}
	close(fd);
	free(copy);
	return 0;
}
