#!/usr/bin/env python3
"""Makes tests/golden/calib/compensation.json: output projections refitted for a plan, computed with NumPy alone.

Made with numpy 2.x and tokenizers 0.23; rerun, from anywhere, with
    python3 -m venv venv && venv/bin/pip install tokenizers numpy && venv/bin/python make_compensation.py
Nothing here is shared with calib/. The model runs in float32 by lines like make_calib.py's; the fit is float64, and solved
as the least squares problem with the ridge as rows of its own, where calib/compensate solves the normal equations.

Of each matrix there are the norm and a few rows; "nll" is the loss of the windows with and without them.
"""
import json

import numpy as np
import tokenizers
from make_calib import (CONFIG, DIM, HEADS, HERE, KV_HEADS, LAYERS, MODEL, WEIGHTS, linear, log_probabilities, norm, rotate,
                        rotations)

OWNERS = [0, 1, 2, 3, 4, 5, 2, 7, 8, 3, 10, 11, 1, 13, 5, 15]
SAMPLES, TOKENS, WINDOWS, WINDOW, RIDGE, ROWS = 24, 64, 4, 64, 0.03, (0, 31, 127)


def bfloat16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def run(samples, owners, refits, tap=None):
    """Last hidden states; or, before and behind the attention of layer `tap`: residual, heads' output, residual."""
    count, tokens = samples.shape
    cos, sin = rotations(tokens)
    future = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    x, kv = WEIGHTS["model.embed_tokens.weight"][samples], {}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm.weight")
        q = rotate(linear(y, at + "self_attn.q_proj").reshape(count, tokens, HEADS, DIM), cos, sin)
        if owners[layer] == layer:
            kv[layer] = (rotate(linear(y, at + "self_attn.k_proj").reshape(count, tokens, KV_HEADS, DIM), cos, sin),
                         linear(y, at + "self_attn.v_proj").reshape(count, tokens, KV_HEADS, DIM))
        k, v = (np.repeat(t, HEADS // KV_HEADS, 2).transpose(0, 2, 1, 3) for t in kv[owners[layer]])
        scores = q.transpose(0, 2, 1, 3) @ k.transpose(0, 1, 3, 2) / np.float32(DIM ** 0.5) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(0, 2, 1, 3).reshape(count, tokens, HEADS * DIM)
        before, x = x, x + attended @ refits.get(layer, WEIGHTS[at + "self_attn.o_proj.weight"]).T
        if layer == tap:
            return before, attended, x
        y = norm(x, at + "post_attention_layernorm.weight")
        gate = linear(y, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
    return norm(x, "model.norm.weight")


def refit(samples, layer, refits):
    target = run(samples, range(LAYERS), {}, layer)[2]
    before, attended, _ = run(samples, OWNERS, refits, layer)
    f = attended.reshape(-1, HEADS * DIM).astype(np.float64)
    t = (target.astype(np.float64) - before).reshape(-1, CONFIG["hidden_size"])
    ridge = np.sqrt(RIDGE * (f * f).sum(0).mean()) * np.eye(f.shape[1])
    solution = np.linalg.lstsq(np.vstack((f, ridge)), np.vstack((t, np.zeros((f.shape[1], t.shape[1])))), rcond=None)[0]
    return bfloat16(solution.T)


def loss(windows, targets, owners, refits):
    q = log_probabilities(run(windows, owners, refits))
    return float(-np.take_along_axis(q, targets[..., None], -1).mean())


def main():
    text = (MODEL / "calib.txt").read_text()[:30000]  # more than enough
    ids = np.array(tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text).ids)
    samples, rest = ids[:SAMPLES * TOKENS].reshape(SAMPLES, TOKENS), ids[SAMPLES * TOKENS:][:WINDOWS * WINDOW + 1]
    windows, targets = rest[:-1].reshape(WINDOWS, WINDOW), rest[1:].reshape(WINDOWS, WINDOW)
    refits, matrices = {}, []
    for layer in (l for l in range(LAYERS) if OWNERS[l] != l):
        refits[layer] = refit(samples, layer, refits)
        matrices.append({"layer": layer, "norm": float(np.linalg.norm(refits[layer].astype(np.float64))),
                         "rows": {str(r): [round(float(v), 7) for v in refits[layer][r]] for r in ROWS}})
    golden = {"numpy": np.__version__, "owners": OWNERS, "samples": SAMPLES, "tokens": TOKENS, "windows": WINDOWS,
              "window_tokens": WINDOW, "ridge": RIDGE, "matrices": matrices,
              "nll": {"full": loss(windows, targets, range(LAYERS), {}), "plain": loss(windows, targets, OWNERS, {}),
                      "compensated": loss(windows, targets, OWNERS, refits)}}
    (HERE / "calib" / "compensation.json").write_text(json.dumps(golden) + "\n")
    print(golden["nll"])


if __name__ == "__main__":
    main()
