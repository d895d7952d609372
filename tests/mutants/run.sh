#!/bin/sh
# Tests the tests. Each NAME.mutant beside this script is a small fault: it is put into a copy of the sources, the tests that
# should notice are run, and a mutant that they let live is a failure.
#
#   file: vmm/retire.c                  where; `old` stands in it exactly once
#   old: epoch <= completed
#   new: epoch < completed              in its place; empty takes it out
#   tests: vmm/region_test ...          programs below build/tests
#
# Ends in "N passed, N failed". The log of each is in $BUILD/mutants/NAME.log.
# usage: [BUILD=build] tests/mutants/run.sh [NAME... | --sample N | --check]
#   --sample N   N of them, drawn by today's date (KVS_MUTANTS_DATE)
#   --check      run nothing; only see that each still applies
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/${BUILD:-build}
tree=$build/mutants/tree
jobs=$(nproc)

field() { sed -n "s/^$2: \{0,1\}//p" "$here/$1.mutant"; }

every_name() { (cd "$here" && printf '%s\n' *.mutant | sed 's/\.mutant$//'); }

sample() { # N
	date=${KVS_MUTANTS_DATE:-$(date -u +%Y-%m-%d)}
	every_name | while read -r name; do
		echo "$(echo "$date $name" | cksum | cut -d ' ' -f 1) $name"
	done | sort -n | head -n "$1" | cut -d ' ' -f 2
}

# mutate NAME: the mutated file, to stdout; fails unless `old` stands there exactly once.
mutate() {
	KVS_OLD=$(field "$1" old) KVS_NEW=$(field "$1" new) awk '
		BEGIN { old = ENVIRON["KVS_OLD"]; new = ENVIRON["KVS_NEW"] }
		{
			line = $0; out = ""
			while (old != "" && (at = index(line, old))) {
				out = out substr(line, 1, at - 1) new
				line = substr(line, at + length(old))
				found++
			}
			print out line
		}
		END { exit found != 1 }' "$root/$(field "$1" file)"
}

applies() { # NAME
	if [ -z "$(field "$1" tests)" ]; then
		echo "mutants: $1 names no tests"
		return 1
	fi
	mutate "$1" >/dev/null || { echo "mutants: the old text of $1 does not stand exactly once in $(field "$1" file)"; return 1; }
}

# A copy of the sources, and of what is built already, so that only what changes is compiled again.
prepare() {
	rm -rf "$tree"
	mkdir -p "$tree/build" || return 1
	(cd "$root" && git ls-files -z | tar -c --null -T - -f -) | tar -x -C "$tree" -f - || return 1
	folders=$(cd "$build" && ls -d driver vmm attn model calib tools tests softcuda 2>/dev/null)
	# shellcheck disable=SC2086 # a list
	[ -z "$folders" ] || (cd "$build" && tar -c -f - $folders) | tar -x -C "$tree/build" -f -
}

# Whether the tests of NAME notice what is in the tree now. 2: it does not compile.
noticed() {
	programs=$(for test in $(field "$1" tests); do echo "build/tests/$test"; done)
	# shellcheck disable=SC2086 # a list
	make -s -C "$tree" -j"$jobs" BUILD=build WERROR= build test-modules $programs || return 2
	for program in $programs; do
		(cd "$tree" && KVSHARE_SOFTCUDA=$tree/build/softcuda/libcuda.so.1 timeout 300 "$program" </dev/null) || return 0
	done
	return 1
}

run() { # NAME
	file=$(field "$1" file)
	mutate "$1" >"$tree/$file"
	noticed "$1" >"$build/mutants/$1.log" 2>&1
	status=$?
	cat "$root/$file" >"$tree/$file"
	case $status in
	0) printf 'noticed  %-32s %s\n' "$1" "$file" ;;
	1) printf 'ALIVE    %-32s %s: %s let it pass\n' "$1" "$file" "$(field "$1" tests)" ;;
	*) printf 'BROKEN   %-32s %s: it does not compile, see %s\n' "$1" "$file" "$build/mutants/$1.log" ;;
	esac
	return $status
}

case ${1:-} in
--check) list=$(every_name) only_check=1 ;;
--sample) list=$(sample "${2:?usage: run.sh --sample N}") only_check= ;;
-*) sed -n 's/^# \{0,1\}//; 2,15p' "$0" >&2; exit 2 ;;
"") list=$(every_name) only_check= ;;
*) list=$* only_check= ;;
esac

passed=0 failed=0
[ "$only_check" ] || prepare || exit 1
for name in $list; do
	if [ ! -f "$here/$name.mutant" ]; then
		echo "mutants: there is no $name"
		failed=$((failed + 1))
	elif applies "$name" && { [ "$only_check" ] || run "$name"; }; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
