#!/bin/sh
# Runs every part of the bundle on a GPU, each in a process of its own with a time limit of its own; a failure keeps nothing
# from running. Each part leaves NAME.log and NAME.json under $OUT; results.tar.gz beside them holds all of it.
# Ends in "N passed, N failed, N skipped" (of parts), each skip with its reason. Exits 1 where a part failed, 77 where
# there is no GPU. Needs a POSIX shell with coreutils, sed, tar and gzip; changes no setting of the GPU.
#
# usage: run-gpu.sh [cuda|cuda:N|host]      host: what softcuda can run, which shows that the bundle is whole
#   OUT      where results go (default ./out)
#   SECONDS_IN_ALL  after which no part starts any more, and the running one is ended (default 570)
set -u
device=${1:-cuda}
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "${OUT:-./out}" || exit 1
out=$(cd "${OUT:-./out}" && pwd) || exit 1
case $device in
cuda | cuda:[0-9]*) gpu=1 quick="" ;;
host) gpu="" quick=--quick ;;
*) sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2; exit 2 ;;
esac
if [ "$gpu" ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ]; then
	echo "run-gpu: there is no NVIDIA GPU here (neither /dev/nvidiactl nor /dev/dxg); nothing was run"
	exit 77
fi

cd "$here" || exit 1
export KVS_TEST_DEVICE="$device" KVSHARE_SOFTCUDA="$here/softcuda/libcuda.so.1"
for folder in /usr/local/cuda/lib64 /opt/cuda/lib64; do # where cuBLAS lies when the loader has not been told
	[ -d "$folder" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
done
deadline=$(($(date +%s) + ${SECONDS_IN_ALL:-570}))
passed=0 failed=0 skipped=0

json_text() { # stdin as the inside of a JSON string
	tr -d '\000-\010\013-\037' | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/ *$//'
}

# finish NAME RESULT SECONDS REASON COMMAND: counts a part, prints its line and writes its JSON.
finish() {
	case $2 in
	passed) passed=$((passed + 1)) ;;
	failed) failed=$((failed + 1)) ;;
	skipped) skipped=$((skipped + 1)) ;;
	esac
	printf '%-8s %-32s %4d s  %s\n' "$2" "$1" "$3" "$4"
	{
		printf '{"part": "%s", "device": "%s", "result": "%s", "seconds": %d, ' "$1" "$device" "$2" "$3"
		printf '"reason": "%s", "command": "%s", "date": "%s"' "$(printf %s "$4" | json_text)" \
			"$(printf %s "$5" | json_text)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
		if [ -s "$out/table" ]; then
			printf ', "table": '
			cat "$out/table"
		fi
		echo '}'
	} >"$out/$1.json"
	rm -f "$out/table"
}

skip() { # NAME REASON
	echo "skipped: $2" >"$out/$1.log"
	finish "$1" skipped 0 "$2" ""
}

part() { # NAME SECONDS COMMAND...
	name=$1 limit=$2
	shift 2
	start=$(date +%s)
	left=$((deadline - start))
	if [ "$left" -lt 3 ]; then
		skip "$name" "the time for all parts was over"
		return
	fi
	[ "$limit" -le "$left" ] || limit=$left
	timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
	code=$?
	took=$(($(date +%s) - start))
	last=$(tail -n 1 "$out/$name.log" | tr -d '\000-\037')
	case $code in
	0) finish "$name" passed "$took" "" "$*" ;;
	77) finish "$name" skipped "$took" "$last" "$*" ;;
	124 | 137) finish "$name" failed "$took" "ended after $limit s" "$*" ;;
	*) finish "$name" failed "$took" "exit $code: $last" "$*" ;;
	esac
}

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
sanitize() { # TOOL PROGRAM
	name=$1-$(basename "$2")
	if [ -z "$gpu" ]; then
		skip "$name" "compute-sanitizer is for GPUs"
	elif [ -z "$sanitizer" ]; then
		skip "$name" "compute-sanitizer is not installed"
	else
		part "$name" 60 "$sanitizer" --tool "$1" --error-exitcode 9 "$2"
	fi
}

part doctor 30 bin/kvshare-run doctor
for program in tests/conformance/*_test; do part "conformance-$(basename "$program")" 90 "$program"; done
for program in tests/kernels/*_test; do part "kernels-$(basename "$program")" 90 "$program"; done
part sharing_test 90 tests/e2e/sharing_test
part skip_test 60 tests/model/skip_test
part device_test 120 tests/gpu/device_test
part cupti_test 60 tests/gpu/cupti_test
for program in tests/probes/*_probe; do
	[ -x "$program" ] || continue
	part "$(basename "$program")" 30 "$program" --device "$device" --json "$out/table" --limit 25 $quick
done
part vmm_bench 60 tests/bench/vmm_bench "$device"
# The shapes' defaults: real models on a GPU, a tiny one on the host.
part bench 60 bin/kvshare-run bench --device "$device" --json
[ -z "$gpu" ] || part calib_bench 60 tests/bench/calib_bench "$device"
[ -z "$gpu" ] || part bench-llama2-7b 60 bin/kvshare-run bench --device "$device" --shape llama2-7b --json
part eval_golden_test 300 tests/e2e/eval_golden_test
for tool in memcheck racecheck initcheck synccheck; do
	for program in tests/kernels/*_test; do sanitize "$tool" "$program"; done
done

echo "$passed passed, $failed failed, $skipped skipped" | tee "$out/summary.txt"
(cd "$out" && tar -czf results.tar.gz ./*.log ./*.json summary.txt)
[ "$failed" -eq 0 ]
