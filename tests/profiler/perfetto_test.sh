#!/bin/sh
# The Chrome trace of a run, read by a reader of its own (chrome_check.py): fields as the format's page has them, slices of a track
# in or behind each other, flows from slice to slice, each 'b' with its 'e', counters that go forward in time. The reader finds
# what is broken. Where Perfetto's own trace processor is there, it complains of nothing and counts the same.
# usage: [BUILD=build] [TRACE_PROCESSOR=PROGRAM] tests/profiler/perfetto_test.sh
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$build/kvshare-run" generate -q -m tests/models/storyworld-3m --device host -p Anna -n 8 \
	--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 --profile "$work/trace" >"$work/text"
"$build/kvshare-run" report "$work/trace" --perfetto "$work/trace.json"
tests/profiler/chrome_check.py "$work/trace.json"

PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/profiler python3 - "$work/trace.json" <<'PYTHON'
import copy, sys
import chrome_check

whole = chrome_check.read(sys.argv[1])
faults = {
    "an allocation without end": lambda e: e.remove(first(e, "e")),
    "a counter that goes back": lambda e: first(e, "C", -1).update(ts=0),
    "slices that overlap": lambda e: e.append(dict(first(e, "X"), dur=first(e, "X")["dur"] + 2 * gap(e))),
    "a flow without end": lambda e: e.remove(first(e, "f")),
    "a flow from nowhere": lambda e: first(e, "s").update(tid=1),
    "a duration below 0": lambda e: first(e, "X").update(dur=-1),
    "a slice without duration": lambda e: first(e, "X").pop("dur"),
    "a track without a name": lambda e: e.remove(next(m for m in e if m["name"] == "thread_name")),
}

def first(events, kind, nth=0):
    return [e for e in events if e["ph"] == kind][nth]

def gap(events):  # from the end of the first slice into the second, half
    one, two = first(events, "X"), first(events, "X", 1)
    return (two["ts"] + two["dur"] / 2 - one["ts"] - one["dur"]) / 2

for name, fault in faults.items():
    events = copy.deepcopy(whole)
    fault(events)
    try:
        chrome_check.check(events)
    except KeyError:
        continue
    if not chrome_check.problems:
        sys.exit(f"nobody notices {name}")
PYTHON

# Where the package `perfetto` of PyPI puts it when it is used for the first time.
cached=$HOME/.local/share/perfetto/prebuilts/trace_processor_shell
processor=${TRACE_PROCESSOR:-$(command -v trace_processor_shell || { [ ! -x "$cached" ] || echo "$cached"; })}
if [ -z "$processor" ]; then
	echo "not asked: there is no trace_processor_shell, which the package perfetto of PyPI fetches from elsewhere"
	exit 0
fi
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
