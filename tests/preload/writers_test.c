/*
 * The kernels that write a cache, as `kvshare-run probe` finds them and `exec --writers` takes them; probe_test.sh has all cases.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LAYOUT "--layout slab:layers=2,k=2MiB,v=2MiB "
#define OPTIONS "layers=2 bytes=2097152 tokens=3 "

static char file[] = "/tmp/kvshare-writers-XXXXXX";

/* A subcommand with its options, and the decoder with its own. */
static struct process decoder(const char *before, const char *options)
{
	char command[2048], program[512], kernels[512];

	snprintf(program, sizeof(program), "%s", built("tests/clients/decoder"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(command, sizeof(command),
		"ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 kvshare-run %s -- %s " OPTIONS "%s %s", before,
		program, options, kernels);
	return run_shell(command, 60);
}

static struct process probe(const char *options)
{
	char before[512];

	snprintf(before, sizeof(before), "probe --device host " LAYOUT "-o %s", file);
	return decoder(before, options);
}

static struct process with_writers(const char *options)
{
	char before[512];

	snprintf(before, sizeof(before), "exec --device host --owners 0,0 " LAYOUT "--writers %s", file);
	return decoder(before, options);
}

/* The member of the only writer in the file. */
static json_t *writer(json_t **document)
{
	json_error_t error;

	*document = json_load_file(file, 0, &error);
	assert_non_null(*document);
	assert_int_equal(json_array_size(json_object_get(*document, "writers")), 1);
	return json_array_get(json_object_get(*document, "writers"), 0);
}

/* Probing runs launches a second time, and the program must not see it. */
static void a_probed_program_prints_what_it_prints_alone(void **state)
{
	struct process alone = decoder("exec --device host", ""), probed = probe("");

	(void)state;
	assert_int_equal(alone.status, 0);
	assert_int_equal(probed.status, 0);
	assert_memory_equal(probed.out, alone.out, strlen(alone.out));
	process_free(&alone);
	process_free(&probed);
}

static void an_address_in_a_struct_is_found_at_its_offset(void **state)
{
	struct process probed = probe("store=struct");
	json_t *document, *found;

	(void)state;
	assert_int_equal(probed.status, 0);
	found = writer(&document);
	assert_string_equal(json_string_value(json_object_get(found, "kernel")), "client_index_copy");
	assert_int_equal(json_integer_value(json_object_get(found, "parameter")), 0);
	assert_int_equal(json_integer_value(json_object_get(found, "offset")), 24);
	json_decref(document);
	process_free(&probed);
}

/* Whether the shim's own line has the name: the program names the launch that failed too. */
static bool shim_names(const char *err, const char *kernel)
{
	const char *line = strstr(err, "kvshare: "), *found = line ? strstr(line, kernel) : NULL;

	return found && found < line + strcspn(line, "\n");
}

/* A file whose writer has another name, or another parameter, ends in a fault that names the kernel. */
static void a_writer_that_is_not_in_the_file_is_named(const char *key, json_t *value)
{
	struct process probed = probe(""), run;
	json_t *document;

	assert_int_equal(probed.status, 0);
	json_object_set_new(writer(&document), key, value);
	assert_int_equal(json_dump_file(document, file, 0), 0);
	run = with_writers("");
	assert_int_not_equal(run.status, 0);
	assert_true(shim_names(run.err, "client_set_rows"));
	json_decref(document);
	process_free(&probed);
	process_free(&run);
}

static void no_other_kernel_writes(void **state)
{
	(void)state;
	a_writer_that_is_not_in_the_file_is_named("kernel", json_string("client_other"));
}

static void no_other_parameter_is_written_through(void **state)
{
	(void)state;
	a_writer_that_is_not_in_the_file_is_named("parameter", json_integer(1));
}

/* Probing finds no writer that can be shared with, and `count` parameters that forbid it. */
static void nothing_is_shareable(const char *options, size_t count)
{
	struct process probed = probe(options);
	json_error_t error;
	json_t *document;

	assert_int_equal(probed.status, 0);
	document = json_load_file(file, 0, &error);
	assert_non_null(document);
	assert_int_equal(json_array_size(json_object_get(document, "writers")), 0);
	assert_int_equal(json_array_size(json_object_get(document, "not_shareable")), count);
	json_decref(document);
	process_free(&probed);
}

/* Its stores in the first token are all that it reads there, so that only a later one shows it. */
static void a_kernel_that_appends_and_attends_is_not_shareable(void **state)
{
	(void)state;
	nothing_is_shareable("store=fused graph=capture", 2); /* K and V */
}

/* maps_test.sh has more: graphs, and maps that cannot be shared. */
static void a_tensor_map_of_a_borrower_becomes_one_of_the_sink(void **state)
{
	struct process own = decoder("exec --device host", "owners=0,0"), probed = probe("store=map"),
		       run = with_writers("store=map");

	(void)state;
	assert_int_equal(own.status, 0);
	assert_int_equal(probed.status, 0);
	assert_int_equal(run.status, 0);
	assert_string_equal(run.out, own.out);
	process_free(&own);
	process_free(&probed);
	process_free(&run);
}

static void a_tensor_map_of_several_layers_is_not_shareable(void **state)
{
	(void)state;
	nothing_is_shareable("store=maps", 1);
}

static int file_make(void **state)
{
	int made = mkstemp(file);

	(void)state;
	return made < 0 ? -1 : close(made);
}

static int file_remove(void **state)
{
	(void)state;
	return unlink(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_probed_program_prints_what_it_prints_alone),
		cmocka_unit_test(an_address_in_a_struct_is_found_at_its_offset),
		cmocka_unit_test(no_other_kernel_writes),
		cmocka_unit_test(no_other_parameter_is_written_through),
		cmocka_unit_test(a_kernel_that_appends_and_attends_is_not_shareable),
		cmocka_unit_test(a_tensor_map_of_a_borrower_becomes_one_of_the_sink),
		cmocka_unit_test(a_tensor_map_of_several_layers_is_not_shareable),
	};

	return cmocka_run_group_tests(tests, file_make, file_remove);
}
