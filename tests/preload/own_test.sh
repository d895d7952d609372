#!/bin/bash
# Programs with an allocator of their own: segments that tensors are carved out of, memory that they create and map themselves (as
# PyTorch's expandable segments do), and that they give back and take again (as vLLM's sleep mode does). `inspect` finds the layout, the
# output equals the program's own sharing, and memory falls to the owners' and a block.
# usage: [BUILD=build] tests/preload/own_test.sh
. "$(dirname "$0")/common.sh"
device_mib() { # of each time that the program told it
	sed -nE 's/^device_bytes ([0-9]+) .*/\1/p' "$work/err" | while read -r bytes; do echo -n "$((bytes >> 20)) "; done
}
shared() { # LAYOUT OPTION...
	local layout=$1
	shift
	"$run" exec --device host --owners 0,1,0,1 --layout "$layout" --stats "$work/stats" -- "$decoder" tokens=4 layout=tensors "$@" \
		"$kernels" >"$work/got" 2>"$work/err"
}
"$run" exec --device host -- "$decoder" tokens=4 owners=0,1,0,1 "$kernels" >"$work/oracle" 2>"$work/err" ||
	fail "the decoder does not run: $(cat "$work/err")"
cat "$work/oracle" "$work/oracle" >"$work/twice"

as_oracle() { # MIB LAYOUT OPTION...
	local mib=$1
	shift
	shared "$@" || fail "$*: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$*: the output differs from the program's own sharing"
	[ "$(device_mib)" = "$mib " ] || fail "$*: $(cat "$work/err"), expected $mib MiB"
	[ "$(wc -l <"$work/err")" = 1 ] || fail "$*: the shim says $(cat "$work/err")"
}
inspected() { # ALLOC TEXT: what it says
	"$run" inspect --device host -o "$work/$1.json" -- "$decoder" tokens=4 layout=tensors alloc="$1" "$kernels" >"$work/said" 2>"$work/err" ||
		fail "inspect: $(cat "$work/err")"
	grep -qF -- "$2" "$work/said" || fail "inspect of $1 says $(grep -v '^[0-9a-f]\{8\} ' "$work/said")"
}
inspected mapped "--layout tensors:layers=4,bytes=4194304,memory=reserved --"
inspected expandable "--layout slab:layers=4,k=4194304,v=4194304,offset=6291456,size=536870912,memory=reserved --"
inspected segments "4 layers, K and V of 4194304 bytes each (explicit)"

# K and V of two layers of four are not there, and a block of the sink is.
as_oracle $((32 - 16 + 2)) "$work/mapped.json" alloc=mapped
as_oracle $((32 - 16 + 2)) tensors:layers=4,bytes=4MiB,order=kkvv,memory=reserved alloc=mapped order=kkvv
# Memory that was made before anything was reserved, and addresses reserved without a context.
as_oracle $((32 - 16 + 2)) "$work/mapped.json" alloc=early
as_oracle $((32 - 16 + 2)) "$work/mapped.json" alloc=bare
as_oracle $((40 - 16 + 2)) "$work/expandable.json" alloc=expandable
as_oracle $((40 - 16 + 2)) "$work/expandable.json" alloc=expandable graph=capture
as_oracle $((40 - 16 + 2)) "$work/segments.json" alloc=segments

# Weights of the same size come first, and are none of the cache's: plain ones are counted, and beside reservations they are not.
for alloc in plain mapped; do
	"$run" inspect --device host -o "$work/weights.json" -- "$decoder" tokens=4 layout=tensors weights=3 alloc=$alloc "$kernels" >"$work/said" 2>&1
	as_oracle $((44 - 16 + 2)) "$work/weights.json" weights=3 alloc=$alloc
done

# Of 3 MiB the tensors do not start at granules: nothing is shared, and inspect names what would align them.
"$run" inspect --device host -- "$decoder" tokens=4 layout=tensors alloc=expandable bytes=$((3 << 20)) "$kernels" >"$work/said" 2>&1
grep -q "4194304 bytes would align them: a context 1.333 times as long" "$work/said" || fail "inspect of 3 MiB says $(cat "$work/said")"

# Asleep, the cache is gone but for the block of the sink; awake it is shared again.
slept() { # LAYOUT ALLOC MIB
	shared "$1" alloc="$2" sleep=1 || fail "$2 sleeps: $(cat "$work/err")"
	cmp -s "$work/got" "$work/twice" || fail "$2 sleeps: the output differs from the program's own sharing"
	[ "$(device_mib)" = "$3 2 $3 " ] || fail "$2 sleeps: $(cat "$work/err")"
}
slept "$work/mapped.json" mapped 18
# Only an owner sleeps: what its borrower reads stays, and is the owner's again when it wakes.
shared "$work/mapped.json" alloc=mapped sleep=2 || fail "an owner sleeps: $(cat "$work/err")"
cmp -s "$work/got" "$work/twice" || fail "an owner sleeps: the output differs from the program's own sharing"
[ "$(device_mib)" = "18 18 18 " ] || fail "an owner sleeps: $(cat "$work/err")"
slept "$work/expandable.json" expandable 26

# What is mapped to a cache has no memory of its own to be bound elsewhere; other memory is the driver's, which has neither call here.
"$run" exec --device host --owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB,memory=reserved -- "$build/tests/clients/calls" bound \
	$((32 << 20)) 4 >"$work/got" 2>"$work/err" || fail "bound: $(cat "$work/err")"
[ "$(cat "$work/got")" = "$(printf 'plain: 801 801\ncache: 801 801')" ] || fail "bound: $(cat "$work/got")"
for call in cuMulticastBindMem cuMemMapArrayAsync; do
	[ "$(grep -c "^kvshare: .*a second time ($call)" "$work/err")" = 1 ] || fail "bound: $(cat "$work/err")"
done

# Without a block for the sink nothing is shared; with --strict the program gets an error. Other failures: own_fault_test.sh.
"$run" exec --device host -- "$decoder" tokens=4 "$kernels" >"$work/full" 2>"$work/err"
for alloc in mapped expandable; do
	SOFTCUDA_FAIL=cuMemCreate:1:2 shared "$work/$alloc.json" alloc=$alloc || fail "$alloc without a sink: $(cat "$work/err")"
	cmp -s "$work/got" "$work/full" || fail "$alloc without a sink: the output is wrong"
	grep -q "^kvshare: .*its layers are not shared" "$work/err" || fail "$alloc without a sink: it says $(cat "$work/err")"
done
! SOFTCUDA_FAIL=cuMemCreate:1:2 "$run" exec --device host --strict --owners 0,1,0,1 --layout "$work/mapped.json" -- "$decoder" tokens=4 \
	layout=tensors alloc=mapped "$kernels" >"$work/got" 2>"$work/err" || fail "--strict goes on without sharing"
grep -q "stays as it is, its layers are not shared" "$work/err" || fail "--strict says $(cat "$work/err")"
exit $failed
