#!/bin/sh
# The shim that was built here, with a program and a driver (softcuda) that were built with glibc 2.31, in a root that has that glibc
# (Debian bullseye): layers are shared, through dlsym and captured graphs too, and the output is that of the program's own sharing.
#
# Run it as root, by hand, after `make`. Without ROOT it needs debootstrap and Debian's registry, and takes some minutes.
# usage: [BUILD=build] [MIRROR=URL] tests/old-glibc.sh [ROOT]
#   ROOT  a folder: used if it has such a root already, else one is made there; it stays. Without it, a temporary one.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
cuda=${CUDA_HOME:-/usr/local/cuda}
[ "$(id -u)" -eq 0 ] || { echo "old-glibc.sh: run this as root" >&2; exit 1; }
[ -e "$build/libkvshare-preload.so" ] || { echo "old-glibc.sh: $build has no shim; build it first" >&2; exit 1; }
status=0
root=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$root" "$root.said"' EXIT
if [ ! -e "$root/usr/bin/g++" ]; then
	# shellcheck disable=SC2086
	debootstrap --variant=minbase --include=g++,make,libboost-context-dev bullseye "$root" ${MIRROR:-} >"$root.log" 2>&1 ||
		{ tail -n 20 "$root.log" >&2; exit 1; }
	rm "$root.log"
fi
chmod 755 "$root"

rm -rf "$root/kvshare"
mkdir -p "$root/kvshare" "$root/usr/local/cuda"
git ls-files -co --exclude-standard | tar cf - -T - | tar xf - -C "$root/kvshare"
cp -RL "$cuda/include" "$root/usr/local/cuda/"
cp "$build/libkvshare-preload.so" "$root/kvshare/"

# shellcheck disable=SC2016
unshare -mpf env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 sh -c '
	mount -t proc proc "$1/proc"
	exec chroot "$1" sh -c "$2"' sh "$root" '
	cd /kvshare
	ldd --version | head -n 1
	make build/softcuda/libcuda.so.1 build/tests/clients/decoder build/tests/clients/decoder_kernels.so >/make.log 2>&1 ||
		{ tail -n 20 /make.log; exit 1; }
	status=0
	decoder() { # FILE LIBRARY OPTION...: LD_BIND_NOW finds each symbol, used or not
		output=$1 library=$2
		shift 2
		LD_BIND_NOW=1 LD_PRELOAD=$library LD_LIBRARY_PATH=build/softcuda build/tests/clients/decoder tokens=4 "$@" \
			build/tests/clients/decoder_kernels.so >"$output" || { echo "decoder $*: it fails"; status=1; }
	}
	shim=./libkvshare-preload.so
	decoder /plain "" && decoder /oracle "" owners=0,1,0,1
	decoder /passed $shim
	cmp /passed /plain || status=1
	export KVSHARE_OWNERS=0,1,0,1 KVSHARE_LAYOUT=slab:layers=4,k=4MiB,v=4MiB KVSHARE_STATS=/stats KVSHARE_PROFILE=/trace
	for options in "" store=struct launch=ex graph=capture find=dlsym; do
		rm -f /stats /trace
		decoder /shared $shim $options
		cmp /shared /oracle || status=1
		grep -q "\"saved_bytes\": 14680064" /stats && [ -s /trace ] || { echo "decoder $options: nothing is shared"; status=1; }
	done
	[ $status -ne 0 ] || echo "passed"
	exit $status' 2>&1 | grep -v "^device_bytes" >"$root.said" || true
cat "$root.said"
[ "$(tail -n 1 "$root.said")" = passed ] || status=1
rm "$root.said"
exit "$status"
