#!/bin/bash
# cuda-bindings, which nobody here wrote: its driver calls give the same results under the shim as without it, with no plan
# and with one in which no layer borrows. Its hooks are seen to be in between.
# usage: [BUILD=build] tests/preload/python_test.sh
. "$(dirname "$0")/common.sh"
. tests/preload/pypi.sh
install_packages cuda-bindings==13.5.0 cuda-pathfinder==1.9.1
export PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1
script=(python3 tests/preload/driver_calls.py 4 $((4 << 20)))

LD_LIBRARY_PATH=$build/softcuda "${script[@]}" >"$work/plain" 2>"$work/err" || { cat "$work/err"; exit 1; }
same() { # WHAT OPTION...
	"$run" exec --device host --stats "$work/stats" "${@:2}" -- "${script[@]}" >"$work/got" 2>"$work/err" ||
		fail "$1: $(cat "$work/err")"
	diff "$work/plain" "$work/got" || fail "$1: the results differ"
	[ ! -s "$work/err" ] || fail "$1: the shim says $(cat "$work/err")"
	grep -q '"allocations": [5-9],' "$work/stats" || fail "$1: not hooked: $(cat "$work/stats")"
}
same "no plan"
same "a plan that shares nothing" --owners 0,1 --layout tensors:layers=2,bytes=4MiB
exit $failed
