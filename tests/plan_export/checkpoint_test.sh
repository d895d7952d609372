#!/bin/bash
# `plan convert --to checkpoint`: a directory whose weights hold a plan's refitted matrices has the loss of the plan with its
# patch, in one file and in shards; shards without such a matrix are the same files; and nothing is left of what fails.
set -eu
run=${BUILD:-build}/kvshare-run model=tests/models/storyworld-3m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*"; cat "$work/said" 2>/dev/null; exit 1; }
loss() { # MODEL PLAN
	$run eval -m "$1" --plan "$2" --text $model/heldout.txt --ctx 64 --max-tokens 257 --json 2>"$work/said" | sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p'
}
convert() { $run plan convert "$1" --to checkpoint -m "$2" -o "$3" >"$work/out" 2>"$work/said"; }
refuses() { # WORDS PLAN MODEL OUT: exit 1, one line, and nothing new in the folder
	local words=$1 before; shift
	before=$(ls "$work")
	if convert "$@"; then fail "it ran: $*"; fi
	grep -q "$words" "$work/said" || fail "it does not say \"$words\":"
	[ "$(wc -l <"$work/said")" = 1 ] && [ "$(ls "$work")" = "$before" ] || fail "left behind: $(ls "$work")"
}
touch "$work/out" "$work/said"

# The last two layers borrow, so that the layers below them, and with these a shard, stay as they are.
owners=0,1,2,3,4,5,6,7,8,9,10,11,12,13,13,12
$run plan convert --owners $owners --to json -o "$work/plain.json"
$run calibrate -m $model --text $model/calib.txt --samples 24 --held-tokens 64 --ctx 64 -q --compensate --refit qo \
	--plan "$work/plain.json" -o "$work/p.json" >"$work/out" 2>"$work/said" || fail "calibrate failed:"
grep -q '"applied": true' "$work/p.json" || fail "the plan has no matrices"
patched=$(loss $model "$work/p.json") plain=$(loss $model "$work/plain.json")
[ -n "$patched" ] && [ "$patched" != "$plain" ] || fail "the patch changes nothing: $patched"

# One file.
sums=$(sha256sum $model/*)
convert "$work/p.json" $model "$work/one" || fail "convert failed:"
[ "$(loss "$work/one" "$work/one/kvshare_plan.json")" = "$patched" ] || fail "another loss than with the patch: $patched"
[ "$sums" = "$(sha256sum $model/*)" ] || fail "the model was changed"
[ "$(ls "$work/one")" = "$({ ls $model; echo kvshare_plan.json; } | sort)" ] || fail "other files: $(ls "$work/one")"
$run generate -m "$work/one" -p Anna -n 2 -q >"$work/out" 2>"$work/said" || fail "it does not run without the plan:"

# A config.json that may not be written, and with a number that only Python writes: its copy is as it was, and has one more key.
mkdir "$work/odd"
cp $model/* "$work/odd"
sed -i '1s/{/{"initializer_cap": Infinity,/' "$work/odd/config.json"
chmod 444 "$work/odd/config.json"
chmod 777 "$work/odd"
nobody=
[ $EUID != 0 ] || nobody="setpriv --reuid 65534 --regid 65534 --clear-groups"
chmod 777 "$work" && chmod 666 "$work/p.json" "$work/p.patch.safetensors" "$work/odd/model.safetensors"
cp "$run" "$work/kvshare-run"
$run calibrate -m "$work/odd" --text $model/calib.txt --samples 24 --held-tokens 64 --ctx 64 -q --compensate --refit qo \
	--plan "$work/plain.json" -o "$work/o.json" >"$work/out" 2>"$work/said" || fail "calibrate of the odd model failed:"
$nobody "$work/kvshare-run" plan convert "$work/o.json" --to checkpoint -m "$work/odd" -o "$work/even" >"$work/out" 2>"$work/said" || fail "convert of the odd model failed:"
[ "$(loss "$work/even" "$work/even/kvshare_plan.json")" = "$patched" ] || fail "the odd model has another loss than $patched"
[ "$(head -n -2 "$work/even/config.json")" = "$(head -n -1 "$work/odd/config.json" | sed '$s/$/,/')" ] || fail "config.json was changed"
[ "$(stat -c %a "$work/even/config.json")" = 444 ] || fail "config.json has another mode"
grep -q '"kvshare_matrices": "[0-9a-f]\{32\}"' "$work/even/config.json" || fail "config.json does not name the matrices"
rm -r "$work"/o.* "$work/even" "$work/odd"

# Shards: layers 12 and up in the second, the others and the rest in the first.
mkdir "$work/two"
cp $model/*.json "$work/two"
python3 - $model/model.safetensors "$work/two" <<'END'
import json, pathlib, struct, sys
data, to = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
size = struct.unpack("<Q", data[:8])[0]
header = {k: v for k, v in json.loads(data[8:8 + size]).items() if k != "__metadata__"}
upper = lambda name: name.startswith("model.layers.") and int(name.split(".")[2]) >= 12
files = {}
for number in (1, 2):
    name, part, body = f"model-0000{number}-of-00002.safetensors", {}, b""
    for key, entry in header.items():
        if upper(key) == (number == 2):
            begin, end = entry["data_offsets"]
            part[key] = {**entry, "data_offsets": [len(body), len(body) + end - begin]}
            body += data[8 + size + begin:8 + size + end]
            files[key] = name
    text = json.dumps(part).encode()
    (to / name).write_bytes(struct.pack("<Q", len(text)) + text + body)
(to / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
END
: >"$work/two/pytorch_model.bin"
chmod 600 "$work/two/model-00002-of-00002.safetensors"
convert "$work/p.json" "$work/two" "$work/three/" || fail "convert of shards failed:"
[ "$(loss "$work/three" "$work/three/kvshare_plan.json")" = "$patched" ] || fail "shards have another loss than $patched"
[ "$work/two/model-00001-of-00002.safetensors" -ef "$work/three/model-00001-of-00002.safetensors" ] || fail "the first shard was copied"
[ ! "$work/two/model-00002-of-00002.safetensors" -ef "$work/three/model-00002-of-00002.safetensors" ] || fail "the second shard is the old one"
[ "$(stat -c %a "$work/three/model-00002-of-00002.safetensors")" = 600 ] || fail "others may read the copy of a private shard"
[ ! "$work/two/config.json" -ef "$work/three/config.json" ] || fail "a change of the new config.json changes the old one"
[ ! -e "$work/three/pytorch_model.bin" ] || fail "old weights in another format came along"

# The plan of the new directory is for it alone; and what cannot be written is refused whole.
if loss $model "$work/one/kvshare_plan.json" >"$work/out" && [ -s "$work/out" ]; then fail "its plan runs on the old model"; fi
in_weights="in the weights of the checkpoint that .plan convert --to checkpoint. made, and this model is another"
grep -q "$in_weights" "$work/said" || fail "eval with the old model:"
if $run plan check "$work/one/kvshare_plan.json" -m $model >"$work/out" 2>"$work/said"; then fail "its plan fits the old model"; fi
grep -q "$in_weights" "$work/said" || fail "plan check with the old model:"
$run plan convert "$work/one/kvshare_plan.json" --to lckv >"$work/out" 2>"$work/said"
grep -q "with another model these owners lose more" "$work/said" || fail "LCKV's notation does not warn:"

# A fit would take these weights for the original.
if $run calibrate -m "$work/one" --text $model/calib.txt --samples 24 --held-tokens 64 --ctx 64 -q --compensate --refit qo \
	--plan "$work/one/kvshare_plan.json" -o "$work/n.json" >"$work/out" 2>"$work/said"; then fail "its plan is fitted again"; fi
grep -q "kvshare_plan.json: its refitted matrices are in this model's weights already: name the model" "$work/said" && [ ! -e "$work/n.json" ] ||
	fail "calibrate with the new model:"

# So is its Python for other engines, which find the digest of the matrices in the configuration (stand-ins for the engines).
for engine in transformers vllm; do $run plan convert "$work/one/kvshare_plan.json" --to $engine -o "$work/$engine.py"; done
python3 - $model "$work/one" "$work" <<'END' || fail "the exports"
import importlib.util, json, pathlib, sys, types
old, new, work = map(pathlib.Path, sys.argv[1:])
class Layer:
    def __init__(self, *args, **kwargs): pass
sys.modules["transformers"] = types.ModuleType("transformers")
sys.modules["transformers.cache_utils"] = caches = types.ModuleType("transformers.cache_utils")
caches.Cache = caches.DynamicLayer = Layer
def load(name):
    spec = importlib.util.spec_from_file_location(name, work / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
def config_of(folder):
    config = types.SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    config.get_text_config = lambda: config
    return config
def for_vllm(folder):
    model = types.SimpleNamespace(hf_config=config_of(folder), hf_text_config=config_of(folder))
    return types.SimpleNamespace(model_config=model, cache_config=None, additional_config={})
assert {**json.loads((new / "config.json").read_text()), "kvshare_matrices": 0} == {
    **json.loads((old / "config.json").read_text()), "kvshare_matrices": 0}
for use, configs in (load("transformers").plan_cache, config_of), (load("vllm").prepare, for_vllm):
    use(configs(new))
    try:
        use(configs(old))
    except ValueError as error:
        assert "this model is another" in str(error), error
    else:
        sys.exit("an export takes the old model")
END
refuses "exists: name a new directory" "$work/p.json" $model "$work/one"
refuses "no refitted matrices" "$work/plain.json" $model "$work/n"
refuses "No such file" "$work/p.json" $model "$work/none/n"
refuses "makes a directory" "$work/p.json" $model -
sed 's/"patch": "[0-9a-f]*"/"patch": 5/' "$work/p.json" >"$work/d.json"
refuses "is no digest of theirs" "$work/d.json" $model "$work/n"
refuses "another model" "$work/p.json" tests/golden/models/llama2 "$work/n"
head -c -1 "$work/p.patch.safetensors" >"$work/cut" && mv "$work/cut" "$work/p.patch.safetensors"
refuses truncated "$work/p.json" $model "$work/n"
