#!/bin/sh
# The manual describes every command, and every option of its --help: in the command's paragraph, in a section of its own, or, of
# those that run a model, in the section on these.
# usage: [BUILD=build] tests/e2e/manual_test.sh
set -eu
cd "$(dirname "$0")/../.."
run=${BUILD:-build}/kvshare-run
status=0

# What the manual has on a command.
about() { # COMMAND
	awk -v command="$1" '
		/^\.SH/ { here = index($0, "MODEL COMMANDS") || index($0 " ", " " toupper(command) " ") || index($0, "PROFILE AND ATTACH") && command ~ /profile|attach/; list = /^\.SH COMMANDS/ }
		list && after_tp { here = $0 ~ "^\\.B " command "( |$)" }
		{ after_tp = /^\.TP/; if (here) print }' docs/man/kvshare-run.1 | sed 's/\\-/-/g; s/\\f[BIPR]//g'
}

commands() { "$@" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'; }

count=0
for command in $(commands "$run") $(commands "$run" plan | sed 's/^/plan:/'); do
	text=$(about "${command%:*}")
	[ -n "$text" ] || { echo "the manual lacks $command" && status=1; }
	# shellcheck disable=SC2046 # "plan show" is two words
	for option in $("$run" $(echo "$command" | tr : ' ') --help | sed -n -E 's/^ +(-[a-zA-Z], )?(--[a-z][a-z-]*).*/\2/p'); do
		count=$((count + 1))
		case $option in --help | --usage | --version) continue ;; esac
		printf '%s\n' "$text" | grep -q -E -e "$option([^a-z-]|\$)" ||
			{ echo "the manual lacks $option of $command" && status=1; }
	done
done
[ "$count" -gt 100 ] || { echo "--help has $count options: too few to be all" && exit 1; }
exit $status
