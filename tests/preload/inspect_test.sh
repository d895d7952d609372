#!/bin/bash
# `kvshare-run inspect` finds the layout of a program that it has never seen, and the file that it writes makes `exec` share its
# layers. Where a cache cannot be shared, it says why.
# usage: [BUILD=build] tests/preload/inspect_test.sh
. "$(dirname "$0")/common.sh"
inspect() { # OPTION...: of the decoder
	rm -f "$work/layout.json"
	"$run" inspect --device host -o "$work/layout.json" -- "$decoder" tokens=4 "$@" "$kernels" >"$work/said" 2>"$work/err"
}

"$run" exec --device host -- "$decoder" tokens=4 owners=0,1,0,1 "$kernels" >"$work/oracle" 2>"$work/err" ||
	fail "the decoder does not run: $(cat "$work/err")"
finds() { # KIND ORDER OPTION...: of the decoder
	local what="$1, order $2"
	inspect layout="$1" order="$2" "${@:3}" || fail "$what: $(cat "$work/err")"
	grep -q "^These look like a KV cache: 4 layers, K and V of 4194304 bytes each ($what)" "$work/said" ||
		fail "$what: it says $(grep -v '^[0-9a-f]\{8\} ' "$work/said")"
	"$run" exec --device host --owners 0,1,0,1 --layout "$work/layout.json" -- "$decoder" tokens=4 layout="$1" order="$2" \
		"${@:3}" "$kernels" >"$work/got" 2>"$work/err" || fail "$what: the layout does not work: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$what: the layout that was found shares otherwise"
}
finds slab kv
finds slab kkvv launch=extra
finds slab kv store=struct launch=ex
finds tensors kv
finds tensors kkvv alloc=async
finds tensors kv alloc=pitch
finds halves kv
mkdir "$work/a folder [of 1]*"
TMPDIR="$work/a folder [of 1]*" finds slab kv
[ -z "$(ls "$work/a folder [of 1]*")" ] || fail "left behind: $(ls "$work/a folder [of 1]*")"

inspect bytes=$((3 << 20)) || fail "3 MiB: $(cat "$work/err")"
grep -q "cannot be shared as they are.* 4194304 bytes would align them: a context 1.333 times" "$work/said" ||
	fail "3 MiB: it says $(cat "$work/said")"
! grep -q "If the rest is the cache's" "$work/said" || fail "3 MiB: it says $(cat "$work/said")"

# Blocks that hold all layers are no layout, wherever they lie; a small slab, and a paged cache with a slab's order, are not taken for them.
for alloc in plain expandable; do
	! inspect layout=blocks store=paged alloc=$alloc || fail "blocks of all layers, $alloc: a layout was found"
	grep -q "blocks hold all layers (block-major): .*8 places, 2048 bytes apart, .* places 16384 bytes on" "$work/said" ||
		fail "blocks of all layers, $alloc: it says $(cat "$work/said")"
	grep -q "cannot be shared: memory is shared in granules of 2097152 bytes.* VLLM_KV_CACHE_LAYOUT=LBNHC" "$work/said" ||
		fail "blocks of all layers, $alloc: it says $(cat "$work/said")"
done
! inspect layout=pages store=paged || fail "K and V by turns: a layout was found"
grep -q "in whose blocks K and V take turns: they go to 2 places, 2048 bytes apart, and to the same places 4096 bytes on" "$work/said" ||
	fail "K and V by turns: it says $(cat "$work/said")"
finds slab kv store=paged launch=extra
finds halves kv store=paged
finds tensors kv store=paged
inspect bytes=65536 alloc=expandable store=paged || fail "a small slab: $(cat "$work/err")"
grep -q "4 layers, K and V of 65536 bytes.* (slab" "$work/said" || fail "a small slab: it says $(cat "$work/said")"
grep -q "They take 524288 bytes of 536870912. If the rest is the cache's too" "$work/said" || fail "a small slab: it says $(cat "$work/said")"

! inspect store=hidden || fail "a layout was found with no known writer"
grep -q "No kernel that is known to store" "$work/said" || fail "no known writer: it says $(cat "$work/said")"
grep -q "^kvshare-run: no layout was found" "$work/err" || fail "no known writer: $(cat "$work/err")"
[ ! -e "$work/layout.json" ] || fail "a layout was written though none was found"
! "$run" inspect --device host -- true >"$work/said" 2>"$work/err" || fail "a program without CUDA was inspected"
grep -q "has called no CUDA driver" "$work/err" || fail "a program without CUDA: $(cat "$work/err")"

# Layouts and plans that do not fit are refused before anything runs.
refused() { # MESSAGE OPTION...: of exec
	! "$run" exec --device host "${@:2}" -- touch "$work/ran" >/dev/null 2>"$work/err" || fail "$2 $3 is accepted"
	grep -q -- "$1" "$work/err" || fail "${*:2}: $(cat "$work/err")"
	[ ! -e "$work/ran" ] || fail "the program ran in spite of ${*:2}"
}
refused 'the plan has 3 layers, the layout 4' --owners 0,1,0 --layout slab:layers=4,k=4MiB,v=4MiB
refused 'there is no "heads"' --owners 0,1,0,1 --layout slab:layers=4,k=4MiB,heads=3
refused 'k is "4TiB"' --owners 0,1,0,1 --layout slab:layers=4,k=4TiB,v=4MiB
refused 'slab:.* is expected' --owners 0,1,0,1 --layout slob:layers=4
refused 'sizes of K and V' --owners 0,1,0,1 --layout slab:layers=4
refused 'order is "vk"' --owners 0,1,0,1 --layout slab:layers=4,k=1,v=1,order=vk
refused 'have one size' --owners 0,1,0,1 --layout tensors:layers=4,k=4MiB,v=8MiB
refused 'takes a plan' --layout slab:layers=4,k=4MiB,v=4MiB
refused 'use only one' --owners 0 --plan "$work/none" --layout slab:layers=1,k=4MiB,v=4MiB
refused 'No such file' --owners 0 --layout "$work/none.json"
echo '{"kvshare_layout": 1, "kind": "slab", "layers": 1, "k_bytes": true}' >"$work/bad.json"
refused 'bad.json: k_bytes is neither' --owners 0 --layout "$work/bad.json"
echo '{"kvshare_layout": 2, "kind": "slab"}' >"$work/bad.json"
refused 'is not 1' --owners 0 --layout "$work/bad.json"
"$run" exec -- /nowhere/program 2>"$work/err"
[ $? = 127 ] || fail "a program that is not there does not end with 127"

exit $failed
