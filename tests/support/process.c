/*
 * tests/support/process.c: child processes of tests. Output goes to temporary files, so that no pipe can fill and block.
 */
#include "process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

const char *built(const char *name)
{
	static char path[512];
	const char *build = getenv("BUILD");

	snprintf(path, sizeof(path), "%s/%s", build ? build : "build", name);
	return path;
}

static char *slurp(FILE *file)
{
	long bytes;
	char *text;

	fseek(file, 0, SEEK_END);
	bytes = ftell(file);
	rewind(file);
	text = calloc(1, bytes + 1);
	assert_non_null(text);
	assert_int_equal(fread(text, 1, bytes, file), bytes);
	fclose(file);
	return text;
}

static void become(const char *command, FILE *out, FILE *err, int seconds)
{
	const char *build = getenv("BUILD"), *path = getenv("PATH");
	char search[2048];

	snprintf(search, sizeof(search), "%s:%s", build ? build : "build", path ? path : "/usr/bin:/bin");
	setenv("PATH", search, 1);
	dup2(fileno(out), STDOUT_FILENO);
	dup2(fileno(err), STDERR_FILENO);
	alarm(seconds); /* survives exec: SIGALRM ends the child */
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

struct process run_shell(const char *command, int seconds)
{
	FILE *out = tmpfile(), *err = tmpfile();
	struct process process;
	int status;
	pid_t child;

	assert_non_null(out);
	assert_non_null(err);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		become(command, out, err, seconds);
	assert_int_equal(waitpid(child, &status, 0), child);
	process.status = WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
	process.out = slurp(out);
	process.err = slurp(err);
	return process;
}

struct process run_in_directory(const char *command, int seconds)
{
	char whole[8192];

	snprintf(whole, sizeof(whole), "T=$(mktemp -d); (%s); status=$?; rm -r $T; exit $status", command);
	return run_shell(whole, seconds);
}

void process_free(struct process *process)
{
	free(process->out);
	free(process->err);
}

static json_t *json_of(struct process process, const char *command)
{
	json_error_t error;
	json_t *json;

	if (process.status)
		fail_msg("`%s` exited %d: %s", command, process.status, process.err);
	json = json_loads(process.out, 0, &error);
	if (!json)
		fail_msg("`%s` printed what is not JSON (%s): %s", command, error.text, process.out);
	process_free(&process);
	return json;
}

json_t *run_json(const char *command)
{
	return json_of(run_shell(command, 300), command);
}

json_t *run_json_in_directory(const char *command)
{
	return json_of(run_in_directory(command, 300), command);
}

void assert_refused(const struct bad_input *input, const char *command)
{
	struct process process = run_in_directory(command, 60);

	if (process.status != input->status || !strstr(process.err, input->said) || process.out[0])
		fail_msg("%s: status %d, stdout \"%s\", stderr \"%s\"", input->what, process.status, process.out,
			process.err);
	process_free(&process);
}

const json_t *json_at(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	assert_non_null(value);
	return value;
}

double json_number_at(const json_t *object, const char *key)
{
	return json_number_value(json_at(object, key));
}
