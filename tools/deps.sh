#!/bin/sh
# Installs what kvshare needs for building and testing and this machine lacks; prints nothing if nothing is missing.
#
# Debian packages come from apt. An installed CUDA toolkit is used; without one, NVIDIA's packages on PyPI
# (tools/cuda-packages.txt) provide the headers in BUILD/cuda, CUPTI's among them, and with GPU=1 the compiler too. DEV=1 adds the tools of
# developers: clang, its formatter and fuzzer, the checkers of packages, what eBPF is built with and checked against.
# usage: [BUILD=build] [CUDA=FOLDER WITH include/cuda.h] [NVCC=PROGRAM] [GPU=1] [DEV=1] tools/deps.sh
set -eu
cd "$(dirname "$0")/.."
cuda=${BUILD:-build}/cuda
as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo

die() {
	echo "kvshare: $*" >&2
	exit 1
}

# Installs those of the Debian packages that are missing.
packages() { # PACKAGE...
	if ! command -v dpkg-query >/dev/null; then
		echo "kvshare: this is not Debian: please install the contents of these Debian packages: $*" >&2
		return
	fi
	missing=""
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	[ -z "$as_root" ] || command -v "$as_root" >/dev/null || die "please install, as root:$missing"
	echo "installing:$missing"
	$as_root apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing >/dev/null
}

# Unpacks NVIDIA's packages from PyPI; each has a part of one folder, which is named for the CUDA release.
from_pypi() { # NAME...
	python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	for name in "$@"; do grep "^$name==" tools/cuda-packages.txt; done >"$work/packages"
	echo "fetching into $cuda: $(sed 's/ .*//' "$work/packages" | xargs)"
	PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --no-deps --no-compile --require-hashes \
		--only-binary :all: --target "$work/to" -r "$work/packages"
	mkdir -p "$cuda"
	cp -R "$work"/to/nvidia/cu*/. "$cuda"
}

packages gcc g++ make pkg-config libjansson-dev libpcre2-dev libutf8proc-dev libopenblas-dev libboost-context-dev libcmocka-dev zlib1g-dev libdw-dev libiberty-dev
[ "${DEV:-0}" != 1 ] || packages clang clang-format libclang-rt-dev debhelper lintian python3 python3-pip \
	libbpf-dev libelf-dev bpftool bpftrace libjemalloc2
# Ubuntu has no package with a browser in it; the test of the HTML report is skipped there.
[ "${DEV:-0}" != 1 ] || ! apt-cache show chromium 2>/dev/null | grep -q '^Depends:.* chromium-common' || packages chromium
headers="nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl nvidia-cuda-cupti"
if [ -n "${CUDA:-}" ] && [ ! -e "$CUDA/include/cuda.h" ]; then
	die "CUDA_HOME is $CUDA, where there is no include/cuda.h: unset it, or name a toolkit's folder"
elif [ "${GPU:-0}" = 1 ] && [ -z "${NVCC:-}" ]; then
	from_pypi $headers nvidia-cuda-nvcc nvidia-nvvm
elif [ -z "${CUDA:-}" ]; then
	from_pypi $headers
elif [ "$CUDA" = "$cuda" ] && [ ! -e "$cuda/include/cupti.h" ]; then # it came there before CUPTI was among them
	from_pypi nvidia-cuda-cupti
fi
