#!/usr/bin/env python3
"""Checks tests/golden/exports/transformers-*.py, which `kvshare-run plan convert --to transformers` made, against transformers.

For each plan of tests/golden/eval/* the export is given that plan and run on the checkpoint with transformers' own model:
every token's loss must be that of the golden file to 1e-3, with one pass a window, with a prompt and then pieces and single
tokens, and with eager and sdpa attention; the mean to 1e-3 of what `kvshare-run eval` is tested against. Then generate(),
greedy and with beams, must give what passes without a cache give, and the cache must hold K and V of owners only.

Last run on 2026-11-23 with torch 2.15.0, CPU, float32, and passed: transformers 5.23.0 on all tiny checkpoints (storyworld-3m,
which takes long, has not been waited for), transformers 4.57.1 on mistral, qwen2-window, qwen3 and llama3.2 (eager alone). On
2026-11-28, when it began to ask for refitted matrices: transformers 5.24.0 on llama3.2, mistral and qwen3 (eager).
Run it again after changing tools/run/plan/exports/plan_transformers.py, and make the golden files anew; names as arguments check
only those:
    build/kvshare-run plan convert --owners 0,1,0,3,1,3 --to transformers -o tests/golden/exports/transformers-shared.py
    venv/bin/python tests/golden/check_transformers_export.py
"""
import importlib.util
import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TOLERANCE = 1e-3


def load_export(k_owners, v_owners):
    """The golden export as a module, with another plan in it: all that differs between exports."""
    spec = importlib.util.spec_from_file_location("export", HERE / "exports" / "transformers-shared.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.K_OWNERS, module.V_OWNERS = k_owners, v_owners
    return module


@torch.no_grad()
def window_nll(model, cache, inputs, targets, pieces):
    """The loss of each target, with the inputs given to the model in pieces of these lengths."""
    nll, first = [], 0
    for length in pieces:
        logits = model(input_ids=inputs[None, first:first + length], past_key_values=cache).logits[0].float()
        wanted = targets[first:first + length, None]
        nll.append(-torch.log_softmax(logits, -1).gather(1, wanted)[:, 0])
        first += length
    return torch.cat(nll)


def is_dynamic(model):
    """With dynamic NTK, transformers rotates by the length of each pass: a text in pieces differs, with any cache."""
    config = model.config
    return "dynamic" in str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))


def whole(length):
    return [length]


def in_pieces(length):
    return [length] if length < 16 else [length // 2, 7, *[1] * (length - length // 2 - 7)]


def check_loss(model, export, case, ids):
    worst = 0
    golden = torch.tensor(case["nll"])
    for pieces_of in [whole] if is_dynamic(model) else [whole, in_pieces]:
        nll = []
        for first in range(0, len(ids) - 1, case["ctx"]):
            inputs, targets = ids[first:first + case["ctx"]], ids[first + 1:first + case["ctx"] + 1]
            inputs = inputs[:len(targets)]
            nll.append(window_nll(model, export.plan_cache(model.config), inputs, targets, pieces_of(len(targets))))
        worst = max(worst, float((torch.cat(nll) - golden).abs().max()))
        assert abs(float(torch.cat(nll).mean()) - case["mean_nll"]) < TOLERANCE
    assert worst < TOLERANCE, worst
    return worst


@torch.no_grad()
def check_generate(model, export, ids):
    """Greedy against a pass over the whole text for every token; beams change the cache's order on the way."""
    prompt, count = ids[None, :20], 12
    # Without a mask, generate() would take prompt tokens of id 0 for padding.
    arguments = dict(attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=count, max_new_tokens=count,
                     pad_token_id=0)
    out = model.generate(prompt, past_key_values=export.plan_cache(model.config), **arguments)
    for step in range(prompt.shape[1], out.shape[1]):
        logits = model(input_ids=out[:, :step], past_key_values=export.plan_cache(model.config)).logits[0, -1]
        eos = model.generation_config.eos_token_id
        if eos is not None:
            logits[eos] = -torch.inf  # as min_new_tokens does
        assert logits.max() - logits[out[0, step]] < 1e-4
    beams = model.generate(prompt, past_key_values=export.plan_cache(model.config), num_beams=3, output_scores=True,
                           return_dict_in_generate=True, **arguments)
    logits = model(input_ids=beams.sequences, past_key_values=export.plan_cache(model.config)).logits[0].float()
    if model.generation_config.eos_token_id is None:
        scores = torch.log_softmax(logits[19:-1], -1).gather(1, beams.sequences[0, 20:, None]).sum() / count
        assert abs(float(scores - beams.sequences_scores[0])) < TOLERANCE, (scores, beams.sequences_scores)


@torch.no_grad()
def check_memory(model, export, ids):
    cache = export.plan_cache(model.config)
    model(input_ids=ids[None, :50], past_key_values=cache)
    for owners, held in ((export.K_OWNERS, "keys"), (export.V_OWNERS, "values")):
        for layer, owner in enumerate(owners):
            assert (getattr(cache.layers[layer], held).numel() > 0) == (owner == layer)


def check_model(path):
    golden = json.loads(path.read_text())
    ids = torch.tensor(golden["ids"])
    for attention in ("eager", "sdpa"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            ROOT / golden["model"], dtype=torch.float32, attn_implementation=attention).eval()
        worst = 0
        for case in golden["cases"]:
            export = load_export(case["k_owners"], case["v_owners"])
            worst = max(worst, check_loss(model, export, case, ids))
            if case["ctx"] == golden["cases"][0]["ctx"]:
                check_memory(model, export, ids)
                check_generate(model, export, ids)
        print(f"{path.stem:14} {attention:5} {len(golden['cases'])} cases, worst token {worst:.1e}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for name in sys.argv[1:] or sorted(path.stem for path in (HERE / "eval").glob("*.json")):
        check_model(HERE / "eval" / f"{name}.json")
