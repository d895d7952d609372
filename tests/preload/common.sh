# What the tests of programs under the shim begin with; to be sourced (bash) by a script of this folder, which ends in `exit $failed`.
# $work is a folder of the script's own.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
run=$build/kvshare-run
decoder=$build/tests/clients/decoder
kernels=$build/tests/clients/decoder_kernels.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
# The sanitizer's library wants to be first, and the shim is.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0

fail() {
	echo "$*"
	failed=1
}
