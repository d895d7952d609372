#!/bin/sh
# What traces and reports cost stays within limits: bytes of an event, memory of each form of report, which must not grow with
# the trace, and processor time. The figures come from the bench; each limit is two to three times what it says today, so
# that a loaded machine passes, and a change that doubles memory or bytes does not. Of time the best of three tries counts.
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/tests/bench/profiler_bench" 200000 >"$work/short"
cat "$work/short"

# Of the line that begins so, the number before the word.
figure() { # FILE BEGINNING WORD
	awk -v begin="$2" -v word="$3" 'index($0, begin) == 1 {
		for (i = 2; i <= NF; i++)
			if ($i == word) { print $(i - 1); exit }
	}' "$1"
}
at_most() { # WHAT NUMBER LIMIT
	awk -v n="$2" -v most="$3" 'BEGIN { exit !(n != "" && n + 0 > 0 && n + 0 <= most) }' ||
		{ echo "$1: ${2:-nothing}, at most $3 are allowed"; exit 1; }
}
at_most "bytes of an event" "$(figure "$work/short" trace: bytes)" 20
if grep -q fsanitize "$build/cc.flags"; then
	echo "memory and time are not compared: this is a build with sanitizers"
	exit 0
fi
"$build/tests/bench/profiler_bench" 600000 >"$work/long"
cat "$work/long"
while read -r form most; do
	short=$(figure "$work/short" "$form:" MiB) long=$(figure "$work/long" "$form:" MiB)
	at_most "MiB of memory for $form" "$long" "$most"
	[ "$form" = perfetto ] || at_most "MiB for $form of a trace three times as long" "$long" "$((short * 5 / 4 + 1))"
done <<-END
	text 12
	json 60
	html 18
	perfetto 160
END
within() { awk -v n="$1" 'BEGIN { exit !(n + 0 <= 1.6) }'; }
seconds=$(figure "$work/long" report: cpu-seconds)
for _ in 2 3; do
	within "$seconds" || { "$build/tests/bench/profiler_bench" 600000 >"$work/long"; seconds=$(figure "$work/long" report: cpu-seconds); }
done
at_most "seconds of a processor for a report on a million events" "$seconds" 1.6
