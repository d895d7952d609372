#!/bin/bash
# Tensor maps (cuTensorMapEncode*): `probe` names a writer that has the address from one, and where the map is of one borrower, the
# launch is handed one of the sink: the output equals the program's own sharing. A map of several layers cannot be told another
# address: probe says so, exec says so, and the store ends in the named fault and never in another layer.
# usage: [BUILD=build] tests/preload/maps_test.sh
. "$(dirname "$0")/common.sh"
layout=slab:layers=4,k=4MiB,v=4MiB
decode() { # OPTION-OF-EXEC... -- OPTION...
	local before=()
	while [ "$1" != -- ]; do before+=("$1"); shift; done
	shift
	"$run" exec --device host "${before[@]}" -- "$decoder" tokens=4 "$@" "$kernels" >"$work/got" 2>"$work/err"
}
probe() {
	"$run" probe --device host --layout $layout -o "$work/writers.json" -- "$decoder" tokens=3 "$@" "$kernels" >"$work/said" 2>"$work/err" ||
		fail "probe of $*: $(cat "$work/err")"
}
decode -- owners=0,1,0,1 || fail "the decoder does not run: $(cat "$work/err")"
cp "$work/got" "$work/oracle"
decode -- || fail "the decoder does not run: $(cat "$work/err")"
cp "$work/got" "$work/plain"

probe store=map
grep -qE "^  kv +2 +0 +4 +24  client_map_store \(a tensor map\)$" "$work/said" || fail "probe says $(cat "$work/said")"
! grep -q "cannot be shared" "$work/said" || fail "probe says $(cat "$work/said")"
for how in launch=plain launch=ex graph=capture; do
	decode --owners 0,1,0,1 --layout $layout --writers "$work/writers.json" -- store=map $how || fail "a map, $how: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "a map, $how: the output differs from the program's own sharing"
	! grep -q "^kvshare: " "$work/err" || fail "a map, $how: the shim says $(cat "$work/err")"
done
decode --owners 0,1,2,3 --layout $layout --writers "$work/writers.json" -- store=map || fail "nothing to share: $(cat "$work/err")"
cmp -s "$work/got" "$work/plain" || fail "nothing to share: the output differs"
# Only reads are left to it: the store through the map meets read-only memory, and the kernel is named.
! decode --owners 0,1,0,1 --layout $layout -- store=map || fail "a writer that is not known goes on"
grep -q "^kvshare: .*client_map_store" "$work/err" || fail "a writer that is not known: $(cat "$work/err")"

probe store=maps
grep -q "^Kernel client_map_store has the address from a tensor map of several layers" "$work/said" || fail "probe of one map: $(cat "$work/said")"
! decode --owners 0,1,0,1 --layout $layout --writers "$work/writers.json" -- store=maps || fail "a writer that cannot be shared is"
! decode --owners 0,1,0,1 --layout $layout --writer client_map_store -- store=maps || fail "a map of all layers goes on"
grep -q "^kvshare: kernel client_map_store is handed a tensor map of several layers" "$work/err" || fail "one map: $(cat "$work/err")"
grep -q "^kvshare: .*has failed, perhaps as it wrote.*client_map_store" "$work/err" || fail "one map: $(cat "$work/err")"
exit $failed
