#!/bin/bash
# With no plan, or none that fits, nothing differs: the program's output, and the result of each of its calls of the driver, in their
# order, as a library of the test's own writes them down in front of the shim, and where the shim is not there.
# usage: [BUILD=build] tests/preload/record_test.sh
. "$(dirname "$0")/common.sh"
build=$(realpath "$build")
clients=$build/tests/clients
record=$clients/record.so shim=$build/libkvshare-preload.so
# A sanitizer's library wants to be before one that it does not check.
sanitizer=$(ldd "$shim" | sed -nE 's/.*=> (.*\/libasan\.so[^ ]*).*/\1/p' | head -1)

recorded() { # NAME LIBRARIES COMMAND...
	rm -f "$work/$1.calls"
	RECORD=$work/$1.calls LD_PRELOAD=${sanitizer:+$sanitizer:}$2 LD_LIBRARY_PATH=$build/softcuda "${@:3}" >"$work/$1.out" 2>"$work/$1.err"
	echo "ends with $?" >>"$work/$1.out"
	[ "${threads:-0}" = 0 ] || sort -o "$work/$1.calls" "$work/$1.calls" # theirs come as they please
}
same() { # WHAT COMMAND...
	cmp -s "$work/got.out" "$work/plain.out" || fail "${*:2}, $1: the output changes: $(diff "$work/plain.out" "$work/got.out" | head -5)"
	cmp -s "$work/got.calls" "$work/plain.calls" ||
		fail "${*:2}, $1: a call has another result: $(diff "$work/plain.calls" "$work/got.calls" | head -5)"
}
calls=0
unchanged() { # COMMAND...
	recorded plain "$record" "$@"
	[ -s "$work/plain.calls" ] || fail "$*: nothing was recorded"
	calls=$((calls + $(wc -l <"$work/plain.calls")))
	recorded got "$record:$shim" "$@"
	same "no plan" "$@"
	[ ! -s "$work/got.err" ] || ! grep '^kvshare: ' "$work/got.err" || fail "$*: the shim has something to say"
	KVSHARE_OWNERS=0,1,0,1 KVSHARE_LAYOUT=slab:layers=4,k=1GiB,v=1GiB recorded got "$record:$shim" "$@"
	same "no matching layout" "$@"
	[ -n "$fits" ] || return 0 # once for each layout
	KVSHARE_OWNERS=0,1,2,3 KVSHARE_LAYOUT=$fits recorded got "$record:$shim" "$@"
	same "a plan that shares nothing" "$@"
	fits=
}
decoder() { # OPTION...
	unchanged "$decoder" tokens=2 bytes=$((2 << 20)) "$@" "$kernels"
}
fits=slab:layers=4,k=2MiB,v=2MiB
for mode in "" order=kkvv graph=capture graph=nodes store=struct "store=struct launch=extra" launch=ex launch=cooperative store=map store=paged \
	store=fused streams=default graph=capture\ store=struct\ launch=ex; do
	# shellcheck disable=SC2086
	decoder $mode
done
fits=tensors:layers=4,bytes=2MiB
for alloc in plain pitch async pool segments; do decoder layout=tensors alloc=$alloc; done
fits=tensors:layers=4,bytes=2MiB,memory=reserved
for alloc in mapped early bare expandable; do decoder layout=tensors alloc=$alloc; done
fits=tensors:layers=4,bytes=2MiB,memory=reserved
decoder layout=tensors alloc=mapped sleep=1
fits=halves:layers=4,bytes=4MiB decoder layout=halves
for what in queries copies behind others; do
	fits=slab:layers=4,k=2MiB,v=2MiB
	unchanged "$clients/calls" $what $((16 << 20)) 4
done
threads=1 unchanged "$clients/calls" threads $((16 << 20)) 4
threads=1 unchanged "$clients/calls" fork $((16 << 20)) 4
unchanged "$clients/nodes" "$kernels"
unchanged "$clients/nodes" edges "$kernels"
fits=slab:layers=4,k=4MiB,v=4MiB
for what in primary reset context other destroy stream relaxed row; do unchanged "$clients/answers" $what; done

# Calls that fail do so in the same way.
for call in cuMemAlloc_v2:2 cuLaunchKernel:9 cuMemcpyHtoDAsync_v2:1 cuModuleGetFunction:4 cuStreamSynchronize:2 cuCtxSetCurrent:1 cuMemFree_v2:1; do
	SOFTCUDA_FAIL=$call:2 recorded plain "$record" "$decoder" tokens=2 "$kernels"
	grep -q '^cu[A-Za-z0-9_]* 2$' "$work/plain.calls" || fail "$call did not fail"
	SOFTCUDA_FAIL=$call:2 recorded got "$record:$shim" "$decoder" tokens=2 "$kernels"
	same "$call fails" decoder
done
[ $calls -gt 3000 ] || fail "only $calls calls were recorded"

# The record shows a difference where there is one.
fits=slab:layers=4,k=4MiB,v=4MiB
recorded plain "$record" "$decoder" tokens=2 "$kernels"
KVSHARE_OWNERS=0,1,0,1 KVSHARE_LAYOUT=$fits recorded got "$record:$shim" "$decoder" tokens=2 "$kernels"
! cmp -s "$work/got.calls" "$work/plain.calls" || fail "sharing leaves the device's free memory as it was: this test can show nothing"
exit $failed
