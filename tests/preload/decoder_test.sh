#!/bin/bash
# A plain program under the shim: its output equals, bit for bit, what it prints when it lets layers read each other's K and V
# itself, and its device memory falls to that of the owners plus one block. Where nothing can be shared, nothing changes.
# usage: [BUILD=build] tests/preload/decoder_test.sh
. "$(dirname "$0")/common.sh"
# Bytes of K, and of V, of one layer; granules are 2 MiB.
mib=$((1 << 20)) size=$((4 << 20))
owners=0,1,0,1 layers=4
plain() { # NAME OPTION...
	local name=$1
	shift
	KVSHARE_DISABLE=1 "$run" exec --device host -- "$decoder" "$@" "$kernels" >"$work/$name" 2>"$work/$name.memory"
}
shared() { # NAME LAYOUT OPTION...
	local name=$1 layout=$2
	shift 2
	"$run" exec --device host --owners "$owners" --layout "$layout" --stats "$work/$name.json" \
		-- "$decoder" "$@" "$kernels" >"$work/$name" 2>"$work/$name.memory"
}
device_bytes() { # NAME
	sed -nE 's/^device_bytes ([0-9]+) .*/\1/p' "$work/$1.memory"
}
pss_kb() { # NAME
	sed -nE 's/^.* pss_kb ([0-9]+)$/\1/p' "$work/$1.memory"
}
shmem_kb() { # NAME
	sed -nE 's/^.* shmem_kb ([0-9]+) .*$/\1/p' "$work/$1.memory"
}
figure() { # NAME KEY
	sed -nE "s/.*\"$2\": ([0-9]+).*/\\1/p" "$work/$1.json"
}
expect() { # WHAT FOUND EXPECTED
	[ "$2" = "$3" ] || fail "$1 is $2, expected $3"
}

plain full || fail "the decoder does not run: $(cat "$work/full.memory")"
plain oracle "owners=$owners" || fail "the decoder does not run with owners"
! cmp -s "$work/full" "$work/oracle" || fail "sharing makes no difference, so this test can show nothing"

as_oracle() { # WHAT LAYOUT OPTION...
	local what=$1
	shift
	shared got "$@" || fail "$what: $(cat "$work/got.memory")"
	cmp -s "$work/got" "$work/oracle" || fail "$what: the output differs from the program's own sharing"
	[ "$(wc -l <"$work/got.memory")" = 1 ] || fail "$what: the shim says $(cat "$work/got.memory")"
}
slab=slab:layers=$layers,k=4MiB,v=4MiB
# K and V of two layers of four, and one block of the sink.
less=$((4 * size + 2 * mib))

# The driver's counter to the byte; the process's own memory, where softcuda has that of the device, to half a MiB, which is what
# differs from run to run; and all of it but what the shim takes itself.
falls() { # WHAT OPTION...: what the last run took, compared with the same program that shares nothing
	local kb=$(((8 * size - less) / 1024)) fell
	plain full "${@:2}"
	expect "device memory in $1" "$(device_bytes got)" $less
	expect "device memory in $1 without sharing" "$(device_bytes full)" $((8 * size))
	fell=$(($(shmem_kb full) - $(shmem_kb got)))
	if [ $fell -lt $((kb - 512)) ] || [ $fell -gt $((kb + 2048)) ]; then fail "$1: PSS of the device's memory fell by $fell kB, expected $kb"; fi
	case $(cat "$build/cc.flags") in
	*-fsanitize*) return ;; # its own memory is larger than ours
	esac
	fell=$(($(pss_kb full) - $(pss_kb got)))
	[ $fell -gt $((kb - 1024)) ] || fail "$1: PSS fell by $fell kB only, expected $kb"
}

as_oracle slab $slab
falls "a slab"
expect physical_bytes "$(figure got physical_bytes)" $less
expect virtual_bytes "$(figure got virtual_bytes)" $((8 * size))
expect sink_bytes "$(figure got sink_bytes)" $((2 * mib))
expect saved_bytes "$(figure got saved_bytes)" $((8 * size - less))
expect launches_patched "$(figure got launches_patched)" $((8 * 4)) # 8 tokens, K and V of 2 layers

as_oracle "slab, all K first" $slab,order=kkvv order=kkvv
as_oracle tensors tensors:layers=$layers,bytes=4MiB layout=tensors
falls tensors layout=tensors
as_oracle "tensors, all K first" tensors:layers=$layers,bytes=4MiB,order=kkvv layout=tensors order=kkvv
as_oracle halves halves:layers=$layers,bytes=8MiB layout=halves
falls halves layout=halves
as_oracle "stream-ordered allocations" tensors:layers=$layers,bytes=4MiB layout=tensors alloc=async
as_oracle "a pool's allocations" tensors:layers=$layers,bytes=4MiB layout=tensors alloc=pool
as_oracle "rows of a pitch" tensors:layers=$layers,bytes=4MiB layout=tensors alloc=pitch
expect "device memory of rows" "$(device_bytes got)" $less
as_oracle "captured launches, replayed" $slab graph=capture
falls "captured launches" graph=capture
as_oracle "K and V in one launch, block by block" $slab store=paged
as_oracle "K and V in one launch, packed" tensors:layers=$layers,bytes=4MiB layout=tensors store=paged launch=extra
as_oracle "captured launches with a struct" tensors:layers=$layers,bytes=4MiB layout=tensors graph=capture store=struct launch=ex
as_oracle "nodes of a graph" $slab graph=nodes
as_oracle "the default stream" $slab streams=default
for launch in ex extra cooperative; do
	as_oracle "launch $launch" $slab launch=$launch
	as_oracle "a struct, launch $launch" $slab store=struct launch=$launch
done

# A tensor of its own need not be whole granules: the rest of its last one belongs to nobody else.
plain oracle "owners=$owners" bytes=$((3 * mib))
as_oracle "tensors of 3 MiB" tensors:layers=$layers,bytes=3MiB layout=tensors bytes=$((3 * mib))
plain full bytes=$((3 * mib))
shared got slab:layers=$layers,k=3MiB,v=3MiB bytes=$((3 * mib)) || fail "a slab of 3 MiB does not run"
cmp -s "$work/got" "$work/full" || fail "a slab that cannot be shared changes the output"
grep -q "^kvshare: .*4194304 bytes a layer would align it" "$work/got.memory" ||
	fail "a slab of 3 MiB says $(cat "$work/got.memory")"

# Nothing to share.
plain full
"$run" exec --device host -- "$decoder" "$kernels" >"$work/got" 2>"$work/got.memory" || fail "exec without a plan fails"
cmp "$work/got" "$work/full" || fail "exec without a plan changes the output"
cmp "$work/got" "$work/full"
shared got slab:layers=$layers,k=8MiB,v=8MiB || fail "a layout that does not fit: $(cat "$work/got.memory")"
cmp "$work/got" "$work/full" || fail "a layout that does not fit changes the output"
expect "device memory of a layout that does not fit" "$(device_bytes got)" $((8 * size))

# A writer that nobody knows ends in a fault that names it, and is known once it is named.
plain oracle "owners=$owners"
! shared got $slab store=hidden || fail "an unknown writer was not noticed"
grep -q "^kvshare: .*client_hidden_store" "$work/got.memory" || fail "an unknown writer: $(cat "$work/got.memory")"
! "$run" exec --device host --owners $owners --layout $slab --sync -- "$decoder" store=hidden "$kernels" >"$work/got" \
	2>"$work/got.memory" || fail "an unknown writer was not noticed with --sync"
grep -q "^kvshare: kernel client_hidden_store has written" "$work/got.memory" ||
	fail "an unknown writer, with --sync: $(cat "$work/got.memory")"
"$run" exec --device host --owners $owners --layout $slab --writer '*hidden_store:2' -- "$decoder" store=hidden "$kernels" \
	>"$work/got" 2>"$work/got.memory" || fail "--writer: $(cat "$work/got.memory")"
cmp -s "$work/got" "$work/oracle" || fail "--writer: the output differs"
# A kernel that is named once for each of its parameters writes through all of them; one that has no such parameter, through none.
named() { # WRITER...
	local list=()
	for writer; do list+=(--writer "$writer"); done
	"$run" exec --device host --owners $owners --layout $slab "${list[@]}" -- "$decoder" store=hidden "$kernels" \
		>"$work/got" 2>"$work/got.memory"
}
named '*hidden_store:1' '*hidden_store:2' || fail "--writer for two parameters: $(cat "$work/got.memory")"
cmp -s "$work/got" "$work/oracle" || fail "--writer for two parameters: the output differs"
! named '*hidden_store:66' || fail "--writer for parameter 66 is taken for one of another"
! shared got $slab store=fused || fail "a kernel that stores and attends was let through"
grep -q "^kvshare: kernel client_masked_multihead_attention both stores" "$work/got.memory" ||
	fail "a fused kernel: $(cat "$work/got.memory")"

# Each failure of a call that maps memory leaves the plain allocation, and the output of the program without the shim.
strike() { # NAME LAYOUT OPTION...: every Nth call of one function, until one is not reached
	local name=$1 nth
	for ((nth = 1; nth < 200; nth++)); do
		SOFTCUDA_FAIL=$name:$nth:2 shared got "${@:2}" || fail "$name fails at call $nth: $(cat "$work/got.memory")"
		grep -q "^kvshare: an allocation" "$work/got.memory" || break
		cmp -s "$work/got" "$work/full" || fail "$name fails at call $nth: the output changes"
		expect "device memory when $name fails at call $nth" "$(device_bytes got)" $((8 * size))
		expect "saved_bytes when $name fails at call $nth" "$(figure got saved_bytes)" 0
		expect "sink_bytes when $name fails at call $nth" "$(figure got sink_bytes)" 0
	done
	[ $nth -gt 1 ] || fail "$name never failed"
	cmp -s "$work/got" "$work/oracle" || fail "$name: the last run shares nothing"
}
for call in cuMemAddressReserve cuMemCreate cuMemMap cuMemSetAccess; do
	strike $call $slab tokens=8
	strike $call tensors:layers=$layers,bytes=4MiB layout=tensors
done
! SOFTCUDA_FAIL=cuMemCreate:1:2 "$run" exec --device host --strict --owners $owners --layout $slab -- "$decoder" "$kernels" \
	>"$work/got" 2>"$work/got.memory" || fail "--strict goes on without sharing"
grep -q "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY" "$work/got.memory" || fail "--strict: $(cat "$work/got.memory")"

exit $failed
