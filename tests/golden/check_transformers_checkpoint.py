#!/usr/bin/env python3
"""Checks that transformers runs what `kvshare-run plan convert --to checkpoint` writes, with the loss that `eval` has.

    venv/bin/python tests/golden/check_transformers_checkpoint.py build/kvshare-run

(or `make check-exports ENGINES=transformers`) makes a plan with refitted matrices for the fixture, the checkpoint, and the plan's Python for transformers (`--to transformers`),
and compares four windows of 64 tokens in float32: `eval` of the checkpoint with its plan, `eval` of the old model with plan and
patch, and transformers on the checkpoint. The mean losses must be within 1e-4, and differ from the plan's without matrices; the
plan's Python must refuse the old model.

Last run on 2026-11-28 with transformers 5.24.0, torch 2.15.0, CPU, and passed: 1.255348 in all three.
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers

MODEL = pathlib.Path(__file__).parent.parent / "models" / "storyworld-3m"
OWNERS = "0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15"
WINDOW, TOKENS = 64, 257


def run(*arguments):
    return subprocess.run([sys.argv[1], *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def evaluate(model, plan):
    return json.loads(run("eval", "-m", model, "--plan", plan, "--text", MODEL / "heldout.txt", "--ctx", WINDOW, "--max-tokens",
                          TOKENS, "--kv-dtype", "f32", "--json"))["nll"]


@torch.no_grad()
def loss(folder, module):
    spec = importlib.util.spec_from_file_location("export", module)
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode((MODEL / "heldout.txt").read_text()).ids
    ids, nll = torch.tensor(ids[:TOKENS]), []
    for first in range(0, TOKENS - 1, WINDOW):
        window, targets = ids[first:first + WINDOW], ids[first + 1:first + WINDOW + 1]
        logits = model(input_ids=window[None], past_key_values=export.plan_cache(model.config)).logits[0].float()
        nll.append(-torch.log_softmax(logits, -1).gather(1, targets[:, None]))
    return float(torch.cat(nll).mean())


def make(work):
    """A plan with refitted matrices and its checkpoint in the folder work; returns the paths of the plan without them, the
    plan, and the checkpoint."""
    plain, plan, out = work / "plain.json", work / "plan.json", work / "out"
    run("plan", "convert", "--owners", OWNERS, "--to", "json", "-o", plain)
    run("calibrate", "-m", MODEL, "--text", MODEL / "calib.txt", "--samples", 24, "--ctx", WINDOW, "--held-tokens", 256, "-q",
        "--compensate", "--plan", plain, "-o", plan)
    run("plan", "convert", plan, "--to", "checkpoint", "-m", MODEL, "-o", out)
    return plain, plan, out


def main():
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (plain, plan, out), module = make(work), work / "run_plan.py"
        run("plan", "convert", out / "kvshare_plan.json", "--to", "transformers", "-o", module)
        alone, patch, ours, theirs = (evaluate(MODEL, plain), evaluate(MODEL, plan), evaluate(out, out / "kvshare_plan.json"),
                                      loss(out, module))
        try:
            loss(MODEL, module)
        except ValueError as error:
            print(f"the old model: {error}")
        else:
            raise AssertionError("the plan's Python runs on the model without its matrices")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"plan alone {alone:.6f}, with its patch {patch:.6f}, the checkpoint {ours:.6f}, in transformers {theirs:.6f}")
    assert patch == ours and abs(theirs - ours) < 1e-4 and abs(alone - ours) > 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    main()
