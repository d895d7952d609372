#!/bin/bash
# cuda-bindings, which nobody here wrote: its driver calls give the same results under the shim as without it, with no plan
# and with one in which no layer borrows. Its hooks are seen to be in between.
# usage: [BUILD=build] tests/preload/python_test.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
run=$build/kvshare-run
packages=$build/python-peers/cuda-13.5.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

case $(cat "$build/cc.flags") in
*-fsanitize*)
	echo "Python is not built with the sanitizer"
	exit 77
	;;
esac
if [ ! -d "$packages" ]; then
	python3 -m pip --version >/dev/null 2>&1 || { echo "pip is missing: make deps DEV=1"; exit 77; }
	PIP_ROOT_USER_ACTION=ignore timeout 300 python3 -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: \
		--target "$work/packages" cuda-bindings==13.5.0 cuda-pathfinder==1.9.1 >"$work/pip" 2>&1 ||
		{ echo "cuda-bindings does not install: $(tail -1 "$work/pip")"; exit 77; }
	mkdir -p "$(dirname "$packages")"
	mv "$work/packages" "$packages"
fi
export PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1
script=(python3 tests/preload/driver_calls.py 4 $((4 << 20)))

LD_LIBRARY_PATH=$build/softcuda "${script[@]}" >"$work/plain" 2>"$work/err" || { cat "$work/err"; exit 1; }
same() { # WHAT OPTION...
	local what=$1
	shift
	"$run" exec --device host --stats "$work/stats" "$@" -- "${script[@]}" >"$work/got" 2>"$work/err" ||
		{ echo "$what: $(cat "$work/err")"; failed=1; }
	diff "$work/plain" "$work/got" || { echo "$what: the results differ"; failed=1; }
	[ ! -s "$work/err" ] || { echo "$what: the shim says $(cat "$work/err")"; failed=1; }
	grep -q '"allocations": [5-9],' "$work/stats" || { echo "$what: not hooked: $(cat "$work/stats")"; failed=1; }
}
same "no plan"
same "a plan that shares nothing" --owners 0,1 --layout tensors:layers=2,bytes=4MiB
exit $failed
