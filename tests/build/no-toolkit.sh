#!/bin/sh
# Builds kvshare without a visible CUDA toolkit, with the headers that `make deps` fetches from PyPI, and runs the result.
# The cheap form of tests/bare-root.sh, for CI: the toolkit's usual folders are hidden in a mount namespace. It is built
# without eBPF, too, and the commands that need it must say so.
# usage: [BUILD=build/no-toolkit] tests/build/no-toolkit.sh
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build/no-toolkit}
make --no-print-directory deps BUILD="$build" CUDA_HOME=
unset CUDA_HOME CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH
exec unshare -rm sh -c '
	for dir in /usr/local/cuda /opt/cuda /usr/local/include; do
		[ ! -d "$dir" ] || mount -t tmpfs none "$dir" || exit 1
	done
	make --no-print-directory -j"$(nproc)" BPF=0 BUILD="$1" build "$1/tests/clients/clients_test" "$1/tests/softcuda/softcuda_kernels.so" \
		"$1/tests/clients/vector_add" && make --no-print-directory BPF=0 BUILD="$1" run-demo &&
		! "$1/kvshare-run" attach -p 1 2>"$1/said" && grep "built without eBPF" "$1/said" &&
		BUILD="$1" tests/run.sh "$1/tests/clients/clients_test"' sh "$build"
