#!/usr/bin/env python3
"""One run of transformers on torch, on the CPU and with its defaults (sdpa, a DynamicCache); prints how long its parts took.

The time of imports is not in load_s. usage: torch_peer.py DIRECTORY TEXT PROMPT_TOKENS NEW_TOKENS THREADS DTYPE
"""
import json
import pathlib
import sys
import time

import torch
import transformers


def main():
    folder, text, prompt, count, threads, dtype = sys.argv[1:]
    torch.set_num_threads(int(threads))
    start = time.monotonic()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    load = time.monotonic() - start
    ids = torch.tensor([tokenizer(pathlib.Path(text).read_text())["input_ids"]])
    if ids.shape[1] != int(prompt):
        sys.exit(f"torch_peer: the text has {ids.shape[1]} tokens, expected are {prompt}")
    cache = transformers.DynamicCache()
    with torch.inference_mode():
        start = time.monotonic()
        ids = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        between = time.monotonic()
        for _ in range(int(count)):
            ids = model(ids, past_key_values=cache).logits[:, -1:].argmax(-1)
    end = time.monotonic()
    print(json.dumps({"load_s": load, "prefill_s": between - start, "decode_s": end - between}))


main()
