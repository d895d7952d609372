#!/bin/sh
# Installs the Debian packages that building and testing kvshare need, if any is missing. Prints nothing when all are there.
# The CUDA toolkit is not among them: Debian has it in non-free only, and NVIDIA's own is what people have.
set -eu
packages="gcc g++ make pkg-config clang clang-format libclang-rt-14-dev libjansson-dev libpcre2-dev libutf8proc-dev
	libopenblas-dev libboost-context-dev libcmocka-dev"
missing=""
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "kvshare: please install what these Debian packages hold:$missing" >&2
	exit 1
fi
as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo
echo "installing:$missing"
$as_root apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing >/dev/null
