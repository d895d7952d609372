#!/usr/bin/env python3
"""kvshare-run, llama.cpp and transformers on the same model and the same tokens, in alternation: medians, spread, ratios.

Every run is a process of its own, with two threads, greedy, everything else by the program's defaults. A round runs each engine on
each type with each prompt; the order turns from round to round. Prefill is the time from the prompt's tokens to the first new one;
decode counts the tokens after it; peak RSS is the process's own, in the run with 512 tokens.
usage: peers.py KVSHARE-RUN FOLDER ROUNDS    (tests/peers/run.sh makes the folder; PEERS_PYTHON has torch and transformers)
"""
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

THREADS, NEW = "2", 32
PROMPTS = {128: NEW, 512: 0, 1024: NEW, 2048: 0}  # tokens of the prompt, and after the first new one
TYPES = "bf16", "f32", "q8_0"
TORCH = {"bf16": "bfloat16", "f32": "float32"}
WORDS = " time year people way day man thing woman life child world school state family student group country problem".split()
ROWS = [("decode at 128, tokens/s", 128, "decode"), ("decode at 1,024, tokens/s", 1024, "decode"),
        ("prefill of 512, tokens/s", 512, "prefill"), ("prefill of 2,048, tokens/s", 2048, "prefill"),
        ("first token after 512, s", 512, "prefill_s"), ("load, s", 512, "load_s"), ("peak RSS, MiB", 512, "rss")]


def make_prompt(folder, tokens):
    """Words that are one token each, so that no engine needs another's tokenizer."""
    path = folder / f"prompt-{tokens}.txt"
    path.write_text("".join(" " + word for word in random.Random(tokens).choices(WORDS, k=tokens)))
    return str(path)


def command_of(engine, kind, folder, prompt, tokens, new):
    model = str(folder / f"{kind}.gguf")
    if engine == "kvshare":
        return [sys.argv[1], "generate", "-m", model, "-f", prompt, "-n", str(new + 1), "--ctx", str(tokens + new + 1),
                "--ignore-eos", "--threads", THREADS, "--device", "host", "--json", "-q"]
    if engine == "llama.cpp":
        return [str(folder / "llama_peer"), model, prompt, str(tokens), str(new), THREADS]
    return [os.environ.get("PEERS_PYTHON", sys.executable), str(pathlib.Path(__file__).parent / "torch_peer.py"),
            str(folder / "transformers"), prompt, str(tokens), str(new), THREADS, TORCH[kind]]


def run(command):
    """The process's output, and its own peak of resident memory in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process.stdout as out, process.stderr as errors:
        text, said = out.read(), errors.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        sys.exit(f"bench-peers: {' '.join(command)}: {said.strip() or 'no message'}")
    return json.loads(text), usage.ru_maxrss / 1024


def measure(engine, kind, folder, prompt, tokens, new):
    found, rss = run(command_of(engine, kind, folder, prompt, tokens, new))
    if engine == "kvshare":
        assert found["prompt_tokens"] == tokens, f"the text has {found['prompt_tokens']} tokens, expected are {tokens}"
        found = found["latency"]
    times = {"load_s": found["load_s"], "prefill_s": found["prefill_s"], "prefill": tokens / found["prefill_s"], "rss": rss}
    if new:
        times["decode"] = new / found["decode_s"]
    return times


def show(results, kinds):
    print(f"| | {' | '.join(f'{engine} {kind}' for engine, kind in kinds)} | ratio to llama.cpp: {', '.join(TYPES)} |")
    print("|---" * (len(kinds) + 2) + "|")
    for name, tokens, key in ROWS:
        middle, cells = {}, []
        for who in kinds:
            values = [times[key] for times in results[who, tokens]]
            middle[who] = statistics.median(values)
            digits = 2 if middle[who] < 10 else 1 if middle[who] < 100 else 0
            cells.append(f"{middle[who]:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})")
        ratios = ", ".join(f"{middle['kvshare', kind] / middle['llama.cpp', kind]:.2f}" for kind in TYPES)
        print(f"| {name} | {' | '.join(cells)} | {ratios} |")


def main():
    folder, rounds = pathlib.Path(sys.argv[2]), int(sys.argv[3])
    prompts = {tokens: make_prompt(folder, tokens) for tokens in PROMPTS}
    kinds = [(engine, kind) for engine in ("kvshare", "llama.cpp", "transformers") for kind in TYPES
             if engine != "transformers" or kind in TORCH]
    results = {(who, tokens): [] for who in kinds for tokens in PROMPTS}
    for i in range(rounds):
        for tokens, new in PROMPTS.items():
            for engine, kind in kinds[i % len(kinds):] + kinds[:i % len(kinds)]:
                results[(engine, kind), tokens].append(measure(engine, kind, folder, prompts[tokens], tokens, new))
        print(f"round {i + 1} of {rounds}, load of the machine {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(f"{time.strftime('%Y-%m-%d')}, {THREADS} threads, medians of {rounds} rounds (smallest to largest)\n")
    show(results, kinds)


main()
