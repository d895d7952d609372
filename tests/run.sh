#!/bin/sh
# Runs test programs one after another, prints a line each (the whole output of one that fails), and a closing count.
# A program exits 0 (passed), 77 (skipped; its last line says why) or anything else (failed).
# usage: BUILD=build tests/run.sh PROGRAM...
set -u
passed=0 failed=0 skipped=0
# Test programs lie deeper than where kvs_cu_open() looks for softcuda.
export KVSHARE_SOFTCUDA="${KVSHARE_SOFTCUDA:-$PWD/${BUILD:-build}/softcuda/libcuda.so.1}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for program in "$@"; do
	name=${program#"${BUILD:-build}"/}
	name=${name#tests/}
	start=$(date +%s)
	timeout "${KVS_TEST_TIMEOUT:-900}" "$program" >"$log" 2>&1 </dev/null
	code=$?
	took=$(($(date +%s) - start))
	case $code in
	0) passed=$((passed + 1)); printf 'ok       %-44s %4d s\n' "$name" "$took" ;;
	77) skipped=$((skipped + 1)); printf 'skipped  %-44s %s\n' "$name" "$(tail -n 1 "$log")" ;;
	*) failed=$((failed + 1)); printf 'FAILED   %-44s %4d s (exit %d)\n' "$name" "$took" "$code"; sed 's/^/    /' "$log" ;;
	esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
