#!/bin/bash
# The three commands of docs/shim.md ("Try it without a GPU"), as they are written there, make the decoder use less memory.
# usage: [BUILD=build] tests/preload/guide_test.sh
. "$(dirname "$0")/common.sh"
build=$(realpath "$build")
sed -n '/^## Try it without a GPU/,/^## What/p' docs/shim.md | grep '^kvshare-run ' | sed "s| build/| $build/|g" >"$work/commands"
[ "$(wc -l <"$work/commands")" = 3 ] || fail "the guide has not three commands: $(cat "$work/commands")"
while read -r line; do
	(cd "$work" && PATH=$build:$PATH bash -c "$line") >"$work/out" 2>"$work/err" </dev/null || fail "$line: $(cat "$work/err")"
done <"$work/commands"
grep -q '"physical_bytes": 18874368' "$work/stats.json" || fail "the statistics: $(cat "$work/stats.json")"
grep -q '^device_bytes 18874368 ' "$work/err" || fail "the decoder takes $(cat "$work/err")"
exit $failed
