#!/bin/bash
# An explicit layout shares the layers of a cache that no other kind describes, however they lie; one that is wrong is refused,
# with the place, before anything runs; `inspect` writes one where no other kind fits.
# usage: [BUILD=build] tests/preload/explicit_test.sh
. "$(dirname "$0")/common.sh"
device_bytes() {
	sed -nE 's/^device_bytes ([0-9]+) .*/\1/p' "$work/err"
}
# Layers 0 and 1 lie behind a head of 2 MiB, V before K; 2 and 3 the other way round, in an allocation of their own.
cat >"$work/odd.json" <<END
{"kvshare_layout": 1, "kind": "explicit", "allocations": ["18MiB", 16777216],
 "k": [{"allocation": 0, "offset": "6MiB", "bytes": "4MiB", "layers": 2, "stride": "8MiB"},
       {"allocation": 1, "offset": "12MiB", "bytes": "4MiB", "layers": 2, "stride": "-8MiB"}],
 "v": [{"allocation": 0, "offset": "2MiB", "bytes": "4MiB", "layers": 2, "stride": "8MiB"},
       {"allocation": 1, "offset": "8MiB", "bytes": "4MiB"}, {"allocation": 1, "offset": 0, "bytes": 4194304}]}
END
short=explicit:size=18MiB,size=16MiB,k=0:6MiB:4MiB:2:8MiB,k=1:12MiB:4MiB:2:-8MiB,v=0:2MiB:4MiB:2:8MiB,v=1:8MiB:4MiB:2:-8MiB

as_oracle() { # OWNERS LAYOUT BYTES [OPTION...]: of the decoder
	"$run" exec --device host -- "$decoder" tokens=4 owners="$1" "$kernels" >"$work/oracle" 2>"$work/err" ||
		fail "the decoder does not run: $(cat "$work/err")"
	"$run" exec --device host --owners "$1" --layout "$2" -- "$decoder" tokens=4 layout=odd "${@:4}" "$kernels" \
		>"$work/got" 2>"$work/err" || fail "$1: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$1 $2: the output differs from the program's own sharing"
	[ "$(device_bytes)" = $(($3 << 20)) ] || fail "$1 $2: $(cat "$work/err"), expected $3 MiB"
}
# What there is, without the borrowers, and a block of the sink.
as_oracle 0,1,0,1 "$work/odd.json" $((34 - 16 + 2))
as_oracle 0,1,0,1 $short $((34 - 16 + 2)) store=struct launch=extra
as_oracle 0,1,2,2 $short $((34 - 8 + 2)) # the owner lies behind its borrower
as_oracle 0,0,0,0 "$work/odd.json" $((34 - 24 + 2)) graph=capture

refused() { # MESSAGE LAYOUT [OWNERS]
	! "$run" exec --device host --owners "${3:-0,0}" --layout "$2" -- touch "$work/ran" >/dev/null 2>"$work/err" ||
		fail "$2 is accepted"
	grep -q -- "$1" "$work/err" || fail "$2: $(cat "$work/err")"
	[ ! -e "$work/ran" ] || fail "the program ran in spite of $2"
}
refused 'K of layer 1 overlaps V of layer 0' explicit:size=16MiB,k=0:0:4MiB:2:4MiB,v=0:4MiB:4MiB:2:8MiB
refused 'it has K of 2 layers and V of 1' explicit:size=16MiB,k=0:0:4MiB:2:8MiB,v=0:4MiB:4MiB
refused 'V of layer 1 takes 4194304 bytes at offset 12582912 of allocation 0, which has 15728640' \
	explicit:size=15MiB,k=0:0:4MiB:2:8MiB,v=0:4MiB:4MiB:2:8MiB
refused 'K of layer 0 is in allocation 1, and 1 are given' explicit:size=16MiB,k=1:0:4MiB:2:8MiB,v=0:4MiB:4MiB:2:8MiB
refused 'layers is 3, and K and V of 2' explicit:layers=3,size=16MiB,k=0:0:4MiB:2:8MiB,v=0:4MiB:4MiB:2:8MiB
refused 'a run of K is "0:0:4MiB:2"' explicit:size=16MiB,k=0:0:4MiB:2,v=0:4MiB:4MiB:2:8MiB
refused 'a run of K is "0:0:4MiB:2:8MiB:1"' explicit:size=16MiB,k=0:0:4MiB:2:8MiB:1,v=0:4MiB:4MiB:2:8MiB
refused 'there is no "stride"' explicit:size=16MiB,stride=8MiB,k=0:0:4MiB:2:8MiB,v=0:4MiB:4MiB:2:8MiB
refused 'size is "x"' explicit:size=x
refused 'it has K of 0 layers' explicit:size=16MiB
printf '{"kvshare_layout": 1, "kind": "explicit", "allocations": ["8MiB"], "k": [{"allocation": 0, "bytes": 1}], "v": []}' >"$work/bad.json"
refused 'bad.json: k: a run has no offset' "$work/bad.json"
printf '{"kvshare_layout": 1, "kind": "explicit", "k": [], "v": []}' >"$work/bad.json"
refused 'bad.json: allocations is no list of sizes' "$work/bad.json"

# What only the shim can know, it says, and the program goes on with plain memory.
says() { # MESSAGE LAYOUT OWNERS
	"$run" exec --device host -- "$decoder" tokens=4 layout=odd "$kernels" >"$work/oracle" 2>"$work/err"
	"$run" exec --device host --owners "$3" --layout "$2" -- "$decoder" tokens=4 layout=odd "$kernels" >"$work/got" 2>"$work/err" ||
		fail "$2: $(cat "$work/err")"
	cmp -s "$work/got" "$work/oracle" || fail "$2: the output changes"
	grep -q -- "$1" "$work/err" || fail "$2: it says $(cat "$work/err")"
	[ "$(device_bytes)" = $((34 << 20)) ] || fail "$2: $(cat "$work/err")"
}
says 'K of layer 2 takes 3145728 bytes at offset 12582912 of allocation 1, .*: 4194304 bytes at offset 12582912 would align it' \
	explicit:size=18MiB,size=16MiB,k=0:6MiB:3MiB:2:8MiB,k=1:12MiB:3MiB:2:-8MiB,v=0:2MiB:4MiB:2:8MiB,v=1:8MiB:4MiB:2:-8MiB 0,1,0,1
says 'K of layer 2 takes 4194304 bytes, and that of layer 0, its owner, 2097152' \
	explicit:size=18MiB,size=16MiB,k=0:6MiB:2MiB:2:8MiB,k=1:12MiB:4MiB:2:-8MiB,v=0:2MiB:4MiB:2:8MiB,v=1:8MiB:4MiB:2:-8MiB 0,1,0,1
says 'K of layer 2 is in allocation 0, and that of layer 0, its owner, comes later, in 1' \
	explicit:size=18MiB,size=16MiB,k=1:12MiB:4MiB:2:-8MiB,k=0:6MiB:4MiB:2:8MiB,v=0:2MiB:4MiB:2:8MiB,v=1:8MiB:4MiB:2:-8MiB 0,1,0,1

"$run" inspect --device host -o "$work/found.json" -- "$decoder" tokens=4 layout=odd "$kernels" >"$work/said" 2>"$work/err" ||
	fail "inspect: $(cat "$work/err")"
grep -q '^These look like a KV cache: 4 layers, K and V of 4194304 bytes each (explicit)' "$work/said" ||
	fail "inspect says $(grep -v '^[0-9a-f]\{8\} ' "$work/said")"
as_oracle 0,1,0,1 "$work/found.json" $((34 - 16 + 2))
exit $failed
