#!/bin/sh
# softcuda exports every function that cuda.h declares, under every symbol that a caller of any age may bind to, and nothing
# else; docs/softcuda.md says which of them are here; libcuda.so is a link to the library.
# The names are read from cuda.h in another way than the build does it (driver/softcuda/names.awk).
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
library=$build/softcuda/libcuda.so.1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
	echo "functions_test.sh: $*" >&2
	exit 1
}

include=$(sed -n 's/.*-isystem \([^ ]*\).*/\1/p' "$build/cc.flags")
[ -n "$include" ] || include=/usr/include
echo '#include <cuda.h>' >"$work/plain.c"
for defined in __CUDA_API_VERSION_INTERNAL __CUDA_API_PER_THREAD_DEFAULT_STREAM nothing; do
	${CC:-cc} -E -P -D"$defined" -I"$include" -x c "$work/plain.c"
done | tr '\n' ' ' | sed 's/static inline *CUresult//g' | grep -oE 'CUresult +cu[A-Z][A-Za-z0-9_]* *\(' | grep -oE 'cu[A-Z][A-Za-z0-9_]*' | sort -u >"$work/declared"
nm -D --defined-only "$library" | awk '$3 ~ /^cu/ {sub(/@.*/, "", $3); print $3}' | sort -u >"$work/exported"
[ "$(wc -l <"$work/declared")" -gt 500 ] || die "only $(wc -l <"$work/declared") functions were found in cuda.h"
missing=$(comm -23 "$work/declared" "$work/exported" | xargs)
[ -z "$missing" ] || die "cuda.h declares, and softcuda does not export: $missing"
extra=$(comm -13 "$work/declared" "$work/exported" | xargs)
[ -z "$extra" ] || die "softcuda exports, and cuda.h does not declare: $extra"

[ "$(readlink "$build/softcuda/libcuda.so")" = libcuda.so.1 ] || die "libcuda.so is no link to libcuda.so.1"

version=$(awk '$2 == "CUDA_VERSION" {print $3}' "$include/cuda.h")
[ "$version" = 13000 ] || { echo "the table in docs/softcuda.md is of CUDA 13000, cuda.h of $version"; exit 77; }
driver/softcuda/functions.sh "$library" >"$work/table"
sed '1,/^<!-- driver\/softcuda\/functions.sh -->$/d; /^<!-- end -->$/,$d' docs/softcuda.md >"$work/documented"
diff "$work/documented" "$work/table" || die "docs/softcuda.md has another table: put in what driver/softcuda/functions.sh prints"
