#!/bin/bash
# Other libraries in LD_PRELOAD work beside the shim (jemalloc, from Debian, in either order; one that hooks the driver too); and the dynamic linker binds
# nothing to the shim but its hooks, the forms of dlsym, and _exit, in a program of CUDA's and in others.
# usage: [BUILD=build] tests/preload/neighbours_test.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$(realpath "${BUILD:-build}")
run=$build/kvshare-run shim=$build/libkvshare-preload.so
decoder=$build/tests/clients/decoder kernels=$build/tests/clients/decoder_kernels.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

case $(cat "$build/cc.flags") in
*-fsanitize*)
	echo "the sanitizer's allocator is in the place of jemalloc's"
	exit 77
	;;
esac
fail() {
	echo "$*"
	failed=1
}
layout=slab:layers=4,k=4MiB,v=4MiB
share=(--owners "0,1,0,1" --layout "$layout")
"$run" exec --device host "${share[@]}" -- "$decoder" "$kernels" >"$work/expected" 2>"$work/err" || fail "$(cat "$work/err")"

# bound COMMAND...: the symbols that the linker binds to the shim, immediately and all of them.
bound() {
	LD_BIND_NOW=1 LD_DEBUG=bindings LD_DEBUG_OUTPUT=$work/bindings LD_PRELOAD=$shim LD_LIBRARY_PATH=$build/softcuda "$@" \
		>"$work/out" 2>&1 || fail "$*: $(cat "$work/out")"
	cat "$work"/bindings.* | sed -nE "s/.* to [^ ]*libkvshare-preload\.so [^ ]*: normal symbol .([A-Za-z0-9_]+)'.*/\1/p" | sort -u
	rm -f "$work"/bindings.*
}
bound "$decoder" "$kernels" >"$work/bound"
grep -qx cuMemAlloc_v2 "$work/bound" || fail "the decoder is not bound to the shim: $(cat "$work/bound")"
bound bash -c 'ls / | sort' >"$work/others"
sort -u "$work/bound" "$work/others" | grep -vxE 'cu[A-Z][A-Za-z0-9_]*|dlsym|dlvsym|_exit|_Exit' >"$work/strange"
[ ! -s "$work/strange" ] || fail "bound to the shim: $(cat "$work/strange")"
! grep '^cu' "$work/others" || fail "a program without CUDA is bound to hooks"

# A library that hooks the driver too, and calls on to the next: exec lets it see the program's calls.
cc -shared -fPIC -o "$work/tracker.so" -x c - <<'END' || fail "no compiler for a library that hooks the driver"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int cuMemAlloc_v2(unsigned long long *address, unsigned long bytes)
{
	fprintf(stderr, "tracker: %lu bytes\n", bytes);
	return ((int (*)(unsigned long long *, unsigned long))dlsym(RTLD_NEXT, "cuMemAlloc_v2"))(address, bytes);
}
END
LD_PRELOAD=$work/tracker.so "$run" exec --device host "${share[@]}" -- "$decoder" "$kernels" >"$work/got" 2>"$work/err" ||
	fail "with a library that hooks the driver: $(cat "$work/err")"
cmp "$work/expected" "$work/got" || fail "a library that hooks the driver changes the output"
grep -q "^tracker: $((32 << 20)) bytes" "$work/err" || fail "a library that hooks the driver sees no calls: $(cat "$work/err")"

jemalloc=$(ldconfig -p | sed -nE 's/.*libjemalloc\.so\.2 .*=> //p' | head -1)
if [ -z "$jemalloc" ]; then
	[ $failed = 0 ] || exit 1
	echo "libjemalloc2 is missing (make deps DEV=1): bindings were checked, jemalloc was not"
	exit 77
fi
# exec puts the shim behind what is there already; the second time jemalloc is behind it.
LD_PRELOAD=$jemalloc MALLOC_CONF=stats_print:true "$run" exec --device host "${share[@]}" -- "$decoder" "$kernels" \
	>"$work/got" 2>"$work/err" || fail "before the shim: $(cat "$work/err")"
cmp "$work/expected" "$work/got" || fail "jemalloc before the shim changes the output"
grep -q "jemalloc statistics" "$work/err" || fail "jemalloc was not there before the shim"
LD_PRELOAD=$shim:$jemalloc MALLOC_CONF=stats_print:true LD_LIBRARY_PATH=$build/softcuda KVSHARE_OWNERS=0,1,0,1 \
	KVSHARE_LAYOUT=$layout "$decoder" "$kernels" >"$work/got" 2>"$work/err" || fail "behind the shim: $(cat "$work/err")"
cmp "$work/expected" "$work/got" || fail "jemalloc behind the shim changes the output"
grep -q "jemalloc statistics" "$work/err" || fail "jemalloc was not there behind the shim"
exit $failed
