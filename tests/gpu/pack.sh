#!/bin/sh
# Puts the bundle together: PARTS and BUILT are lists of files that keep their place below PARTS_ROOT and BUILD; DATA are
# folders of the repository. Everything is stripped; more than $MIB MiB is a failure.
# usage: BUNDLE=folder MIB=60 CMOCKA=libcmocka.so.0 tests/gpu/pack.sh PARTS_ROOT PARTS BUILD BUILT DATA
set -eu
place() { # ROOT FILE...
	root=$1
	shift
	for file; do
		to=$BUNDLE/${file#"$root"/}
		mkdir -p "$(dirname "$to")"
		cp "$file" "$to"
		case $file in *.fatbin) ;; *) strip "$to" ;; esac
	done
}
rm -rf "$BUNDLE"
mkdir -p "$BUNDLE/lib"
# shellcheck disable=SC2086 # lists
place "$1" $2
# shellcheck disable=SC2086
place "$3" $4
cp -L "$CMOCKA" "$BUNDLE/lib/libcmocka.so.0"
for folder in $5; do
	mkdir -p "$BUNDLE/$(dirname "$folder")"
	cp -R "$folder" "$BUNDLE/$folder"
done
cp tests/gpu/run-gpu.sh LICENSE "$BUNDLE"
kib=$(du -sk "$BUNDLE" | cut -f 1)
echo "$BUNDLE: $((kib / 1024)) MiB of at most $MIB"
[ "$kib" -le $((MIB * 1024)) ]
