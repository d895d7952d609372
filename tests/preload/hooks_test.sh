#!/bin/sh
# The shim's tables agree: what it exports is what hooks.h lists and what preload.map lets out, with the forms of dlsym and _exit in
# glibc's versions and nothing else; each hook has the name of a symbol that cuda.h's version of the function has; each counts
# and times its calls; the shim needs no library but glibc, and has no constructor.
# usage: [BUILD=build] tests/preload/hooks_test.sh
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
shim=$build/libkvshare-preload.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

differ() { # WHAT FILE FILE
	if ! diff "$2" "$3" >"$work/diff"; then
		echo "$1:"
		cat "$work/diff"
		status=1
	fi
}
part() { # FROM TO: of hooks.h, the names in F(...)
	sed -n "/#define $1(F)/,/^\$/p" tools/preload/hooks.h | grep -oE '[ 	]F\([A-Za-z0-9_]+\)' | sed -E 's/.*\((.*)\)/\1/' | sort
}
part SHIM_HOOKS >"$work/hooks"
uniq -d "$work/hooks" >"$work/twice"
[ ! -s "$work/twice" ] || { echo "twice in hooks.h: $(cat "$work/twice")"; status=1; }
[ "$(wc -l <"$work/hooks")" -gt 70 ] || { echo "hooks.h lists $(wc -l <"$work/hooks") functions only"; status=1; }

sed -n '/^KVSHARE_PRELOAD/,/^local/s/^	\(cu.*\);$/\1/p' tools/preload/preload.map | sort >"$work/map"
differ "hooks.h and preload.map" "$work/hooks" "$work/map"
nm -D --defined-only "$shim" | awk '$2 == "T" {print $3}' | grep '^cu' | sed 's/@@.*//' | sort >"$work/exported"
differ "hooks.h and the exported functions" "$work/hooks" "$work/exported"

case $(uname -m) in
x86_64) old=GLIBC_2.2.5 ;;
*) old=GLIBC_2.17 ;;
esac
nm -D --defined-only "$shim" | awk '$2 != "A" {print $3}' | grep -v '^cu' | sort >"$work/others"
printf '%s\n' "dlsym@$old" "dlsym@@GLIBC_2.34" "dlvsym@$old" "dlvsym@@GLIBC_2.34" "_exit@@$old" "_Exit@@$old" | sort >"$work/forms"
case $(cat "$build/cc.flags") in
*-fsanitize*) ;; # exports symbols of its own
*) differ "exported beside the hooks" "$work/forms" "$work/others" ;;
esac

# A name with a suffix for per-thread default streams belongs to a hook of the same name without it.
sed -nE 's/^(.*)_pt[sd][sz]$/\1/p' "$work/hooks" | sort >"$work/bases"
comm -23 "$work/bases" "$work/hooks" >"$work/alone"
[ ! -s "$work/alone" ] || { echo "only the per-thread form is hooked: $(cat "$work/alone")"; status=1; }

# cuda.h's macros give the newest form of each name; where it is newer than our hook, the hook would be passed by.
flags=$(tr ' ' '\n' <"$build/cc.flags" | grep -A1 -E '^-isystem' | tr '\n' ' ')
sed -E 's/_pt[sd][sz]$//; s/_v[0-9]+$//' "$work/hooks" | sort -u | grep -v '^cuGetProcAddress$' >"$work/names"
{
	echo '#include <cuda.h>'
	sed 's/.*/name & &/' "$work/names" | awk '{print "name_of_" $2 " " $3}'
} >"$work/names.c"
# shellcheck disable=SC2086
${CC:-cc} -E -P $flags "$work/names.c" | tr -s ' \n' '\n' | awk 'named {print; named = 0} /^name_of_/ {named = 1}' | sort >"$work/newest"
[ "$(wc -l <"$work/newest")" -eq "$(wc -l <"$work/names")" ] || { echo "cuda.h cannot be read"; status=1; }
sort -u "$work/newest" | comm -23 - "$work/hooks" >"$work/missing"
[ ! -s "$work/missing" ] || { echo "cuda.h calls these, which have no hook: $(cat "$work/missing")"; status=1; }

# Every hook counts and times its calls, itself or in a function of its file that it calls. In macros hooks are indented.
for file in tools/preload/*.c; do
	awk '
		/CUresult CUDAAPI [A-Za-z0-9_#]+\(/ {begin($0, 1)}
		/^(static )?(inline )?[A-Za-z_][A-Za-z0-9_ *]*[ *][a-z0-9_]+\(/ && !/CUDAAPI/ {begin($0, 0)}
		name {body[name] = body[name] $0 "\n"; if (index($0, close_) == 1) name = ""}
		function begin(line, is_hook) {
			close_ = line ~ /^[ \t]/ ? "\t}" : "}"
			sub(/\(.*/, "", line); sub(/.*[ *]/, "", line)
			name = line
			if (is_hook) hooks[name] = 1
		}
		END {
			for (f in body) if (body[f] ~ /shim_timer_start\(/) timed[f] = 1
			do {
				more = 0
				for (f in body) if (!timed[f])
					for (g in timed) if (timed[g] && match(body[f], "[^A-Za-z0-9_]" g "\\(")) {timed[f] = 1; more = 1}
			} while (more)
			for (f in hooks) print (timed[f] ? "timed " : "untimed ") f
		}' "$file"
done >"$work/timed"
! grep '^untimed' "$work/timed" || status=1
[ "$(grep -c '^timed' "$work/timed")" -gt 160 ] || { echo "only $(grep -c '^timed' "$work/timed") hooks are found"; status=1; }

readelf -d "$shim" | sed -nE 's/.*NEEDED.*\[(.*)\]/\1/p' | grep -vE '^(libc\.so|libdl\.so|libpthread\.so|ld-linux|lib[atu]b?san)' >"$work/needed" || true
[ ! -s "$work/needed" ] || { echo "the shim needs $(cat "$work/needed")"; status=1; }
grep -rnE 'constructor|_init\b' tools/preload/*.c | grep -v pthread_mutex_init && { echo "the shim has constructors"; status=1; }
exit $status
