#!/bin/sh
# Is this tree as fast on the host as an earlier commit? Builds that commit in a folder of its own and runs both programs in turn,
# so that whatever else the machine does hits both; prints the median of each and their ratio.
# usage: [BUILD=build] [ROUNDS=9] tests/bench/against.sh COMMIT
set -eu
cd "$(dirname "$0")/../.."
[ $# -eq 1 ] || { echo "usage: tests/bench/against.sh COMMIT" >&2; exit 2; }
here=$(realpath "${BUILD:-build}")
model=$(realpath tests/models/storyworld-3m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q . "$work/tree"
git -C "$work/tree" checkout -q "$1"
make -C "$work/tree" -s -j"$(nproc)" build >/dev/null
"$here/kvshare-run" --help >/dev/null

# Lines "name value" of one program; more is better in all of them but the last.
measure() { # kvshare-run
	"$1" bench --device host --suite decode |
		awk '/^prefill/ {print "prefill-" ++p, $2} /^decode/ {print "decode-" ++d, $2}'
	times >"$work/times" # of this shell's children until now: its second line
	"$1" eval -m "$model" --text "$model/heldout.txt" --max-tokens 600 --ctx 256 --device host >/dev/null 2>&1
	times >>"$work/times"
	awk '{gsub(/[ms]/, " ")} NR % 2 == 0 {cpu = ($1 + $3) * 60 + $2 + $4 - cpu} END {print "eval-cpu-seconds", cpu}' "$work/times"
}

for round in $(seq "${ROUNDS:-9}"); do
	measure "$work/tree/build/kvshare-run" | sed "s/^/$1 /" >>"$work/figures"
	measure "$here/kvshare-run" | sed "s/^/here /" >>"$work/figures"
done
printf '%-18s %10s %10s %7s\n' "medians of $round" "$1" here ratio
for name in prefill-1 decode-1 prefill-2 decode-2 eval-cpu-seconds; do
	for side in "$1" here; do
		awk -v side="$side" -v name=$name '$1 == side && $2 == name {print $3}' "$work/figures" | sort -n |
			awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'
	done | xargs | awk -v name=$name '{printf "%-18s %10.2f %10.2f %7.2f\n", name, $1, $2, $2 / $1}'
done
