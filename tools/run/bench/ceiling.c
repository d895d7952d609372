/*
 * tools/run/bench/ceiling.c: the bandwidth of the device's memory, in a copy and in reads alone. All else is compared
 * with it.
 */
#include "bench.h"

#define COPY_BYTES ((size_t)1 << 30)
#define HOST_COPY_BYTES ((size_t)64 << 20)

static int run_copy(void *arg)
{
	const struct bench *bench = arg;
	CUresult result = bench->cu->cuMemcpyDtoDAsync(bench->to, bench->from, bench->copy_bytes, NULL);

	return result ? kvs_cu_fail(bench->cu, result, "copying %zu bytes on the device", bench->copy_bytes) : 0;
}

static int measure_copy(struct bench *bench, json_t *report)
{
	double seconds;
	int err = bench_time(bench, NULL, run_copy, bench, 1, &seconds);

	if (err)
		return err;
	bench->copy_gbs = 2 * bench->copy_bytes / seconds / 1e9;
	json_object_set_new(report, "copy",
		json_pack("{s:I,s:f}", "bytes", (json_int_t)bench->copy_bytes, "gb_per_s", bench->copy_gbs));
	if (!bench->quiet)
		printf("copy        %10.1f GB/s (read and written)\n", bench->copy_gbs);
	return 0;
}

/* The sum is written to the target of the copy. */
struct read {
	kvs_stream *stream;
	const struct bench *bench;
};

static int run_read(void *arg)
{
	const struct read *read = arg;
	kvs_tensor sum = {read->bench->to, KVS_I32, 1, 1};

	return kvs_checksum(read->stream, sum, read->bench->from, read->bench->copy_bytes);
}

static int measure_read(struct bench *bench, json_t *report)
{
	struct read read = {.bench = bench};
	int err = kvs_stream_open(bench->cu, &read.stream);
	double seconds;

	if (err)
		return err;
	err = bench_time(bench, kvs_stream_handle(read.stream), run_read, &read, 1, &seconds);
	kvs_stream_close(read.stream);
	if (err)
		return err;
	bench->read_gbs = bench->copy_bytes / seconds / 1e9;
	json_object_set_new(report, "read",
		json_pack("{s:I,s:f,s:f}", "bytes", (json_int_t)bench->copy_bytes, "gb_per_s", bench->read_gbs,
			"percent_of_copy", 100 * bench->read_gbs / bench->copy_gbs));
	if (!bench->quiet)
		printf("read        %10.1f GB/s  %6.1f %% of copy\n", bench->read_gbs,
			100 * bench->read_gbs / bench->copy_gbs);
	return 0;
}

int bench_ceiling(struct bench *bench, json_t *report)
{
	CUresult result;
	int err;

	bench->copy_bytes = bench->cu->kind == KVS_DEVICE_HOST ? HOST_COPY_BYTES : COPY_BYTES;
	result = bench->cu->cuMemAlloc(&bench->from, bench->copy_bytes);
	if (!result)
		result = bench->cu->cuMemAlloc(&bench->to, bench->copy_bytes);
	if (result)
		return kvs_cu_fail(bench->cu, result, "two buffers of %zu MiB", bench->copy_bytes >> 20);
	err = bench_fill_random(bench, bench->from, bench->copy_bytes, KVS_F32);
	if (!err)
		err = measure_copy(bench, report);
	return err ? err : measure_read(bench, report);
}
