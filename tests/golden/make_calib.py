#!/usr/bin/env python3
"""Makes tests/golden/calib/storyworld.json: KVSharer's search on the fixture, computed with NumPy alone.

Made with numpy 2.x and tokenizers 0.23; rerun, from anywhere, with
    python3 -m venv venv && venv/bin/pip install tokenizers numpy && venv/bin/python make_calib.py
Nothing here is shared with calib/: the safetensors are read and the model is run by the lines below, in float32; means,
distances and cosines are float64. The order of things is that of the reference code (github.com/yangyifei729/KVSharer at
39e5c191, test_llama.ipynb), described in facts, not copied: pairs (deeper, shallower), skip where the deeper one shares
already, map, collapse, run, keep while the cosine is above the threshold.

Samples are few and short, so that the test can run all of them; one search has the reference's 30 x 64.

"quality" holds what some plans are worth, under the policies owner ("plans") and last ("lasts"), and what merging neighbours
as MiniCache does it is.
"""
import itertools
import json
import pathlib
import struct

import numpy as np
import tokenizers

HERE = pathlib.Path(__file__).parent
MODEL = HERE.parent / "models" / "storyworld-3m"
CONFIG = json.loads((MODEL / "config.json").read_text())
LAYERS, HEADS, KV_HEADS, DIM = (CONFIG[k] for k in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"))
MASK = 0xFFFFFFFFFFFFFFFF


def read_weights():
    data = (MODEL / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    weights = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
        weights[name] = bits.view(np.float32).reshape(entry["shape"])
    return weights


WEIGHTS = read_weights()


def norm(x, name):
    return (x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(CONFIG["rms_norm_eps"]))) * WEIGHTS[name]


def linear(x, name):
    return x @ WEIGHTS[name + ".weight"].T


def rotations(tokens):
    angle = np.arange(tokens)[:, None] * CONFIG["rope_theta"] ** (-2.0 * np.arange(DIM // 2) / DIM)
    return np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None]


def rotate(x, cos, sin):
    a, b = x[..., :DIM // 2], x[..., DIM // 2:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)


def forward(samples, k_owners=range(LAYERS), v_owners=range(LAYERS)):
    """K, V [layer][sample][token][kv_head][dim] of layers that own them, and last hidden states [sample][token][hidden]."""
    count, tokens = samples.shape
    cos, sin = rotations(tokens)
    future = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    x, keys, values = WEIGHTS["model.embed_tokens.weight"][samples], {}, {}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm.weight")
        q = rotate(linear(y, at + "self_attn.q_proj").reshape(count, tokens, HEADS, DIM), cos, sin)
        if k_owners[layer] == layer:
            keys[layer] = rotate(linear(y, at + "self_attn.k_proj").reshape(count, tokens, KV_HEADS, DIM), cos, sin)
        if v_owners[layer] == layer:
            values[layer] = linear(y, at + "self_attn.v_proj").reshape(count, tokens, KV_HEADS, DIM)
        k, v = (np.repeat(t, HEADS // KV_HEADS, 2).transpose(0, 2, 1, 3)
                for t in (keys[k_owners[layer]], values[v_owners[layer]]))
        scores = q.transpose(0, 2, 1, 3) @ k.transpose(0, 1, 3, 2) / np.float32(DIM ** 0.5) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(attended.transpose(0, 2, 1, 3).reshape(count, tokens, HEADS * DIM), at + "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm.weight")
        gate = linear(y, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
    return keys, values, norm(x, "model.norm.weight")


def distances(means, kind):
    """[layer][layer] over means [layer][token][kv_head][dim]."""
    out = np.zeros((LAYERS, LAYERS))
    for i in range(LAYERS):
        for j in range(LAYERS):
            delta = means[i] - means[j]
            out[i, j] = np.linalg.norm(delta.ravel()) if kind == "paper" else np.linalg.norm(delta, axis=-1).mean()
    return out


def shuffled(pairs, seed):
    def draw():
        nonlocal seed
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    pairs = list(pairs)
    for i in range(len(pairs) - 1, 0, -1):
        j = draw() % (i + 1)
        pairs[i], pairs[j] = pairs[j], pairs[i]
    return pairs


def ordered(distance, order):
    pairs = [(i, j) for i in range(LAYERS) for j in range(i)]
    if order.startswith("random"):
        return shuffled(pairs, int(order.split(":")[1]))
    return sorted(pairs, key=lambda p: distance[p] if order == "similar" else -distance[p])


def cosine(a, b, kind):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if kind == "paper":
        a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
    return float(np.mean([(x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()) for x, y in zip(a, b)]))


def collapse(owners):
    for layer in sorted(owners):
        if owners[layer] != layer:
            owners[layer] = owners[owners[layer]]


def search(samples, hidden, distance, order, kind, threshold, most):
    owners, trials, accepted = {layer: layer for layer in range(LAYERS)}, [], {}
    for layer, owner in ordered(distance, order):
        if len(accepted) == most:
            break
        if owners[layer] != layer:
            continue
        tried = {**owners, layer: owner}
        collapse(tried)
        similarity = cosine(hidden, forward(samples, tried, tried)[2], kind)
        trials.append([layer, owner, round(similarity, 7), int(similarity > threshold)])
        if similarity > threshold:
            owners = tried
            accepted[sum(owners[l] != l for l in owners)] = [owners[l] for l in range(LAYERS)]
    return trials, accepted


def captured(samples):
    keys, values, hidden = forward(samples)
    k, v = (np.stack([t[layer].astype(np.float64).mean(0) for layer in range(LAYERS)]) for t in (keys, values))
    return k, v, hidden


def log_probabilities(hidden):
    logits = (hidden @ WEIGHTS["model.embed_tokens.weight"].T).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def quality(full, hidden, targets):
    """Loss, part of equal likeliest tokens, mean KL(full || changed): of last hidden states [window][token][hidden]."""
    p, q = log_probabilities(full), log_probabilities(hidden)
    return {"nll": float(-np.take_along_axis(q, targets[..., None], -1).mean()),
            "full_nll": float(-np.take_along_axis(p, targets[..., None], -1).mean()),
            "top1_agreement": float((p.argmax(-1) == q.argmax(-1)).mean()),
            "kl": float((np.exp(p) * (p - q)).sum(-1).mean())}


def merged(lower, upper, at=0.6):
    """MiniCache (arXiv 2405.14366), equations 2 and 3, on vectors [kv_head][dim]: one direction, two lengths."""
    a, b = (np.linalg.norm(v.astype(np.float64), axis=-1, keepdims=True) for v in (lower, upper))
    angle = np.arccos((lower / a * (upper / b)).sum(-1, keepdims=True))
    direction = (np.sin((1 - at) * angle) * lower / a + np.sin(at * angle) * upper / b) / np.sin(angle)
    return (direction * a).astype(np.float32), (direction * b).astype(np.float32)


def decode_merged(window, pairs):
    """Last hidden states [token][hidden]: token by token, K and V of `pairs` (upper: lower) merged behind each."""
    cos, sin = rotations(len(window))
    cache, states = {"k": [[] for _ in range(LAYERS)], "v": [[] for _ in range(LAYERS)]}, []
    for t, token in enumerate(window):
        x = WEIGHTS["model.embed_tokens.weight"][token]
        for layer in range(LAYERS):
            at = f"model.layers.{layer}."
            y = norm(x, at + "input_layernorm.weight")
            q = rotate(linear(y, at + "self_attn.q_proj").reshape(HEADS, DIM), cos[t], sin[t])
            cache["k"][layer].append(rotate(linear(y, at + "self_attn.k_proj").reshape(KV_HEADS, DIM), cos[t], sin[t]))
            cache["v"][layer].append(linear(y, at + "self_attn.v_proj").reshape(KV_HEADS, DIM))
            k, v = (np.repeat(np.stack(cache[c][layer], 1), HEADS // KV_HEADS, 0) for c in "kv")
            scores = (k @ q[..., None])[..., 0] / np.float32(DIM ** 0.5)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            attended = ((scores / scores.sum(-1, keepdims=True))[..., None] * v).sum(1)
            x = x + linear(attended.ravel(), at + "self_attn.o_proj")
            y = norm(x, at + "post_attention_layernorm.weight")
            gate = linear(y, at + "mlp.gate_proj")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
        states.append(norm(x, "model.norm.weight"))
        for upper, lower in pairs.items():
            for c in cache.values():
                c[lower][t], c[upper][t] = merged(c[lower][t], c[upper][t])
    return np.stack(states)


def decode_stored_over(window, k_owners, v_owners, most):
    """Last hidden states [token][hidden] where layers store into their owner's rows, `most` tokens a pass."""
    count, states = len(window), []
    cos, sin = rotations(count)
    keys, values = ({owner: np.zeros((count, KV_HEADS, DIM), np.float32) for owner in set(o)} for o in (k_owners, v_owners))
    for start in range(0, count, most):
        end = min(start + most, count)
        future = np.where(np.arange(end) > np.arange(start, end)[:, None], np.float32(-np.inf), np.float32(0))
        x = WEIGHTS["model.embed_tokens.weight"][window[start:end]]
        for layer in range(LAYERS):
            at = f"model.layers.{layer}."
            y = norm(x, at + "input_layernorm.weight")
            q = rotate(linear(y, at + "self_attn.q_proj").reshape(-1, HEADS, DIM), cos[start:end], sin[start:end])
            keys[k_owners[layer]][start:end] = rotate(
                linear(y, at + "self_attn.k_proj").reshape(-1, KV_HEADS, DIM), cos[start:end], sin[start:end])
            values[v_owners[layer]][start:end] = linear(y, at + "self_attn.v_proj").reshape(-1, KV_HEADS, DIM)
            k, v = (np.repeat(t[:end], HEADS // KV_HEADS, 1).transpose(1, 0, 2)
                    for t in (keys[k_owners[layer]], values[v_owners[layer]]))
            scores = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / np.float32(DIM ** 0.5) + future
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            attended = (scores / scores.sum(-1, keepdims=True)) @ v
            x = x + linear(attended.transpose(1, 0, 2).reshape(end - start, HEADS * DIM), at + "self_attn.o_proj")
            y = norm(x, at + "post_attention_layernorm.weight")
            gate = linear(y, at + "mlp.gate_proj")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
        states.append(norm(x, "model.norm.weight"))
    return np.concatenate(states)


def qualities(ids, windows=3, tokens=24):
    """What changed models are worth on the head of the text: sharing K and V, apart, under either policy, and merging."""
    inputs, targets = (ids[i:i + windows * tokens].reshape(windows, tokens) for i in (0, 1))
    full = forward(inputs)[2]
    plans = [([0, 1, 2, 3, 4, 5, 6, 5, 8, 3, 10, 11, 1, 13, 5, 15],) * 2,
             (list(range(LAYERS)), [0, 0, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11, 11, 13, 14, 15])]
    out = {"windows": windows, "tokens": tokens, "plans": [], "merges": [], "lasts": []}
    for k, v in plans:
        out["plans"].append({"k_owners": k, "v_owners": v, **quality(full, forward(inputs, k, v)[2], targets)})
    for pairs in {1: 0, 7: 6}, {9: 8, 11: 10, 13: 12, 15: 14}:
        hidden = np.stack([decode_merged(window, pairs) for window in inputs])
        owners = [pairs.get(layer, layer) for layer in range(LAYERS)]
        out["merges"].append({"owners": owners, **quality(full, hidden, targets)})
    for (k, v), most in itertools.product(plans, (1, 7)):
        hidden = np.stack([decode_stored_over(window, k, v, most) for window in inputs])
        out["lasts"].append({"k_owners": k, "v_owners": v, "pass_tokens": most, **quality(full, hidden, targets)})
    return out


def text_ids(name):
    return np.array(tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode((MODEL / name).read_text()).ids)


def main():
    ids = text_ids("calib.txt")
    golden = {"model": "tests/models/storyworld-3m", "text": "tests/models/storyworld-3m/calib.txt", "groups": [],
              "quality": qualities(ids)}
    plans = [(3, 16, [(d, c, o, t, 8) for d in ("code", "paper") for c in ("code", "paper")
                      for o, t in (("dissimilar", 0.5), ("similar", 0.9), ("random:7", 0.87))]),
             (30, 64, [("code", "code", "dissimilar", 0.5, 2)])]
    for count, tokens, cases in plans:
        samples = ids[:count * tokens].reshape(count, tokens)
        k, v, hidden = captured(samples)
        apart = {kind: (distances(k, kind), distances(v, kind)) for kind in ("code", "paper")}
        group = {"samples": count, "tokens": tokens, "cases": [],
                 "distances": {kind: {name: [float(f"{d[i, j]:.8g}") for i in range(LAYERS) for j in range(i)]
                                      for name, d in zip("kv", pair)} for kind, pair in apart.items()}}
        for distance, kind, order, threshold, most in cases:
            pair = apart[distance]
            trials, accepted = search(samples, hidden, (pair[0] + pair[1]) / 2, order, kind, threshold, most)
            group["cases"].append({"distance": distance, "cosine": kind, "order": order, "threshold": threshold,
                                   "share": most, "trials": trials, "owners": accepted})
            near = min(abs(t[2] - threshold) for t in trials)
            print(distance, kind, order, "trials", len(trials), "accepted", len(accepted), "nearest to threshold %.1e" % near,
                  flush=True)
        golden["groups"].append(group)
    (HERE / "calib").mkdir(exist_ok=True)
    lines = json.dumps(golden, separators=(",", ":")).replace('{"distance"', '\n{"distance"').replace('"distances"', '\n"distances"').replace('"quality"', '\n"quality"')
    (HERE / "calib" / "storyworld.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
