#!/bin/sh
# Runs a command while bpftrace counts calls of softcuda's copy in $FOLDER, and the bytes of some; then prints the counts.
# It begins when the first and the last probe have told of a call by kvs-ready: then all others are there, too.
# usage: FOLDER=... bpftrace_counts.sh COMMAND [ARGUMENT...]
set -eu
driver=$FOLDER/libcuda.so.1
cp "$KVSHARE_SOFTCUDA" "$driver"
cp "${BUILD:-build}/tests/clients/ends" "$FOLDER/kvs-ready"
export KVSHARE_SOFTCUDA="$driver"

sentinel() { # KIND WORD
	printf '%s:%s:cuInit /comm == "kvs-ready"/ { printf("ready %s\\n"); }\n' "$1" "$driver" "$2"
}

probes() { # ACTION FUNCTION...
	action=$1
	shift
	printf "uprobe:$driver:%s /comm != \"kvs-ready\"/ { @calls[probe] = count(); $action }\n" "$@"
}

{
	sentinel uprobe A
	probes '' cuMemFree_v2 cuMemAddressReserve cuMemAddressFree cuMemRelease cuMemMap cuMemUnmap cuMemSetAccess \
		cuStreamSynchronize cuLaunchKernel cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuLaunchHostFunc cuStreamCreate
	probes '@bytes[probe] = sum(arg1);' cuMemCreate cuMemAlloc_v2
	probes '@bytes[probe] = sum(arg2);' cuMemcpyDtoH_v2 cuMemcpyHtoD_v2
	sentinel uretprobe B
} >"$FOLDER/script"
bpftrace -B line "$FOLDER/script" >"$FOLDER/counts" &
counter=$!
trap 'kill -INT $counter 2>/dev/null' EXIT
for i in $(seq 300); do
	LD_LIBRARY_PATH=$FOLDER "$FOLDER/kvs-ready" 4096 return >/dev/null
	! grep -q 'ready A' "$FOLDER/counts" || ! grep -q 'ready B' "$FOLDER/counts" || break
	sleep 0.1
done
[ "$i" -lt 300 ] || echo "bpftrace does not start" >&2
"$@"
kill -INT $counter
wait $counter || true
trap - EXIT
cat "$FOLDER/counts"
