#!/bin/sh
# The result of `make install` works: the program, run from another folder, and docs/examples/cache.c, compiled against the
# library and its header with pkg-config. No installed file holds a path of this tree, a program that was copied alone reports
# that softcuda is missing, and `make uninstall` leaves nothing.
# usage: [BUILD=build] tests/build/install_test.sh; the contents of BUILD are installed as they are
set -eu
cd "$(dirname "$0")/../.."
tree=$(pwd)
build=${BUILD:-build}
unset KVSHARE_SOFTCUDA LD_LIBRARY_PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(cat VERSION)

die() {
	echo "$*"
	exit 1
}
flag_of_build() { # REGULAR EXPRESSION with a group
	sed -nE "s/.*$1.*/\\1/p" "$build/cc.flags"
}

# In one folder, then in Debian's layout, where the library and softcuda are in different folders.
for libdir in lib lib/x86_64-linux-gnu; do
	echo "PREFIX=/opt/kvs LIBDIR=/opt/kvs/$libdir"
	places="DESTDIR=$work/root PREFIX=/opt/kvs LIBDIR=/opt/kvs/$libdir"
	prefix=$work/root/opt/kvs
	# shellcheck disable=SC2086
	make -s -o build -o "$build/kvshare-run" install $places BUILD="$build"

	cd /
	"$prefix/bin/kvshare-run" --version | grep -q " $version\$" || die "--version does not say $version"
	"$prefix/bin/kvshare-run" generate --device host -m "$tree/tests/models/storyworld-3m" -p "Anna put the" -n 2 >"$work/said" 2>&1 ||
		die "the installed kvshare-run does not run"
	cuda=$(cd "$tree" && cd "$(flag_of_build '-isystem ([^ ]*)')" && pwd)
	package() { # ARGUMENT...
		PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig pkg-config "--define-variable=prefix=$prefix" \
			"--define-variable=cuda_includedir=$cuda" "$@" kvshare
	}
	[ "$(package --modversion)" = "$version" ] || die "pkg-config says version $(package --modversion)"
	sanitize=$(cd "$tree" && flag_of_build '(-fsanitize=[a-z,]*)')
	# shellcheck disable=SC2046,SC2086
	${CC:-cc} "$tree/docs/examples/cache.c" $sanitize $(package --cflags --libs) -o "$work/cache"
	LD_LIBRARY_PATH=$prefix/$libdir "$work/cache" >"$work/said" || die "the example does not run"
	grep -q "layer 3 reads 0x5eed" "$work/said" || die "the example says: $(cat "$work/said")"
	if [ -e "$build/libkvshare-cupti.so" ]; then
		nm -D "$prefix/lib/kvshare/libkvshare-cupti.so" | grep -q InitializeInjection || die "libkvshare-cupti.so is missing"
	fi
	[ -e "$prefix/share/man/man1/kvshare-run.1" ] || die "the manual is missing"
	bash -n "$prefix/share/bash-completion/completions/kvshare-run" || die "bash cannot read its completion"
	grep -q '^#compdef kvshare-run' "$prefix/share/zsh/site-functions/_kvshare-run" || die "zsh has no completion"

	mkdir -p "$work/alone"
	cp "$prefix/bin/kvshare-run" "$work/alone"
	if "$work/alone/kvshare-run" generate --device host -m "$tree/tests/models/storyworld-3m" -p A -n 1 2>"$work/said"; then
		die "a program without softcuda ran"
	fi
	grep -q "softcuda/libcuda.so.1 is not beside $work/alone" "$work/said" || die "a program without softcuda says: $(cat "$work/said")"
	cd "$tree"

	# Only as the start of a path: the tree may be in /kvshare.
	! LC_ALL=C grep -arlE "(^|[^[:alnum:]_.}-])$tree(/|[^[:alnum:]_.-]|\$)" "$work/root" || die "these files name $tree"
	# shellcheck disable=SC2086
	make -s uninstall $places BUILD="$build"
	left=$(find "$work/root" ! -type d -o -name '*kvshare*' -o -name softcuda)
	[ -z "$left" ] || die "uninstall leaves $left"
done
# Programs can also run against the library in the build folder.
[ "$(readlink "$build/libkvshare.so.${version%%.*}")" = "libkvshare.so.$version" ] || die "$build lacks the library's soname"
head -n 1 debian/changelog | grep -q "^kvshare ($version-" || die "debian/changelog does not begin with version $version"
for package in $(sed -n 's/^packages //p' tools/deps.sh | head -n 1 | grep -oE '[^ ]+-dev\b'); do
	grep -qE "^ $package(,|\$)" debian/control || die "debian/control does not ask for $package"
done
