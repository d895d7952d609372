#!/bin/bash
# Does a plan lose what was said far back? A mean loss hardly shows it.
#   tests/bench/retrieval.sh MODEL TEXT [PLAN...]       DISTANCE=4000 TRIALS=20 PROGRAM=build/kvshare-run
# Each trial takes DISTANCE characters of TEXT (4 or 5 are a token), puts "Note: the code of the red box is 4821." in front of them
# and "Note: the code of the red box is" behind, and lets the model go on, likeliest token first. Prints how often the code comes
# first, without a plan and with each; the same trials for all. Another piece of TEXT, colour and code each time.
set -eu
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
model=$1 text=$2; shift 2
program=${PROGRAM:-build/kvshare-run} distance=${DISTANCE:-4000} trials=${TRIALS:-20}
colours=(red blue green yellow black white brown grey pink orange)

prompt() { # NUMBER
	local colour=${colours[$(($1 % ${#colours[@]}))]} code=$2
	printf 'Note: the code of the %s box is %s. Remember it.\n\n' "$colour" "$code"
	tail -c +$(($1 * distance + 1)) "$text" | head -c "$distance" | iconv -c -f utf-8 -t utf-8
	printf '\n\nNote: the code of the %s box is' "$colour"
}

count() { # [--plan PLAN]
	local found=0 trial code
	for ((trial = 0; trial < trials; trial++)); do
		code=$((1000 + (trial * 7919 + 3571) % 9000))
		prompt $trial $code | "$program" generate -q -m "$model" -f - -n 8 "$@" >"$out"
		if head -n 1 "$out" | grep -q "^ *$code" "$out"; then found=$((found + 1)); fi
	done
	echo "$found of $trials"
}

[ "$(stat -c %s "$text")" -ge $((distance * trials)) ] || { echo "$text has fewer than $((distance * trials)) bytes" >&2; exit 1; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT
echo "unshared: $(count)"
for plan; do
	echo "$plan: $(count --plan "$plan")"
done
