#!/bin/sh
# Runs every probe on a device, each in a process of its own with a time limit of its own, and keeps going past a failure.
# All together end within four minutes, whatever a driver does.
# Leaves NAME.txt (the table, and what went wrong) and NAME.json for each probe, and the tables once more in probes.txt.
# usage: tests/probes/run.sh [-d DEVICE] [-p FOLDER of the probes] [-o FOLDER for the results] [--quick]
set -u
device=${KVS_TEST_DEVICE:-cuda}
here=$(cd "$(dirname "$0")" && pwd)
build=${BUILD:-build}
programs= out=probes-out quick=
while [ $# -gt 0 ]; do
	case $1 in
	-d) device=$2; shift 2 ;;
	-p) programs=$2; shift 2 ;;
	-o) out=$2; shift 2 ;;
	--quick) quick=--quick; shift ;;
	*) sed -n 's/^# usage/usage/p' "$0" >&2; exit 2 ;;
	esac
done
# Where they were carried to they lie beside this script; in the source tree make has left them in $BUILD.
if [ -z "$programs" ]; then
	programs=$here
	[ -x "$here/cost_probe" ] || programs=$build/tests/probes
fi
[ -x "$programs/cost_probe" ] || { echo "no probes in $programs: make probes" >&2; exit 1; }
[ -n "${KVSHARE_SOFTCUDA:-}" ] || [ ! -e "$build/softcuda/libcuda.so.1" ] ||
	export KVSHARE_SOFTCUDA="$build/softcuda/libcuda.so.1"
mkdir -p "$out" || exit 1

passed=0 failed=0 skipped=0
start=$(date +%s)
: >"$out/probes.txt"
for program in "$programs"/*_probe; do
	name=$(basename "$program" _probe)
	rm -f "$out/$name.json"
	left=$((230 - $(date +%s) + start))
	if [ "$left" -lt 5 ]; then
		failed=$((failed + 1))
		printf '%-14s %s\n' "$name" "FAILED: no time left"
		continue
	fi
	limit=$((left < 30 ? left : 30))
	# A probe ends by itself after its limit; the rest is for a process that a driver holds.
	timeout -k 2 $((limit + 3)) "$program" --device "$device" --limit "$limit" --json "$out/$name.json" $quick >"$out/$name.txt" 2>&1 </dev/null
	code=$?
	case $code in
	0) passed=$((passed + 1)); line=ok ;;
	77) skipped=$((skipped + 1)); line="skipped: $(tail -n 1 "$out/$name.txt")" ;;
	124 | 137) failed=$((failed + 1)); line="FAILED: out of time" ;;
	*) failed=$((failed + 1)); line="FAILED: exit $code: $(grep "^${name}_probe" "$out/$name.txt" | tail -n 1)" ;;
	esac
	printf '%-14s %s\n' "$name" "$line"
	{ cat "$out/$name.txt"; echo; } >>"$out/probes.txt"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
