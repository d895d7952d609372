#!/bin/sh
# Tests the tests. Each NAME.mutant beside this script is a small fault: it is put into a copy of the sources, the tests that
# should notice it are built and run there, and a mutant that survives them is a failure.
#
#   file: vmm/retire.c                  the file; `old` occurs in it exactly once, within one line
#   old: epoch <= completed
#   new: epoch < completed              the replacement; may be empty
#   tests: vmm/region_test ...          the fastest programs under build/tests that notice
#
# Every program is first run without a fault: one that fails then would notice anything. Ends in "N passed, N failed".
# The log of each mutant is $BUILD/mutants/NAME.log.
# usage: [BUILD=build] tests/mutants/run.sh [NAME... | --sample N | --check]
#   --sample N   N of them, drawn by today's date (KVS_MUTANTS_DATE=2026-01-31 for another day's)
#   --check      run nothing; only check that each still applies
# KVS_MUTANTS_JOBS   the number run in parallel; by default one for each processor
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/${BUILD:-build}
work=$build/mutants
base=$work/base # the unchanged sources, built; each job has a copy of it, which is restored after each mutant
jobs=${KVS_MUTANTS_JOBS:-$(nproc)}

field() { sed -n "s/^$2: \{0,1\}//p" "$here/$1.mutant"; }

every_name() { (cd "$here" && printf '%s\n' *.mutant | sed 's/\.mutant$//'); }

sample() { # N
	date=${KVS_MUTANTS_DATE:-$(date -u +%Y-%m-%d)}
	every_name | while read -r name; do
		echo "$(echo "$date $name" | cksum | cut -d ' ' -f 1) $name"
	done | sort -n | head -n "$1" | cut -d ' ' -f 2
}

# mutate NAME TREE: the mutated file, to stdout; fails unless `old` occurs in it exactly once.
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
		END { exit found != 1 }' "$2/$(field "$1" file)"
}

applies() { # NAME
	[ -f "$here/$1.mutant" ] || { echo "mutants: there is no $1"; return 1; }
	for test in $(field "$1" tests) ''; do
		[ -n "$test" ] || [ -n "$(field "$1" tests)" ] || { echo "mutants: $1 names no tests"; return 1; }
		[ -z "$test" ] || [ -f "$root/tests/$test.c" ] || { echo "mutants: $1: there is no tests/$test.c"; return 1; }
	done
	mutate "$1" "$root" >/dev/null || { echo "mutants: the old text of $1 does not occur exactly once in $(field "$1" file)"; return 1; }
}

programs_of() { for name in "$@"; do field "$name" tests; done | tr -s ' ' '\n' | sort -u | sed 's,^,build/tests/,'; }

log_of() { echo "$work/$(echo "$1" | tr / -).log"; }

# check_program TREE PROGRAM SECONDS: its output goes to stdout.
check_program() {
	(cd "$1" && KVSHARE_SOFTCUDA=$1/build/softcuda/libcuda.so.1 timeout "$3" "$2" </dev/null 2>&1)
}

# prepare NAME...: the base, from the sources (untracked ones too) and the objects already built. Every test passes in it.
prepare() {
	rm -rf "$work"
	mkdir -p "$base/build" || return 1
	(cd "$root" && git ls-files -co --exclude-standard | while read -r file; do [ -f "$file" ] && echo "$file"; done |
		tar -c -T - -f -) | tar -x -C "$base" -f - || return 1
	(cd "$build" && find ./*.flags driver vmm attn model calib tools tests softcuda -type f \( -name '*.o' -o -name '*.d' -o \
		-name '*.so*' -o -name '*.flags' \) -print0 2>/dev/null | tar -c --null -T - -f -) | tar -x -C "$base/build" -f -
	# shellcheck disable=SC2046 # a list
	make -s -C "$base" -j"$jobs" BUILD=build build test-modules $(programs_of "$@") >"$work/base.log" 2>&1 || {
		echo "mutants: the sources do not build without a fault: see $work/base.log"
		return 1
	}
	programs_of "$@" | xargs -P "$jobs" -n 1 "$0" --control
}

# Records the time that the program may take with a fault: a program that hangs has noticed it, too. One that cannot run here (77)
# may take no time at all.
control() { # PROGRAM
	log=$(log_of "$1") start=$(date +%s)
	check_program "$base" "$1" 600 >"$log"
	case $? in
	0) echo $((10 * ($(date +%s) - start) + 20)) >"$log.seconds" ;;
	77) echo 0 >"$log.seconds" ;;
	*) false ;;
	esac && return 0
	echo "mutants: $1 fails without a fault: see $log"
	return 1
}

# Whether the tests of NAME notice the fault in $tree. 2: it does not compile. 3: none of them can run here. A warning about the fault is not an error; FLAGS_*
# keep that change of flags from rebuilding everything.
noticed() {
	programs=$(for test in $(field "$1" tests); do echo "build/tests/$test"; done)
	# shellcheck disable=SC2086 # a list
	make -s -C "$tree" BUILD=build WERROR=0 FLAGS_cc="$(cat "$tree/build/cc.flags")" FLAGS_cxx="$(cat "$tree/build/cxx.flags")" \
		build test-modules $programs 2>&1 || return 2
	said=3
	for program in $programs; do
		seconds=$(cat "$(log_of "$program").seconds")
		[ "$seconds" -eq 0 ] && continue
		said=1
		check_program "$tree" "$program" "$seconds" || return 0
	done
	return $said
}

# Restores the tree from the base: every file that the mutant's build has written since `stamp`.
restore() {
	(cd "$tree" && find . -type f -newer "$tree/stamp") | while read -r file; do
		if [ -f "$base/$file" ]; then cp -p "$base/$file" "$tree/$file"; else rm "$tree/$file"; fi
	done
}

run_one() { # NAME, in the tree of this job
	tree=$work/tree${KVS_MUTANTS_SLOT:-0}
	file=$(field "$1" file) start=$(date +%s)
	[ -d "$tree" ] || cp -a "$base" "$tree" || return 1
	touch "$tree/stamp"
	mutate "$1" "$base" >"$tree/$file"
	noticed "$1" >"$work/$1.log"
	case $? in
	0) say=noticed why= ;;
	1) say=ALIVE why=": $(field "$1" tests) let it pass" ;;
	3) say=skipped why=": $(field "$1" tests) cannot run here" ;;
	*) say=BROKEN why=": it does not compile, see $work/$1.log" ;;
	esac
	printf '%-8s %-36s %3d s  %s%s\n' $say "$1" $(($(date +%s) - start)) "$file" "$why"
	restore
}

check_only=
case ${1:-} in
--one) run_one "$2"; exit ;; # what this script calls itself with
--control) control "$2"; exit ;;
--check) list=$(every_name) check_only=1 ;;
--sample) list=$(sample "${2:?usage: run.sh --sample N}") ;;
-*) sed -n 's/^# \{0,1\}//; 2,17p' "$0" >&2; exit 2 ;;
"") list=$(every_name) ;;
*) list=$* ;;
esac

applying=$(for name in $list; do applies "$name" >&2 && echo "$name"; done)
passed=$(echo "$applying" | grep -c .)
if [ ! "$check_only" ] && [ "$applying" ]; then
	# shellcheck disable=SC2086 # a list
	prepare $applying || exit 1
	# shellcheck disable=SC2086
	echo "mutants: $(programs_of $applying | wc -l) programs pass without a fault"
	echo "$applying" | xargs -P "$jobs" -n 1 --process-slot-var=KVS_MUTANTS_SLOT "$0" --one | tee "$work/results"
	passed=$(grep -cE '^(noticed|skipped)' "$work/results")
	rm -rf "$base" "$work"/tree*
fi
failed=$(($(echo "$list" | wc -w) - passed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
