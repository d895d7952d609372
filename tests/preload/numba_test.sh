#!/bin/bash
# numba-cuda, which nobody here wrote: its arrays, streams and events give the same under the shim as without it, with no plan
# and with one in which no layer borrows. With one in which a layer borrows, its arrays are the owner's, and all else is the same.
# There is no kernel in it: those are PTX, which softcuda does not run.
# usage: [BUILD=build] tests/preload/numba_test.sh
. "$(dirname "$0")/common.sh"
. tests/preload/pypi.sh
install_packages numba-cuda==0.30.4 numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6 cuda-bindings==13.5.0 cuda-core==1.2.2 \
	cuda-pathfinder==1.9.1 packaging==26.4
export PYTHONDONTWRITEBYTECODE=1
arrays=(python3 tests/preload/numba_arrays.py "$packages" 2 $((4 << 20)))
layout=tensors:layers=2,bytes=4MiB

LD_LIBRARY_PATH=$build/softcuda "${arrays[@]}" >"$work/plain" 2>"$work/err" || { cat "$work/err"; exit 1; }
under_shim() { # WHAT OPTION...
	"$run" exec --device host --stats "$work/stats" "${@:2}" -- "${arrays[@]}" >"$work/got" 2>"$work/err" ||
		fail "$1: $(cat "$work/err")"
	[ ! -s "$work/err" ] || fail "$1: the shim says $(cat "$work/err")"
	grep -q '"allocations": [1-9]' "$work/stats" || fail "$1: not hooked: $(cat "$work/stats")"
}
same() { # WHAT OPTION...
	under_shim "$@"
	diff "$work/plain" "$work/got" || fail "$1: the results differ"
}
same "no plan"
same "a plan that shares nothing" --owners 0,1 --layout $layout

under_shim "layer 1 borrows" --owners 0,0 --layout $layout
saved=$(sed -nE 's/.*"saved_bytes": ([0-9]+).*/\1/p' "$work/stats")
[ "$saved" = $((6 << 20)) ] || fail "$saved bytes saved: a K and a V of 4 MiB, less the sink's block, are expected"
[ "$(sed -n 's/^layer 1 //p' "$work/got")" = "$(sed -n 's/^layer 0 //p' "$work/plain")" ] || fail "layer 1 does not show layer 0"
# The line "between" is of a copy out of the borrower.
diff <(sed '/^layer 1/d; /^between/d' "$work/plain") <(sed '/^layer 1/d; /^between/d' "$work/got") ||
	fail "sharing changes more than the borrower's content"
exit $failed
