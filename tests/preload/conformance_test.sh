#!/bin/bash
# With no plan the shim changes nothing: each program of the conformance suite ends under it as it does without, its calls go
# through the hooks, and softcuda answers all of them by the rules.
# usage: [BUILD=build] tests/preload/conformance_test.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 count=0 launches=0
export KVSHARE_SOFTCUDA=$build/softcuda/libcuda.so.1
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0

fail() {
	echo "$*"
	failed=1
}
# shellcheck disable=SC2012
for source in tests/conformance/*_test.c; do
	name=$(basename "$source" .c)
	program=$build/tests/conformance/$name
	count=$((count + 1))
	"$build/kvshare-run" exec --device host --stats "$work/$name.json" -- "$program" >"$work/log" 2>&1 ||
		fail "$name fails under the shim: $(grep -B9 '^\[  FAILED' "$work/log" | head -40)"
	! grep '^kvshare: ' "$work/log" || fail "$name: the shim has something to say"
	calls=$(sed -nE 's/.*"launches": ([0-9]+),.*/\1/p' "$work/$name.json" 2>/dev/null)
	launches=$((launches + ${calls:-0}))
done
[ $count -ge 8 ] || fail "only $count programs were found"
# Tests that each have a process of their own write their figures over each other's, so this is the least.
[ $launches -ge 100 ] || fail "the shim saw $launches launches: it was not in between"
exit $failed
