#!/bin/bash
# `kvshare-run probe` finds the kernels that write the cache of a program that it has never seen, and no others; with the file that
# it writes `exec` shares the layers, and with one writer left out of it the program ends in a fault that names that kernel.
# usage: [BUILD=build] tests/preload/probe_test.sh
. "$(dirname "$0")/common.sh"
layout=slab:layers=2,k=2MiB,v=2MiB
small=(layers=2 bytes=$((2 << 20)) tokens=3)
probe() { # LAYOUT OPTION...: of the decoder
	rm -f "$work/writers.json"
	"$run" probe --device host --layout "$1" -o "$work/writers.json" -- "$decoder" "${small[@]}" "${@:2}" "$kernels" \
		>"$work/said" 2>"$work/err"
}
rows() { # of the table: WRITES PARAMETER OFFSET LAYERS LAUNCHES KERNEL
	sed -nE 's/^  ([kv]+) +([0-9]+) +([0-9]+) +([0-9]+) +([0-9]+)  (.*)/\1 \2 \3 \4 \5 \6/p' "$work/said" | sort
}
output() { # of the decoder
	grep -E '^[0-9a-f]{8} ' "$work/said"
}
with_writers() { # OPTION...: of the decoder
	"$run" exec --device host --owners 0,0 --layout "$layout" --writers "$work/writers.json" -- "$decoder" "${small[@]}" "$@" \
		"$kernels" >"$work/got" 2>"$work/err"
}

"$run" exec --device host -- "$decoder" "${small[@]}" "$kernels" >"$work/plain" 2>"$work/err" || fail "the decoder does not run"
"$run" exec --device host -- "$decoder" "${small[@]}" owners=0,0 "$kernels" >"$work/oracle" 2>"$work/err" ||
	fail "the decoder does not run with owners"

finds() { # WHAT LAYOUT ROW OPTION...: exactly this row, the program's own output, and a file with which layers are shared
	probe "$2" "${@:4}" || fail "$1: $(cat "$work/err")"
	[ "$(rows)" = "$3" ] || fail "$1: it says $(cat "$work/said")"
	output | cmp -s - "$work/plain" || fail "$1: the program's output differs while it is probed"
	layout=$2 with_writers "${@:4}" || fail "$1: with the writers that were found: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$1: with the writers that were found, the output differs"
	while read -r writes parameter _ _ _ kernel; do
		without "$1" "$2" "$writes" "$parameter" "$kernel" "${@:4}"
	done <<<"$3"
}
# Each of the writers found is left out once: the program ends, the fault names the kernel, and nothing but the oracle's output came.
without() { # WHAT LAYOUT WRITES PARAMETER KERNEL OPTION...
	cp "$work/writers.json" "$work/all.json"
	sed -i -zE "s/\"$5\",(\s*\"way\": \"parameter\",\s*\"parameter\": $4,)/\"other\",\1/" "$work/writers.json"
	! cmp -s "$work/all.json" "$work/writers.json" || fail "$1: $5 is not in the file as expected: $(cat "$work/writers.json")"
	! layout=$2 with_writers "${@:6}" || fail "$1: the program goes on without the writer of $3"
	grep -q "^kvshare: .*has failed, perhaps as it wrote.*$5" "$work/err" || fail "$1, without the writer of $3: $(cat "$work/err")"
	head -c "$(stat -c %s "$work/got")" "$work/oracle" | cmp -s - "$work/got" || fail "$1, without the writer of $3: the output changes"
	mv "$work/all.json" "$work/writers.json"
}
tensors=tensors:layers=2,bytes=2MiB
finds "a slab" $layout "kv 2 0 2 12 client_set_rows"
finds "a writer that nobody knows" $layout "kv 2 0 2 12 client_hidden_store" store=hidden
finds "an address in a struct" $tensors "kv 0 24 2 12 client_index_copy" layout=tensors store=struct
finds "packed parameters" $layout "kv 2 0 2 12 client_hidden_store" store=hidden launch=extra
finds "a struct, packed" $layout "kv 0 24 2 12 client_index_copy" store=struct launch=extra
finds "cuLaunchKernelEx" $tensors "kv 2 0 2 12 client_set_rows" layout=tensors launch=ex
finds "a cooperative launch" $layout "kv 2 0 2 12 client_hidden_store" store=hidden launch=cooperative
finds "captured launches" $layout "kv 2 0 2 12 client_set_rows" graph=capture
finds "captured launches with a struct" $tensors "kv 0 24 2 12 client_index_copy" layout=tensors graph=capture store=struct launch=ex
finds "two parameters" $layout "k 2 0 2 6 client_reshape_and_cache
v 3 0 2 6 client_reshape_and_cache" store=paged
finds "two parameters, packed and captured" $tensors "k 2 0 2 6 client_reshape_and_cache
v 3 0 2 6 client_reshape_and_cache" layout=tensors store=paged launch=extra graph=capture
finds "two parameters, cuLaunchKernelEx" $layout "k 2 0 2 6 client_reshape_and_cache
v 3 0 2 6 client_reshape_and_cache" store=paged launch=ex
finds "nodes of a graph" $layout "kv 2 0 2 12 client_set_rows" graph=nodes

# Memory that the program maps itself: tensors that have a reservation each, and parts of one that is mapped piece by piece.
for alloc in mapped expandable; do
	"$run" inspect --device host -o "$work/$alloc.json" -- "$decoder" "${small[@]}" layout=tensors alloc=$alloc "$kernels" >"$work/said" \
		2>"$work/err" || fail "inspect of $alloc: $(cat "$work/err")"
	finds "$alloc memory" "$work/$alloc.json" "kv 2 0 2 12 client_hidden_store" layout=tensors alloc=$alloc store=hidden
done
finds "mapped memory, captured" "$work/expandable.json" "kv 0 24 2 12 client_index_copy" layout=tensors alloc=expandable graph=capture store=struct
probe "$work/mapped.json" layout=tensors alloc=mapped sleep=1 || fail "memory that is mapped again: $(cat "$work/err")"
[ "$(rows)" = "kv 2 0 2 24 client_set_rows" ] || fail "memory that is mapped again: it says $(cat "$work/said")"
probe "$work/expandable.json" layout=tensors alloc=expandable store=fused || fail "a fused kernel in mapped memory: $(cat "$work/err")"
grep -q "^Kernel client_masked_multihead_attention reads what it writes in the same launch" "$work/said" ||
	fail "a fused kernel in mapped memory: it says $(cat "$work/said")"
output | cmp -s - "$work/plain" || fail "a fused kernel in mapped memory: the program's output differs while it is probed"

# Only those of the file write. Without one of them the program ends, and the kernel is named.
probe $layout || fail "$(cat "$work/err")"
sed -i 's/"client_set_rows"/"client_other"/' "$work/writers.json"
! with_writers || fail "a writer that is not in the file was not noticed"
grep -q "^kvshare: .*client_set_rows" "$work/err" || fail "a writer that is not in the file: $(cat "$work/err")"
# The same for one that is there with another parameter.
probe $layout || fail "$(cat "$work/err")"
sed -i 's/"parameter": 2/"parameter": 1/' "$work/writers.json"
! with_writers || fail "a parameter that is not in the file was not noticed"
grep -q "^kvshare: .*client_set_rows" "$work/err" || fail "a parameter that is not in the file: $(cat "$work/err")"

# What cannot be shared is said, and refused.
probe $layout store=fused || fail "a fused kernel: $(cat "$work/err")"
grep -q "^Kernel client_masked_multihead_attention reads what it writes in the same launch" "$work/said" ||
	fail "a fused kernel: it says $(cat "$work/said")"
output | cmp -s - "$work/plain" || fail "a fused kernel: the program's output differs while it is probed"
probe $layout store=fused graph=capture || fail "a fused kernel, captured: $(cat "$work/err")"
grep -q "^Kernel client_masked_multihead_attention reads what it writes" "$work/said" ||
	fail "a fused kernel, captured: it says $(cat "$work/said")"
! with_writers store=fused || fail "a fused kernel is shared"
grep -q "writers.json: kernel client_masked_multihead_attention reads" "$work/err" || fail "a fused kernel: $(cat "$work/err")"

"$run" exec --device host --policy last --owners 0,0 --layout $layout --writers "$work/writers.json" -- "$decoder" "${small[@]}" \
	store=fused "$kernels" >"$work/got" 2>"$work/err" || fail "a fused kernel under the policy last: $(cat "$work/err")"

# An address in a table in device memory is found. It cannot be redirected, so such a writer faults, and --sync names it.
probe $layout store=table || fail "a table: $(cat "$work/err")"
[ "$(rows)" = "kv 2 0 2 12 client_table_store" ] || fail "a table: it says $(cat "$work/said")"
grep -q "^Kernel client_table_store has the address from a table in device memory" "$work/said" ||
	fail "a table: it says $(cat "$work/said")"
output | cmp -s - "$work/plain" || fail "a table: the program's output differs while it is probed"
! with_writers store=table || fail "a kernel that has the address from a table is shared"
! "$run" exec --device host --owners 0,0 --layout $layout --sync -- "$decoder" "${small[@]}" store=table "$kernels" \
	>"$work/got" 2>"$work/err" || fail "a store through a table was not noticed"
grep -q "^kvshare: kernel client_table_store has written" "$work/err" || fail "a table, with --sync: $(cat "$work/err")"

"$run" probe --device host --json --layout $layout -- "$decoder" "${small[@]}" "$kernels" >"$work/said" 2>"$work/err" || fail "--json"
grep -v '^[0-9a-f]\{8\} ' "$work/said" | tr -d ' \n' >"$work/json"
[ "$(cat "$work/json")" = '{"kvshare_writers":1,"writers":[{"kernel":"client_set_rows","way":"parameter","parameter":2,"offset":0,'\
'"entry":0,"writes":"kv","layers":2,"launches":12,"reads":"no"}],"not_shareable":[]}' ] || fail "--json: $(cat "$work/json")"

complains() { # MESSAGE ARGUMENT...
	! "$run" "${@:2}" >"$work/said" 2>"$work/err" || fail "${*:2} is accepted"
	grep -q -- "$1" "$work/err" || fail "${*:2}: $(cat "$work/err")"
}
complains '--layout takes the file that `kvshare-run inspect -o` writes' probe -- true
complains 'which program' probe --layout $layout
complains 'No such file' probe --layout "$work/none.json" -- true
complains 'has made no allocation' probe --layout $layout -- true
complains 'no kernel of 0 has written the cache' probe --device host --layout slab:layers=2,k=8MiB,v=8MiB \
	-- "$decoder" "${small[@]}" "$kernels"
echo '{"kvshare_layout": 1}' >"$work/bad.json"
complains '"kvshare_writers" is not 1' exec --owners 0,0 --layout $layout --writers "$work/bad.json" -- true
complains 'No such file' exec --owners 0,0 --layout $layout --writers "$work/none.json" -- true

exit $failed
