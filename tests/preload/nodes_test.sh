#!/bin/bash
# Nodes of graphs that copy, clear and store, and captured copies: what they store to a borrower goes to the sink, however they are
# made or changed, so that all layers then hold what they hold where the program itself lets them read each other's K and V.
# usage: [BUILD=build] tests/preload/nodes_test.sh
. "$(dirname "$0")/common.sh"
nodes=$build/tests/clients/nodes
plain() { # OPTION...
	KVSHARE_DISABLE=1 "$run" exec --device host -- "$nodes" "$@" "$kernels" 2>&1
}
shared() { # OPTION...
	"$run" exec --device host --owners 0,1,0,1 --layout slab:layers=4,k=2MiB,v=2MiB --stats "$work/stats" \
		-- "$nodes" "$@" "$kernels" 2>"$work/err"
}

plain >"$work/full" || fail "the program does not run: $(cat "$work/full")"
plain owners=0,1,0,1 >"$work/oracle" || fail "the program does not run with owners: $(cat "$work/oracle")"
! cmp -s "$work/full" "$work/oracle" || fail "sharing makes no difference, so this test can show nothing"
shared >"$work/got" || fail "nodes: $(cat "$work/err")"
diff "$work/oracle" "$work/got" || fail "nodes: the cache differs from the program's own sharing"
[ ! -s "$work/err" ] || fail "nodes: the shim says $(cat "$work/err")"
# K and V of two layers that borrow: 3 ways to add, to set, and to set again (by the node itself in a child graph).
grep -q '"launches_patched": 36,' "$work/stats" || fail "nodes: $(cat "$work/stats")"
saved=$((16 - 8 - 2)) # MiB: four tensors of two, less the sink's block
grep -q "\"saved_bytes\": $((saved << 20))," "$work/stats" || fail "nodes: $(cat "$work/stats")"

# A kernel that is handed shared memory, a borrower's or an owner's, waits for the whole of the one ahead; others need not, and edges
# can be removed as the program made them.
plain edges >"$work/full" || fail "edges: $(cat "$work/full")"
shared edges >"$work/got" || fail "edges: $(cat "$work/err")"
edges() {
	grep -E '^(edge|remove)' "$1" | tr '\n' ' '
}
[ "$(edges "$work/full")" = "edge 0 1: 1 1 edge 1 2: 1 1 edge 0 2: 1 1 edge 1 3: 1 1 edge 0 4: 1 1 remove 0 edges 3 " ] ||
	fail "edges, without the shim: $(edges "$work/full")"
[ "$(edges "$work/got")" = "edge 0 1: 0 0 edge 1 2: 1 1 edge 0 2: 1 1 edge 1 3: 0 0 edge 0 4: 0 0 remove 0 edges 3 " ] ||
	fail "edges: $(edges "$work/got")"

# Nodes that each store to all layers at once: the owners get their rows, whatever the borrowers' were.
plain whole >"$work/full" || fail "whole: $(cat "$work/full")"
plain whole owners=0,1,0,1 >"$work/oracle" || fail "whole, with owners: $(cat "$work/oracle")"
[ "$(head -1 "$work/full") $(sort -u -k 3 "$work/full" | wc -l)" = "whole 0 9" ] || fail "whole: the layers do not differ: $(cat "$work/full")"
shared whole >"$work/got" || fail "whole: $(cat "$work/err")"
diff "$work/oracle" "$work/got" || fail "whole: the cache differs from the program's own sharing"
[ ! -s "$work/err" ] || fail "whole: the shim says $(cat "$work/err")"
grep -q "\"saved_bytes\": $((saved << 20))," "$work/stats" || fail "whole: $(cat "$work/stats")"

# One graph with nodes of all types, whose executable is changed.
plain mixed owners=0,1,0,1 >"$work/oracle" || fail "mixed, with owners: $(cat "$work/oracle")"
shared mixed >"$work/got" || fail "mixed: $(cat "$work/err")"
diff "$work/oracle" "$work/got" || fail "mixed: the cache differs from the program's own sharing"

# probe runs a graph node by node, child graphs and what cannot be disabled too: it finds the writer of so many stores to so many
# layers, and the program does not notice.
probed() { # LAYERS STORES OPTION...
	plain "${@:3}" >"$work/full" || fail "${*:3}: $(cat "$work/full")"
	"$run" probe --device host -o "$work/writers.json" --layout slab:layers=4,k=2MiB,v=2MiB -- "$nodes" "${@:3}" "$kernels" \
		>"$work/got" 2>"$work/err" || fail "probe ${*:3}: $(cat "$work/err")"
	head -n "$(wc -l <"$work/full")" "$work/got" | diff "$work/full" - || fail "probe ${*:3} changes the cache"
	[ "$(sed -nE 's/^ +kv +2 +0 +([0-9]+) +([0-9]+) +client_set_rows$/\1 \2/p' "$work/got")" = "$1 $2" ] ||
		fail "probe ${*:3}: $(cat "$work/got")"
	[ "$(grep -c '^  kv' "$work/got")" = 1 ] && [ ! -s "$work/err" ] || fail "probe ${*:3}: $(cat "$work/got" "$work/err")"
}
probed 4 72 # three rows in three ways to each K and V
probed 2 10 mixed

# Where the place for borrowers' stores cannot be made, whatever fails on the way, the cache is the program's own.
plain whole >"$work/full" || fail "whole: $(cat "$work/full")"
for call in cuMemAddressReserve:3 cuMemRetainAllocationHandle:1 cuMemRetainAllocationHandle:4 cuMemMap:14 cuMemSetAccess:10; do
	SOFTCUDA_FAIL=$call:2 shared whole >"$work/got" || fail "whole, $call fails: $(cat "$work/err")"
	diff "$work/full" "$work/got" || fail "whole, $call fails: the cache is not the program's own"
	grep -q "^kvshare: an allocation of .* stays as it is.*cannot map where borrowers' stores" "$work/err" ||
		fail "whole, $call: $(cat "$work/err")"
done
exit $failed
