#!/bin/sh
# The Chrome trace of a run, opened by Perfetto's own trace processor: it complains of nothing, no slice lacks its end, counters
# go forward in time. exports_test checks the format without it.
# usage: [BUILD=build] [TRACE_PROCESSOR=PROGRAM] tests/profiler/perfetto_test.sh
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
# Where the package `perfetto` of PyPI puts it when it is used for the first time.
cached=$HOME/.local/share/perfetto/prebuilts/trace_processor_shell
processor=${TRACE_PROCESSOR:-$(command -v trace_processor_shell || { [ ! -x "$cached" ] || echo "$cached"; })}
[ -n "$processor" ] || { echo "there is no trace_processor_shell: the package perfetto of PyPI fetches it from elsewhere"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$build/kvshare-run" generate -q -m tests/models/storyworld-3m --device host -p Anna -n 8 --profile "$work/trace" >"$work/text"
"$build/kvshare-run" report "$work/trace" --perfetto "$work/trace.json"
ask() { # SQL that gives one number
	echo "$1;" >"$work/query.sql"
	"$processor" -q "$work/query.sql" "$work/trace.json" 2>"$work/said" | tail -n 1
}
expect() { # NUMBER WHAT SQL
	got=$(ask "$3")
	[ "$got" = "$1" ] || { echo "$2: $got, not $1"; cat "$work/said"; exit 1; }
}
expect 0 "errors" "select count(*) from stats where severity in ('error', 'data_loss') and value > 0"
expect 0 "slices without end" "select count(*) from slice where dur < 0"
expect 0 "counters that go back" "select count(*) from (select ts, lag(ts) over (partition by track_id order by id) as before from counter) where ts < before"
expect "$(grep -cE '"ph":"(X|b)"' "$work/trace.json")" "slices" "select count(*) from slice"
expect "$(grep -c '"ph":"s"' "$work/trace.json")" "arrows" "select count(*) from flow"
expect 4 "counters" "select count(distinct name) from counter_track"
