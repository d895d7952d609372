#!/bin/sh
# make check-gpu: verifies everything on this machine's GPU: builds the bundle and runs it, and then, where Python has torch and
# transformers, PyTorch under the shim (tests/peers/shim_torch.py). Without a GPU it says so in one line, builds nothing and
# exits 77 (make then says "Error 77" and exits 2 itself; call this script for the plain status).
# usage: [BUILD=build] [PEERS_PYTHON=python3] tests/gpu/check-gpu.sh
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
if [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ]; then
	echo "check-gpu: there is no NVIDIA GPU here (neither /dev/nvidiactl nor /dev/dxg); nothing was run"
	exit 77
fi
${MAKE:-make} --no-print-directory BUILD="$build" gpu-bundle build
bundle=0 torch=0
OUT="${OUT:-$build/gpu-results}" "$build/gpu-bundle/run-gpu.sh" || bundle=$?
"${PEERS_PYTHON:-python3}" tests/peers/shim_torch.py --run "$build/kvshare-run" || torch=$?
[ "$torch" -eq 77 ] && torch=0 # it has said what is missing
[ "$bundle" -ne 0 ] || bundle=$torch
exit "$bundle"
