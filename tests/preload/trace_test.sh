#!/bin/bash
# A program under the shim writes a trace, from which the report has what the shim's statistics say, to the byte: physical
# memory, the sink, and what sharing saved; K and V by layer, with their owners; the program's own allocations beside them.
# usage: [BUILD=build] tests/preload/trace_test.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
run=$build/kvshare-run
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0
unset KVSHARE_PROFILE_MAX_BYTES
command -v python3 >/dev/null || { echo "python3, which reads the JSON, is missing"; exit 77; }

fail() {
	echo "$*"
	failed=1
}
traced() { # LAYOUT OPTION...
	local layout=$1
	shift
	rm -f "$work/trace"
	KVSHARE_PROFILE=$work/trace "$run" exec --device host --owners 0,1,0,1 --layout "$layout" --stats "$work/stats" \
		-- "$build/tests/clients/decoder" "$@" "$build/tests/clients/decoder_kernels.so" >"$work/out" 2>"$work/err" ||
		fail "$layout: $(cat "$work/err")"
	! grep '^kvshare: ' "$work/err" || fail "$layout: the shim has something to say"
	"$run" report --json "$work/trace" >"$work/report" || fail "$layout: no report"
}
# What sharing saved is more by the sink's block in the report: there it is memory of a kind of its own.
agree() { # WHAT
	python3 - "$work/stats" "$work/report" "$1" <<'P' || failed=1
import json, sys
stats, report = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))
memory, kinds = report["memory"], report["memory"]["by_kind"]
size, problems = 4 << 20, []
def equal(what, found, expected):
    if found != expected:
        problems.append(f"{sys.argv[3]}: {what} is {found}, expected {expected}")
equal("what the report says was saved, less the sink", memory["saved_bytes"] - kinds["sink"], stats["saved_bytes"])
equal("the sink", kinds["sink"], stats["sink_bytes"])
equal("K", kinds["K"], 2 * size)
equal("V", kinds["V"], 2 * size)
# The program's own allocation, of less than a kilobyte, is outside of what the shim counts.
equal("physical memory", memory["peak_physical_bytes"] - kinds["other"], stats["physical_bytes"])
equal("processes", len(report["processes"]), 1)
equal("the source", report["processes"][0]["source"], "ours")
if not 0 < kinds["other"] < 1 << 20:
    problems.append(f"{sys.argv[3]}: the program's own memory is {kinds['other']}")
print("\n".join(problems), end="")
sys.exit(bool(problems))
P
}

traced slab:layers=4,k=4MiB,v=4MiB
agree slab
traced tensors:layers=4,bytes=4MiB layout=tensors
agree tensors
traced halves:layers=4,bytes=8MiB layout=halves
agree halves
"$run" report "$work/trace" >"$work/text"
grep -q "K of layer 0, 2 by cuMemCreate" "$work/text" || fail "owner and borrower are not named: $(cat "$work/text")"

# A trace that cannot be written does not stop the program.
KVSHARE_PROFILE=$work/none/trace "$run" exec --device host -- "$build/tests/clients/decoder" \
	"$build/tests/clients/decoder_kernels.so" >"$work/out" 2>"$work/err" || fail "without a trace: $(cat "$work/err")"
grep -q "^kvshare: nothing is recorded: " "$work/err" || fail "without a trace: $(cat "$work/err")"
exit $failed
