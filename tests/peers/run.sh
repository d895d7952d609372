#!/bin/sh
# Our speed against llama.cpp's and transformers' on SmolLM2-135M-Instruct. Fetches everything from PyPI into BUILD/peers and
# builds llama.cpp there, once, which takes long (of installing torch, too); then each call only measures, some minutes a round. Needs
# cmake and 7 GB. `make bench-peers` compiles kvshare-run again where CC or flags are others than before; this script does not.
#
# PEERS_PYTHON names a Python that has torch, transformers, accelerate and gguf; else they are installed, several GB.
# usage: [BUILD=build] [PEERS_PYTHON=python3] tests/peers/run.sh [ROUNDS=5]
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$build/peers
version=0.3.36
digest=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
source=$work/llama_cpp_python-$version/vendor/llama.cpp
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$work"

command -v cmake >/dev/null || { echo "bench-peers: cmake is needed (apt-get install cmake)" >&2; exit 1; }
if [ ! -e "$work/llama.built" ]; then
	if [ ! -d "$source" ]; then
		echo "bench-peers: fetching llama-cpp-python $version from PyPI, 77 MB" >&2
		echo "llama-cpp-python==$version --hash=sha256:$digest" >"$work/requirements"
		python3 -m pip download -q --no-deps --no-binary llama-cpp-python --require-hashes -r "$work/requirements" -d "$work" ||
			{ echo "bench-peers: it could not be fetched with pip: is there a network?" >&2; exit 1; }
		tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
	fi
	echo "bench-peers: building llama.cpp in $work/llama, at low priority; this takes minutes" >&2
	cmake -S "$source" -B "$work/llama" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF \
		-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_COMMON=OFF >"$work/llama.log" 2>&1 &&
		nice -n 19 cmake --build "$work/llama" --target llama -j"$(nproc)" >>"$work/llama.log" 2>&1 ||
		{ tail -n 20 "$work/llama.log" >&2; exit 1; }
	touch "$work/llama.built"
fi
${CC:-cc} -std=gnu11 -O2 -c tests/peers/llama_peer.c -o "$work/llama_peer.o" -I"$source/include" -I"$source/ggml/include"
${CXX:-c++} -o "$work/llama_peer" "$work/llama_peer.o" "$work/llama/src/libllama.a" "$work/llama/ggml/src/libggml.a" \
	"$work/llama/ggml/src/libggml-cpu.a" "$work/llama/ggml/src/libggml-base.a" -fopenmp -pthread -ldl -lm

if [ -z "${PEERS_PYTHON:-}" ]; then
	PEERS_PYTHON=$work/python/bin/python
	if [ ! -e "$work/python.installed" ]; then
		echo "bench-peers: installing torch and transformers, several GB" >&2
		python3 -m venv "$work/python"
		"$PEERS_PYTHON" -m pip install -q torch==2.15.0 transformers==5.24.0 accelerate gguf==0.19.0
		touch "$work/python.installed"
	fi
fi
export PEERS_PYTHON
if [ ! -e "$work/types.made" ]; then
	model=$(tools/demo-model.sh smollm2 "$build/models")
	"$PEERS_PYTHON" tests/peers/make_types.py "$model" "$work" >"$work/types.log" 2>&1 || { tail -n 5 "$work/types.log" >&2; exit 1; }
	touch "$work/types.made"
fi
exec python3 tests/peers/peers.py "$build/kvshare-run" "$work" "${1:-5}"
