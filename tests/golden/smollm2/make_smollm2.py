#!/usr/bin/env python3
"""Makes tests/golden/smollm2/smollm2.json: what transformers computes in float32 with SmolLM2-135M-Instruct, whose GGUF file
(Q4_1) it dequantises with the gguf package.

Losses of a text, in full and with two plans, and 64 tokens that follow ten prompts, the likeliest each time. Made with
transformers 5.24, torch 2.15, gguf 0.19 on CPU, in some minutes; rerun with
    python3 -m venv venv && venv/bin/pip install torch transformers accelerate gguf==0.19.0
    venv/bin/python make_smollm2.py build/models/SmolLM2-135M-Instruct.Q4_1.gguf
`make check-smollm2` compares (check_smollm2.py).
"""
import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import make_models  # noqa: E402  the attention that shares

TEXT = "tests/models/storyworld-3m/heldout.txt"
COUNT, CTX, TOKENS = 600, 256, 64
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "Dear Anna,\n",
           "The three primary colours are", "In 1969,", "To make bread, you need", "Q: What is 12 times 12?\nA:",
           "The quick brown fox"]


def owners(layers, borrowers):
    return [borrowers.get(layer, layer) for layer in range(layers)]


def losses(model, ids, plan):
    sums, count = 0.0, 0
    for first in range(0, len(ids) - 1, CTX):
        window = ids[first:first + CTX + 1]
        logits = make_models.hf_logits(model, window[:-1], (plan, plan))
        picked = torch.log_softmax(torch.as_tensor(logits).double(), -1)
        sums -= sum(picked[i, after].item() for i, after in enumerate(window[1:]))
        count += len(window) - 1
    return sums / count


def greedy(model, tokenizer):
    """All prompts at once, filled up at the left; with the smallest distance between the likeliest token and the next."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    longest = max(map(len, prompts))
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    step, cache = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts]), transformers.DynamicCache()
    places, out, margins = (mask.cumsum(-1) - 1).clamp(min=0), [], []
    for _ in range(TOKENS):
        best = model(input_ids=step, attention_mask=mask, position_ids=places, past_key_values=cache,
                     logits_to_keep=1).logits[:, -1].topk(2)
        margins.append(best.values[:, 0] - best.values[:, 1])
        step, places = best.indices[:, :1], places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=mask.dtype)], -1)
        out.append(step)
    tokens, margins = torch.cat(out, -1).tolist(), torch.stack(margins).amin(0).tolist()
    return [{"prompt": p, "ids": i, "tokens": t, "margin": m} for p, i, t, m in zip(PROMPTS, prompts, tokens, margins)]


def main():
    path = pathlib.Path(sys.argv[1])
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

    def load(attention):
        return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32,
                                                                 attn_implementation=attention).eval()

    torch.set_grad_enabled(False)
    shared, layers = load("kvs_shared"), 30
    ids = tokenizer((HERE.parents[2] / TEXT).read_text())["input_ids"][:COUNT]
    plans = {"full": owners(layers, {}), "two": owners(layers, {24: 23, 27: 26}),
             "distant": owners(layers, {20: 3, 25: 8, 28: 14})}
    golden = {"text": TEXT, "ctx": CTX, "ids": ids, "losses": [], "greedy": []}
    for name, plan in plans.items():
        golden["losses"].append({"name": name, "owners": plan, "nll": losses(shared, ids, plan)})
        print(golden["losses"][-1]["nll"], name, flush=True)
    golden["greedy"] = greedy(load("eager"), tokenizer)
    print("margins", [case["margin"] for case in golden["greedy"]])
    (HERE / "smollm2.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
