#!/bin/bash
# Statistics are written however the program ends, with the status that it has without the shim; each of several ranks has a
# file of its own; a child of fork() leaves none.
# usage: [BUILD=build] tests/preload/stats_test.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
run=$build/kvshare-run
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0:detect_leaks=0:handle_abort=0
unset RANK OMPI_COMM_WORLD_RANK PMIX_RANK PMI_RANK SLURM_PROCID
ulimit -c 0

# Four layers, K and V of 4 MiB each, of which two borrow: half, without the sink's block.
bytes=$((32 << 20)) saved=$(((16 << 20) - (2 << 20)))
share="--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB"

fail() {
	echo "$*"
	failed=1
}
# The shell's own lines about signals are of no interest.
exec 2>/dev/null
ends() { # FILE WAY [OPTION...]: its status
	local file=$1 way=$2
	shift 2
	# shellcheck disable=SC2086
	"$run" exec --device host --stats "$file" --log="$file.log" "$@" -- "$build/tests/clients/ends" $bytes "$way" >"$work/out" 2>&1
}
plain() { # WAY: its status
	LD_LIBRARY_PATH=$build/softcuda "$build/tests/clients/ends" $bytes "$1" >"$work/out" 2>&1
}
figure() { # FILE KEY
	sed -nE "s/.*\"$2\": ([0-9]+).*/\\1/p" "$1"
}

for way in return _exit _Exit abort term handler info later ignored; do
	plain $way
	expected=$?
	# shellcheck disable=SC2086
	ends "$work/$way.json" $way $share
	status=$?
	[ $status = $expected ] || fail "$way: status $status with the shim, $expected without: $(cat "$work/out")"
	[ "$(figure "$work/$way.json" saved_bytes)" = $saved ] || fail "$way: the statistics are $(cat "$work/$way.json" 2>&1)"
	[ "$(figure "$work/$way.json" allocations)" = 1 ] || fail "$way: the statistics are $(cat "$work/$way.json" 2>&1)"
	[ "$(grep -c . "$work/$way.json.log")" = 2 ] &&
		grep -q "32.0 MiB took 18.0 MiB of device memory, 2.0 MiB of that for the sink; 14.0 MiB were saved; 0 launches" \
			"$work/$way.json.log" &&
		grep -qE "allocations 1 \([0-9.]+ (ms|us)\)" "$work/$way.json.log" || fail "$way: the log is $(cat "$work/$way.json.log" 2>&1)"
done
# shellcheck disable=SC2086
ends "$work/child.json" child $share
[ ! -e "$work/child.json" ] && [ ! -e "$work/child.json.log" ] || fail "a child of fork() writes its parent's statistics"
ends "$work/unshared.json" _exit || fail "without a plan: $(cat "$work/out")"
[ "$(figure "$work/unshared.json" allocations)" = 1 ] || fail "without a plan there are no statistics"

grep -q "process [0-9]*: no KV cache was shared" "$work/unshared.json.log" || fail "without a plan: $(cat "$work/unshared.json.log")"

# Without a file the log is on standard error, and without --log there is none.
for way in return abort; do
	"$run" exec --device host --log -- "$build/tests/clients/ends" $bytes $way 2>&1 | grep -c "^kvshare: process" >"$work/out"
	[ "$(cat "$work/out")" = 2 ] || fail "$way: the log has $(cat "$work/out") lines"
done
"$run" exec --device host -- "$build/tests/clients/ends" $bytes return >"$work/out" 2>&1
[ ! -s "$work/out" ] || fail "nobody asked for a log: $(cat "$work/out")"

# A layout that is none of the program's: a line says so, and --strict fails, however the program ends.
wrong="--owners 0,1,0,1 --layout slab:layers=4,k=2MiB,v=2MiB"
for way in return _exit; do
	# shellcheck disable=SC2086
	"$run" exec --device host $wrong -- "$build/tests/clients/ends" $bytes $way >"$work/out" 2>&1 || fail "$way: $(cat "$work/out")"
	[ "$(grep -c "^kvshare: no KV cache was shared" "$work/out")" = 1 ] || fail "$way, wrong layout: $(cat "$work/out")"
	for layout in "$wrong" "$share"; do
		# shellcheck disable=SC2086
		"$run" exec --device host --strict $layout -- "$build/tests/clients/ends" $bytes $way >"$work/out" 2>&1
		[ "$? $(grep -c . "$work/out")" = "$([ "$layout" = "$share" ] && echo 0 0 || echo 1 1)" ] ||
			fail "$way --strict $layout: $(cat "$work/out")"
	done
done

# Of a plan in which no layer shares nothing is said.
"$run" exec --device host --strict ${wrong/0,1,0,1/0,1,2,3} -- "$build/tests/clients/ends" $bytes return >"$work/out" 2>&1 || fail "alone: $?"
[ ! -s "$work/out" ] || fail "alone: $(cat "$work/out")"

# The time of all calls is that of those that were timed, times their number.
"$run" exec --device host --stats "$work/times.json" -- "$build/tests/clients/decoder" "$build/tests/clients/decoder_kernels.so" >"$work/out" 2>&1 ||
	fail "the decoder: $(cat "$work/out")"
time_of() { # KIND: of one call
	sed -nE "s/.*\"hook_ns\": \{[^}]*\"$1\": ([0-9]+).*\"hooks\": \{[^}]*\"$1\": ([0-9]+).*/\\1 \\2/p" "$work/times.json" |
		awk '{print int($1 / $2)}'
}
for kind in allocations frees launches copies; do
	each=$(time_of $kind)
	[ "${each:-0}" -ge 20 ] && [ "$each" -lt 1000000000 ] || fail "$kind take ${each:-no} ns each: $(cat "$work/times.json")"
done
[ "$(sed -nE 's/.*"hook_ns": \{[^}]*"queries": ([0-9]+).*/\1/p' "$work/times.json")" = 0 ] || fail "no query took time"

# Each kind of call is counted by itself. Every wait is timed, and one in 64 of what is quick.
counts() { # KEY=NUMBER|KEY+..., PROGRAM...
	local expected=$1 pair
	shift
	"$run" exec --device host --stats "$work/kinds.json" -- "$@" >"$work/out" 2>&1 || fail "$*: $(cat "$work/out")"
	for pair in $expected; do
		case $pair in
		*+) [ "$(figure "$work/kinds.json" "${pair%+}")" -gt 0 ] ;;
		*) [ "$(figure "$work/kinds.json" "${pair%=*}")" = "${pair#*=}" ] ;;
		esac || fail "$*: $pair is expected: $(cat "$work/kinds.json")"
	done
}
# The decoder waits once for its cache to be written, and once a token.
clients=$build/tests/clients kernels=$build/tests/clients/decoder_kernels.so
counts "launches=192 contexts+ waits=9 graphs=0 mappings=0 symbols=0" "$clients/decoder" tokens=8 streams=default "$kernels"
counts "captures=8 graphs+ graph_launches=8 graph_nodes=0 waits+" "$clients/decoder" tokens=4 graph=capture "$kernels"
counts "graph_nodes+ graph_launches+" "$clients/nodes" "$kernels"
counts "mappings+ frees=1 allocations=1" "$clients/decoder" tokens=1 alloc=expandable "$kernels"
counts "tensor_maps+" "$clients/decoder" tokens=1 store=map "$kernels"
counts "queries+ pools+" "$clients/calls" queries $bytes 4
counts "exports=8 queries=0" "$clients/calls" others $bytes 4
counts "words=6 memsets=4" "$clients/corners" signal "$kernels"
counts "symbols+" "$clients/pairs" "$kernels"

# Two ranks at once, each with its own owners; nothing is shared between them.
for rank in 0 1; do
	# shellcheck disable=SC2086
	OMPI_COMM_WORLD_RANK=$rank ends "$work/%r.rank" term $share &
	ranks[rank]=$!
done
for rank in 0 1; do
	wait "${ranks[rank]}"
	[ "$(figure "$work/$rank.rank" saved_bytes)" = $saved ] || fail "rank $rank: $(cat "$work/$rank.rank" 2>&1)"
	grep -q "^kvshare: process $(figure "$work/$rank.rank" pid), rank $rank: " "$work/$rank.rank.log" ||
		fail "rank $rank: $(cat "$work/$rank.rank.log" 2>&1)"
	[ "$(figure "$work/$rank.rank" physical_bytes)" = $((bytes - saved)) ] || fail "rank $rank: $(cat "$work/$rank.rank" 2>&1)"
done
[ "$(figure "$work/0.rank" pid)" != "$(figure "$work/1.rank" pid)" ] || fail "two ranks wrote one file"
for name in PMI_RANK SLURM_PROCID RANK; do
	env "$name=7" "$run" exec --device host --stats "$work/$name-%r-%p" -- "$build/tests/clients/ends" $bytes _exit
	ls "$work/$name"-7-[1-9]* >/dev/null 2>&1 || fail "$name is not the rank: $(ls "$work")"
done
SLURM_PROCID=1 RANK=9 ends "$work/both-%r" _exit
[ -e "$work/both-9" ] || fail "torchrun's rank does not come first: $(ls "$work")"
exit $failed
