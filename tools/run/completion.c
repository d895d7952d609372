/*
 * tools/run/completion.c: `kvshare-run completion bash|zsh` prints a completion for that shell, made from the tables of
 * options.
 *
 * An option's values follow from its argument in help: "f16|bf16|f32" is three words, FILE and PLAN are files, DIR is a
 * directory.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

/* Called for each option of a command and of its argp children, except hidden ones and headings. */
typedef void option_fn(const struct argp_option *option);

static void each_option(const struct argp *argp, option_fn *tell)
{
	for (const struct argp_option *o = argp->options; o && (o->name || o->doc); o++)
		if (o->name && !(o->flags & OPTION_HIDDEN))
			tell(o);
	for (const struct argp_child *child = argp->children; child && child->argp; child++)
		each_option(child->argp, tell);
}

static bool is_directory(const char *arg)
{
	return !strcmp(arg, "DIR");
}

static bool is_file(const char *arg)
{
	return !strcmp(arg, "FILE") || !strcmp(arg, "PLAN") || !strcmp(arg, "PATH");
}

/* "a|b|c" as "a b c" */
static void put_words(const char *arg)
{
	for (; *arg; arg++)
		putchar(*arg == '|' ? ' ' : *arg);
}

/* ---- bash ---- */

static void put_bash_name(const struct argp_option *o)
{
	printf(" --%s", o->name);
	if (o->key > ' ' && o->key < 127)
		printf(" -%c", o->key);
}

static void put_bash_value(const struct argp_option *o)
{
	if (!o->arg)
		return;
	printf("\t\t--%s", o->name);
	if (o->key > ' ' && o->key < 127)
		printf("|-%c", o->key);
	fputs(") ", stdout);
	if (is_directory(o->arg))
		fputs("COMPREPLY=($(compgen -d -- \"$word\")); ", stdout);
	else if (is_file(o->arg))
		fputs("COMPREPLY=($(compgen -f -- \"$word\")); ", stdout);
	else if (strchr(o->arg, '|')) {
		fputs("COMPREPLY=($(compgen -W '", stdout);
		put_words(o->arg);
		fputs("' -- \"$word\")); ", stdout);
	}
	fputs("return ;;\n", stdout);
}

static void put_bash_command(const char *name, const struct argp *argp)
{
	printf("\t'%s')\n\t\tcase $before in\n", name);
	each_option(argp, put_bash_value);
	fputs("\t\tesac\n\t\twords='", stdout);
	each_option(argp, put_bash_name);
	fputs(" --help --version' ;;\n", stdout);
}

static void put_names(const struct run_subcommand *const *commands)
{
	for (; *commands; commands++)
		printf("%s ", (*commands)->name);
}

static void print_bash(const struct run_subcommand *const *commands)
{
	fputs("# bash completion of kvshare-run; made by `kvshare-run completion bash`\n"
	      "_kvshare_run()\n{\n"
	      "\tlocal word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} "
	      "words\n"
	      "\tCOMPREPLY=()\n"
	      "\tcompopt -o filenames 2>/dev/null\n"
	      "\tif [ \"$word\" = = ]; then word=; elif [ \"$before\" = = ]; then before=${COMP_WORDS[COMP_CWORD-2]}; "
	      "fi\n"
	      "\tif [ \"$COMP_CWORD\" -eq 1 ] || { [ \"$command\" = help ] && [ \"$COMP_CWORD\" -eq 2 ]; }; then\n"
	      "\t\tCOMPREPLY=($(compgen -W '",
		stdout);
	put_names(commands);
	fputs("help --help --version' -- \"$word\"))\n\t\treturn\n\tfi\n"
	      "\tcase $command in\n",
		stdout);
	for (const struct run_subcommand *const *c = commands; *c; c++) {
		if (!(*c)->verbs)
			continue;
		printf("\t%s)\n\t\tif [ \"$COMP_CWORD\" -eq 2 ]; then COMPREPLY=($(compgen -W '", (*c)->name);
		for (const struct run_subcommand *verb = (*c)->verbs; verb->name; verb++)
			printf("%s ", verb->name);
		fputs("' -- \"$word\")); return; fi\n\t\tcommand+=\" ${COMP_WORDS[2]}\" ;;\n", stdout);
	}
	fputs("\t-*) command=generate ;;\n\tesac\n\tcase $command in\n", stdout);
	for (const struct run_subcommand *const *c = commands; *c; c++) {
		char name[64];
		if ((*c)->argp)
			put_bash_command((*c)->name, (*c)->argp);
		for (const struct run_subcommand *verb = (*c)->verbs; verb && verb->name; verb++) {
			snprintf(name, sizeof(name), "%s %s", (*c)->name, verb->name);
			put_bash_command(name, verb->argp);
		}
	}
	fputs("\tesac\n"
	      "\tif [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
	      "\telse COMPREPLY=($(compgen -f -- \"$word\")); fi\n}\n"
	      "complete -F _kvshare_run kvshare-run\n",
		stdout);
}

/* ---- zsh ---- */

/* Inside single quotes and a specification of _arguments. */
static void put_zsh_text(const char *text)
{
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else {
			if (strchr("[]:\\", *text))
				putchar('\\');
			putchar(*text);
		}
	}
}

static void put_zsh_end(const struct argp_option *o)
{
	putchar('[');
	put_zsh_text(o->doc ? o->doc : o->name);
	putchar(']');
	if (o->arg && is_directory(o->arg))
		fputs(":directory:_files -/", stdout);
	else if (o->arg && is_file(o->arg))
		fputs(":file:_files", stdout);
	else if (o->arg && strchr(o->arg, '|')) {
		fputs(":value:(", stdout);
		for (const char *c = o->arg; *c; c++)
			fputs(*c == '|' ? " " : *c == ':' ? "\\:" : (char[]){*c, 0}, stdout);
		putchar(')');
	} else if (o->arg) {
		putchar(':');
		put_zsh_text(o->arg);
		fputs(": ", stdout);
	}
	fputs("' \\\n", stdout);
}

static void put_zsh_option(const struct argp_option *o)
{
	printf("\t\t\t'--%s%s", o->name, o->arg ? "=" : "");
	put_zsh_end(o);
	if (o->key > ' ' && o->key < 127) {
		printf("\t\t\t'-%c%s", o->key, o->arg ? "+" : "");
		put_zsh_end(o);
	}
}

static void put_zsh_command(const char *name, const struct argp *argp)
{
	printf("\t'%s')\n\t\t_arguments \\\n", name);
	each_option(argp, put_zsh_option);
	fputs("\t\t\t'--help[explain the command]' '*:file:_files' ;;\n", stdout);
}

static void print_zsh(const struct run_subcommand *const *commands)
{
	fputs("#compdef kvshare-run\n# zsh completion of kvshare-run; made by `kvshare-run completion zsh`\n"
	      "local command=$words[2]\n"
	      "if (( CURRENT == 2 )) || [[ $command == help && CURRENT -eq 3 ]]; then\n\tlocal -a names=(\n",
		stdout);
	for (const struct run_subcommand *const *c = commands; *c; c++) {
		printf("\t\t'%s:", (*c)->name);
		put_zsh_text((*c)->summary);
		fputs("'\n", stdout);
	}
	fputs("\t\t'help:explain a command'\n\t)\n\t_describe command names\n\treturn\nfi\n"
	      "case $command in\n",
		stdout);
	for (const struct run_subcommand *const *c = commands; *c; c++) {
		if (!(*c)->verbs)
			continue;
		printf("\t%s)\n\t\tif (( CURRENT == 3 )); then compadd --", (*c)->name);
		for (const struct run_subcommand *verb = (*c)->verbs; verb->name; verb++)
			printf(" %s", verb->name);
		fputs("; return; fi\n\t\tcommand+=\" $words[3]\"; shift words; (( CURRENT-- )) ;;\n", stdout);
	}
	fputs("\t-*) command=generate; words=(kvshare-run $words); (( CURRENT++ )) ;;\nesac\n"
	      "shift words; (( CURRENT-- ))\ncase $command in\n",
		stdout);
	for (const struct run_subcommand *const *c = commands; *c; c++) {
		char name[64];
		if ((*c)->argp)
			put_zsh_command((*c)->name, (*c)->argp);
		for (const struct run_subcommand *verb = (*c)->verbs; verb && verb->name; verb++) {
			snprintf(name, sizeof(name), "%s %s", (*c)->name, verb->name);
			put_zsh_command(name, verb->argp);
		}
	}
	fputs("esac\n", stdout);
}

int run_print_completion(const struct run_subcommand *const *commands, const char *shell)
{
	if (shell && !strcmp(shell, "bash"))
		print_bash(commands);
	else if (shell && !strcmp(shell, "zsh"))
		print_zsh(commands);
	else {
		fputs("kvshare-run completion: name a shell, bash or zsh\n", stderr);
		return RUN_EXIT_USAGE;
	}
	return EXIT_SUCCESS;
}
