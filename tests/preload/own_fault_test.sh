#!/bin/bash
# Programs with an allocator of their own, as in own_test.sh, when calls that map memory fail.
# usage: [BUILD=build] tests/preload/own_fault_test.sh
. "$(dirname "$0")/common.sh"
device_mib() { # of each time that the program told it
	sed -nE 's/^device_bytes ([0-9]+) .*/\1/p' "$work/err" | while read -r bytes; do echo -n "$((bytes >> 20)) "; done
}
shared() { # LAYOUT OPTION...
	"$run" exec --device host --owners 0,1,0,1 --layout "$1" -- "$decoder" layout=tensors "${@:2}" "$kernels" >"$work/got" 2>"$work/err"
}
for alloc in segments mapped expandable; do
	"$run" inspect --device host -o "$work/$alloc.json" -- "$decoder" tokens=4 layout=tensors alloc=$alloc "$kernels" >"$work/said" 2>&1 ||
		fail "inspect: $(cat "$work/said")"
done

# Each Nth call of a function fails, until it is not reached: the program has its plain memory and the output of no sharing, or all of
# the sharing; but for so many calls of its own, of which it sees the error, as it would without the shim.
"$run" exec --device host -- "$decoder" tokens=2 "$kernels" >"$work/full" 2>"$work/err"
"$run" exec --device host -- "$decoder" tokens=2 owners=0,1,0,1 "$kernels" >"$work/oracle" 2>"$work/err"
case $(cat "$build/cc.flags") in
*-fsanitize*) step=4 ;; # each run takes some times as long
*) step=1 ;;
esac
strike() { # ALLOC MIB SHARED-MIB NAME ERRORS
	local nth clean=0 plain=0 errors=0
	for ((nth = 1; clean < 2 && nth < 100; nth += step)); do
		if ! SOFTCUDA_FAIL=$4:$nth:2 shared "$work/$1.json" alloc="$1" tokens=2; then
			grep -q "^decoder: cuMem.*OUT_OF_MEMORY" "$work/err" || fail "$1, $4 fails at call $nth: $(cat "$work/err")"
			errors=$((errors + 1)) clean=0
		elif grep -q "^kvshare: an allocation of .* stays as it is" "$work/err"; then
			cmp -s "$work/got" "$work/full" || fail "$1: $4 fails at call $nth, and the output is wrong"
			[ "$(device_mib)" = "$2 " ] || fail "$1: $4 fails at call $nth: $(cat "$work/err"), expected $2 MiB"
			plain=$((plain + 1)) clean=0
		else
			cmp -s "$work/got" "$work/oracle" || fail "$1: $4 fails at call $nth, and the output is wrong"
			[ "$(device_mib)" = "$3 " ] || fail "$1: $4 fails at call $nth: $(cat "$work/err"), expected $3 MiB"
			clean=$((clean + 1))
		fi
	done
	{ [ $plain -gt 0 ] || [ $step != 1 ]; } && [ $clean = 2 ] || fail "$1: up to failure $((nth - step)) of $4 $plain left plain memory"
	[ $errors = "$5" ] || [ $step != 1 ] || fail "$1: $errors failures of $4 were the program's, expected $5"
}
strike mapped 32 18 cuMemAddressReserve 8 # one for each tensor; all else of them is ours
for name in cuMemCreate cuMemMap cuMemSetAccess; do
	strike mapped 32 18 $name 0
	strike expandable 40 26 $name 2 # growth that has no tensor of a layer that shares
done
for name in cuMemAddressReserve cuMemCreate; do # the others of such memory: decoder_test.sh
	strike segments 40 26 $name 0
done
for name in cuMemUnmap cuMemRelease cuMemAddressFree; do # at the end, when nothing is left to save
	SOFTCUDA_FAIL=$name:1:2 shared "$work/segments.json" alloc=segments tokens=2 || fail "$name fails: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$name fails, and the output is wrong"
done
exit $failed
