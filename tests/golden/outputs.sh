#!/bin/sh
# Everything that a change of shape must leave as it was, to the bit: tokens, losses, plans and bytes, without times.
# Record it before such a change and compare afterwards, on the same machine (OpenBLAS chooses its kernels by processor):
#
#   tests/golden/outputs.sh build >before; ...; tests/golden/outputs.sh build | diff before -
#
# outputs-eb25f9f.txt beside it was recorded before the house was reshaped.
set -eu
run="${1:?usage: outputs.sh BUILD}/kvshare-run"
cd "$(dirname "$0")/../.."
fixture=tests/models/storyworld-3m
export KVS_HOST_KERNELS=simt # native bodies add up in another order
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT

# Keeps the lines of a JSON object that do not tell time or machine.
lasting() {
	sed -E '/"(seconds|load_s|prefill_s|decode_s|search_s|measure_s|memory_bytes|[a-z0-9]*_tokens_per_s|p50|p90|p99|stop)"/d'
}
say() { echo "== $*" | sed "s| -o .*||"; "$run" "$@" --device host --json | lasting; }

say generate -m $fixture -p "Anna put the red key" -n 48
say generate -m $fixture -p "Anna put the red key" -n 48 --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15
say generate -m $fixture -p "Viktor" -n 48 --temperature 0.8 --top-p 0.9 --seed 7 --kv-dtype f32
for type in f32 f16 bf16; do
	say eval -m $fixture --text $fixture/heldout.txt --max-tokens 512 --ctx 256 --kv-dtype $type
	say eval -m $fixture --text $fixture/heldout.txt --max-tokens 512 --ctx 256 --kv-dtype $type --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15
done
for method in kvsharer nll; do
	say calibrate -m $fixture --text $fixture/calib.txt --samples 8 --held-tokens 256 --share 3 --method $method -o "$plan"
	cat "$plan"
done
