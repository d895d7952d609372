#!/bin/bash
# `calibrate --compensate` of a model whose W_q, W_o or W_down is damaged: what is no number is named, with its layer, before anything
# runs, and no file is left; a matrix of zeros, as pruning leaves it, is fitted, and the patch runs;
# a search goes on from its trials.
set -eu
run=${BUILD:-build}/kvshare-run model=tests/models/storyworld-3m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*"; cat "$work/said" 2>/dev/null; exit 1; }
mkdir "$work/m"
cp $model/*.json "$work/m"
damage() { # MATRIX HEX: all of it (zeros), or its last number but one, becomes this bfloat16
	python3 - $model/model.safetensors "$work/m/model.safetensors" "model.layers.$1.weight" "$2" <<'END'
import json, pathlib, struct, sys
data, name, number = bytearray(pathlib.Path(sys.argv[1]).read_bytes()), sys.argv[3], bytes.fromhex(sys.argv[4])[::-1]
size = struct.unpack("<Q", data[:8])[0]
begin, end = json.loads(data[8:8 + size])[name]["data_offsets"]
start = 8 + size + (begin if number == b"\0\0" else end - 4)
stop = 8 + size + (end if number == b"\0\0" else end - 2)
data[start:stop] = number * ((stop - start) // 2)
pathlib.Path(sys.argv[2]).write_bytes(data)
END
}
$run plan convert --owners 0,1,2,3,4,5,6,7,8,9,10,11,12,13,13,12 --to json -o "$work/plan.json"
calibrate() { # ARGS...
	$run calibrate -m "$work/m" --text $model/calib.txt --samples 5 --held-tokens 64 --ctx 64 -q --compensate "$@" >"$work/out" 2>"$work/said"
}

for matrix in 14.self_attn.q_proj 2.self_attn.o_proj 15.mlp.down_proj; do
	for number in 7fc0 ff80; do # NaN, -infinity
		damage $matrix $number
		for how in "--plan $work/plan.json" "--method kvsharer --share 2"; do
			calibrate $how -o "$work/n.json" && fail "it ran with $number in $matrix"
			grep -q "model.layers.$matrix.weight: row [0-9]*, column [0-9]* is not a finite number" "$work/said" || fail "$matrix, $number:"
			[ "$(wc -l <"$work/said")" = 1 ] && [ ! -s "$work/out" ] && [ -z "$(ls "$work" | grep ^n)" ] || fail "left behind: $(ls "$work")"
		done
	done
	damage $matrix 0000
	calibrate --plan "$work/plan.json" -o "$work/z.json" || fail "zeros in $matrix:"
	$run eval -m "$work/m" --plan "$work/z.json" --text $model/heldout.txt --ctx 64 --max-tokens 65 >"$work/out" 2>"$work/said" || fail "zeros in $matrix, eval:"
	rm -f "$work"/z.*
done

# A layer whose attention adds nothing: a search by what matrices leave says that pairs lose nothing there, and goes on from that.
damage 2.self_attn.o_proj 0000
calibrate --method refit --share 1 --refit qo -o "$work/s.json" || fail "a search with zeros:"
grep -q '"layer": 2, .*"left": 0.0' <(tr -d '\n' <"$work/s.json" | sed 's/}, *{/\n/g; s/ \+/ /g') || fail "pairs of zeros do not lose nothing"
cp "$work/s.json" "$work/first.json"
calibrate --method refit --share 1 --refit qo --resume -o "$work/s.json" || fail "--resume of a search with zeros:"
cmp "$work/s.json" "$work/first.json" || fail "another plan"
