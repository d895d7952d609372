#!/bin/sh
# Runs test programs, JOBS at a time; prints a line for each when it ends (the whole output of one that fails), and a final
# count. A program exits with 0 (passed), 77 (skipped; its last line says why) or anything else (failed).
# With SAMPLE=N only one in N of them runs, different ones every day, so that each has its turn within N days.
# usage: [BUILD=build] [JOBS=1] [SAMPLE=1] tests/run.sh PROGRAM...
set -u
export BUILD="${BUILD:-build}"
# Makes a launch that does not wait for an upload in the default stream read old bytes, as it may on a GPU.
export SOFTCUDA_LATE_COPIES="${SOFTCUDA_LATE_COPIES:-1}"
# Test programs are too deep in the build folder for kvs_cu_open() to find softcuda.
# Tests compare what a program says, however long it takes.
export KVSHARE_PROGRESS_SECONDS=0
export KVSHARE_SOFTCUDA="${KVSHARE_SOFTCUDA:-$PWD/$BUILD/softcuda/libcuda.so.1}"
RESULTS=$(mktemp -d)
export RESULTS
trap 'rm -rf "$RESULTS"' EXIT
trap 'exit 130' INT TERM

# Which day's turn it is for a program depends on its name alone, so a new one changes nothing for the others.
if [ "${SAMPLE:-1}" -gt 1 ]; then
	day=$(($(date +%s) / 86400))
	for program; do
		shift
		number=$(printf '%s' "${program#"$BUILD"/}" | cksum)
		[ $(((${number%% *} + day) % SAMPLE)) -ne 0 ] || set -- "$@" "$program"
	done
	echo "one in $SAMPLE, drawn by date: $# programs"
fi

# One program: its line is printed whole, in one write, so that those of several do not mix.
one='
	program=$1
	name=${program#"$BUILD"/}
	name=${name#tests/}
	log=$(mktemp "$RESULTS/log.XXXXXX")
	start=$(date +%s)
	timeout "${KVS_TEST_TIMEOUT:-900}" "$program" >"$log" 2>&1 </dev/null
	code=$?
	took=$(($(date +%s) - start))
	case $code in
	0) result=passed line=$(printf "ok       %-44s %4d s" "$name" "$took") ;;
	77) result=skipped line=$(printf "skipped  %-44s %s" "$name" "$(tail -n 1 "$log")") ;;
	*) result=failed line=$(printf "FAILED   %-44s %4d s (exit %d)\n%s" "$name" "$took" "$code" "$(sed "s/^/    /" "$log")") ;;
	esac
	echo "$name" >>"$RESULTS/$result"
	printf "%s\n" "$line"
	rm "$log"'

printf '%s\n' "$@" | xargs -r -n 1 -P "${JOBS:-1}" sh -c "$one" sh

count() { # RESULT
	[ ! -e "$RESULTS/$1" ] || wc -l <"$RESULTS/$1"
}
passed=$(count passed) failed=$(count failed) skipped=$(count skipped)
[ "${failed:-0}" -eq 0 ] || [ "$#" -lt 10 ] || echo "failed: $(sort "$RESULTS/failed" | xargs)"
echo "${passed:-0} passed, ${failed:-0} failed, ${skipped:-0} skipped"
[ "${failed:-0}" -eq 0 ] && [ $((${passed:-0} + ${failed:-0} + ${skipped:-0})) -eq $# ]
