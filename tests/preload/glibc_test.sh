#!/bin/sh
# The shim needs no symbol of a glibc newer than 2.31, and names the libraries that had its functions there (glibc.c).
# tests/old-glibc.sh runs it with that glibc.
# usage: [BUILD=build] tests/preload/glibc_test.sh
set -eu
cd "$(dirname "$0")/../.."
shim=${BUILD:-build}/libkvshare-preload.so
case $(cat "${BUILD:-build}/cc.flags") in
*-fsanitize*)
	echo "a sanitizer's library needs what it needs"
	exit 77
	;;
esac
status=0
nm -D --undefined-only "$shim" | sed -nE 's/.* ([^ ]+)@+GLIBC_([0-9.]+)$/\2 \1/p' | sort -V >/tmp/kvs-glibc.$$
trap 'rm -f /tmp/kvs-glibc.$$' EXIT
[ "$(wc -l </tmp/kvs-glibc.$$)" -gt 50 ] || { echo "nm finds $(wc -l </tmp/kvs-glibc.$$) symbols of glibc only"; status=1; }
while read -r version name; do
	[ "$(printf '%s\n2.31\n' "$version" | sort -V | tail -1)" = 2.31 ] || {
		echo "the shim needs $name of glibc $version; tools/preload/glibc.c is the place for an old one"
		status=1
	}
done </tmp/kvs-glibc.$$
# All versions that it names, those of a symbol that is weak or of data too.
readelf -V "$shim" | sed -n '/\.gnu\.version_r/,$p' | grep -oE 'GLIBC_[0-9.]+|GLIBC_[A-Z_]+' | sed 's/GLIBC_//' | sort -uV >/tmp/kvs-glibc.$$
[ "$(printf '2.31\n' | sort -V - /tmp/kvs-glibc.$$ | tail -1)" = 2.31 ] || { echo "the shim needs glibc $(tail -1 /tmp/kvs-glibc.$$)"; status=1; }
readelf -d "$shim" >/tmp/kvs-glibc.$$
for library in libpthread.so.0 libdl.so.2; do
	grep -q "NEEDED.*\[$library\]" /tmp/kvs-glibc.$$ || { echo "the shim does not name $library, which has its functions before 2.34"; status=1; }
done
exit $status
