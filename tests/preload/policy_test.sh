#!/bin/bash
# With the policy `last` nothing is redirected: borrowers store into their owner's memory, and layers read what was stored last.
# The output is, bit for bit, that of the program when it lets its layers store into each other's K and V itself.
# usage: [BUILD=build] tests/preload/policy_test.sh
. "$(dirname "$0")/common.sh"
owners=0,1,0,1
decode() { # NAME EXEC-OPTION... -- DECODER-OPTION...
	local name=$1 exec=()
	shift
	while [ "$1" != -- ]; do
		exec+=("$1")
		shift
	done
	shift
	"$run" exec --device host "${exec[@]}" -- "$decoder" "$@" "$kernels" >"$work/$name" 2>"$work/err" ||
		fail "$name $*: $(cat "$work/err")"
}
figure() { # KEY
	sed -nE "s/.*\"$1\": ([0-9]+).*/\\1/p" "$work/stats"
}
decode oracle -- owners=$owners policy=last
decode owner -- owners=$owners
decode full --
! cmp -s "$work/oracle" "$work/owner" || fail "the policies make no difference, so this test can show nothing"
! cmp -s "$work/oracle" "$work/full" || fail "sharing makes no difference, so this test can show nothing"

last() { # LAYOUT OPTION...: of the decoder
	decode got --policy last --owners $owners --layout "$1" --stats "$work/stats" -- "${@:2}"
	cmp -s "$work/got" "$work/oracle" || fail "$*: the output differs from the program's own sharing"
	[ "$(wc -l <"$work/err")" = 1 ] || fail "$*: the shim says $(cat "$work/err")"
	# Half of eight tensors of 4 MiB, and no sink.
	grep -q "^device_bytes $((16 << 20)) " "$work/err" || fail "$*: $(cat "$work/err")"
	[ "$(figure saved_bytes)" = $((16 << 20)) ] || fail "$*: $(cat "$work/stats")"
	[ "$(figure sink_bytes) $(figure launches_patched)" = "0 0" ] || fail "$*: $(cat "$work/stats")"
}
slab=slab:layers=4,k=4MiB,v=4MiB
last $slab
last tensors:layers=4,bytes=4MiB,order=kkvv layout=tensors order=kkvv launch=ex
last halves:layers=4,bytes=8MiB layout=halves store=struct
last $slab graph=capture
last $slab store=hidden # a writer that nobody knows is as good as another
last $slab store=fused  # and so is a kernel that stores and attends
# The other policy is what it was.
decode got --policy owner --owners $owners --layout $slab --
cmp -s "$work/got" "$work/owner" || fail "--policy owner: the output differs"
# Each failure leaves plain memory, as ever.
for call in cuMemCreate:3 cuMemMap:5 cuMemSetAccess:2; do
	SOFTCUDA_FAIL=$call:2 decode got --policy last --owners $owners --layout $slab --
	grep -q "^kvshare: an allocation" "$work/err" || fail "$call did not fail"
	cmp -s "$work/got" "$work/full" || fail "$call fails: the output changes"
done
KVSHARE_POLICY=first KVSHARE_OWNERS=0 KVSHARE_LAYOUT=slab:layers=1,k=4MiB,v=4MiB LD_LIBRARY_PATH=$build/softcuda \
	LD_PRELOAD=$build/libkvshare-preload.so "$decoder" "$kernels" 2>"$work/err" >"$work/got"
grep -q '^kvshare: nothing is shared: KVSHARE_POLICY is "first"' "$work/err" || fail "an unknown policy: $(cat "$work/err")"

exit $failed
