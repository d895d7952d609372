#!/usr/bin/env python3
"""Makes tests/golden/calib/compensation.json: matrices refitted for a plan, computed with NumPy alone.

Made with numpy 2.x; rerun, from anywhere, with
    python3 -m venv venv && venv/bin/pip install numpy && venv/bin/python make_compensation.py
Nothing here is shared with calib/. All is float64. The model runs by the lines below; ridge regression is the least squares
problem with the ridge as rows of its own, and its error that of the residuals themselves, where calib/compensate has the
normal equations and sums; scores are taken by einsum over all sequences at once.

The checkpoints are float32, so that no refitted matrix is rounded. "llama-bias" has a bias everywhere; "compensation-window",
which is made here too, has sliding windows and two queries to a key. Their text is random: what counts is that the figures are
the same. Of each matrix there are the norm and a few rows; of a skip's two, whose signs nothing determines, those of their
product. A skip is cut by the singular values of what it adds to the rows, where calib/compensate has eigenvectors of sums. A linear
map in place of attention is told as such a product too, and the model here runs no attention where it has one.
"""
import json
import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent
LINEAR = "linear"
# model, owners, samples, their tokens, rank of the skip or LINEAR
CASES = [("models/llama-bias", [0, 0, 2, 2], 16, 32, 0), ("calib/compensation-window", [0, 1, 1, 3, 0], 16, 24, 0),
         ("models/llama-bias", [0, 0, 2, 2], 16, 32, 5), ("calib/compensation-window", [0, 1, 1, 3, 0], 16, 24, 12),
         ("models/llama-bias", [0, 0, 2, 2], 16, 32, LINEAR)]
WINDOWS, ROWS, STRIDE = 4, (0, 5, 15), 3
OUTPUTS, OTHERS = (0.003, 0.01, 0.03, 0.1, 0.3), (1, 0.3, 0.1)
WINDOW_CONFIG = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "vocab_size": 64,
                 "hidden_size": 40, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
                 "sliding_window": 10, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float32"}


# ---- checkpoints ----

def make_window_model(folder):
    rng = np.random.default_rng(7)
    hidden, ff, dim = 40, 24, 32
    shapes = {"model.embed_tokens.weight": (64, hidden), "model.norm.weight": (hidden,)}
    for layer in range(5):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (hidden,), at + "post_attention_layernorm.weight": (hidden,),
                   at + "self_attn.q_proj.weight": (4 * dim, hidden), at + "self_attn.k_proj.weight": (2 * dim, hidden),
                   at + "self_attn.v_proj.weight": (2 * dim, hidden), at + "self_attn.o_proj.weight": (hidden, 4 * dim),
                   at + "mlp.gate_proj.weight": (ff, hidden), at + "mlp.up_proj.weight": (ff, hidden),
                   at + "mlp.down_proj.weight": (hidden, ff)}
    header, data = {}, b""
    for name, shape in shapes.items():
        x = rng.normal(size=shape) / np.sqrt(shape[-1]) * 1.5 if len(shape) == 2 else 1 + 0.1 * rng.normal(size=shape)
        raw = x.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)
    (folder / "config.json").write_text(json.dumps(WINDOW_CONFIG, indent=1) + "\n")


def read_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    weights = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32"
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            weights[name] = np.frombuffer(data[begin:end], "<f4").astype(float).reshape(entry["shape"])
    return weights


# ---- the model ----

class Model:
    def __init__(self, folder):
        self.config, self.w = json.loads((folder / "config.json").read_text()), read_weights(folder)
        c = self.config
        self.layers, self.heads, self.kv_heads = (c[k] for k in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))
        self.dim, self.window = c["head_dim"], c.get("sliding_window")
        self.skips, self.maps = {}, {}

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def bias(self, name):
        return self.w.get(name + ".bias", 0)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * self.w[name + ".weight"]

    def turns(self, tokens):
        """R [token][dim][dim]: y = R x."""
        half = self.dim // 2
        angle = np.arange(tokens)[:, None] * self.config.get("rope_theta", 10000.0) ** (-np.arange(half) / half)
        turns = np.zeros((tokens, self.dim, self.dim))
        for i in range(half):
            turns[:, i, i] = turns[:, i + half, i + half] = np.cos(angle[:, i])
            turns[:, i, i + half], turns[:, i + half, i] = -np.sin(angle[:, i]), np.sin(angle[:, i])
        return turns

    def visible(self, tokens):
        t, s = np.arange(tokens)[:, None], np.arange(tokens)
        return (s <= t) & ((t - s < self.window) if self.window else True)

    def split(self, x, heads):
        return x.reshape(*x.shape[:2], heads, self.dim).transpose(0, 2, 1, 3)

    def keys(self, h, layer):
        """Rotated K, and V, of all query heads: [sequence][head][token][dim]."""
        at = f"model.layers.{layer}."
        x = self.norm(h, at + "input_layernorm")
        k = self.split(self.linear(x, at + "self_attn.k_proj"), self.kv_heads)
        v = self.split(self.linear(x, at + "self_attn.v_proj"), self.kv_heads)
        k = np.einsum("tij,nhtj->nhti", self.turns(h.shape[1]), k)
        return np.repeat(k, self.heads // self.kv_heads, 1), np.repeat(v, self.heads // self.kv_heads, 1)

    def queries(self, h, layer):
        """Before bias and rotation."""
        at = f"model.layers.{layer}."
        return self.split(self.norm(h, at + "input_layernorm") @ self.w[at + "self_attn.q_proj.weight"].T, self.heads)

    def turned(self, z, layer):
        bias = self.bias(f"model.layers.{layer}.self_attn.q_proj")
        return np.einsum("tij,nhtj->nhti", self.turns(z.shape[2]), z + np.reshape(bias, (-1, 1, self.dim)) if np.ndim(bias) else z)

    def weights_of(self, scores, rows=slice(None)):
        scores = np.where(self.visible(scores.shape[-1])[rows], scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    def heads_out(self, h, layer, k, v):
        if layer in self.maps:
            return np.zeros((*h.shape[:2], self.heads * self.dim))
        scores = self.turned(self.queries(h, layer), layer) @ k.transpose(0, 1, 3, 2) / np.sqrt(self.dim)
        out = self.weights_of(scores) @ v
        return out.transpose(0, 2, 1, 3).reshape(*h.shape[:2], -1)

    def gated(self, middle, layer):
        at = f"model.layers.{layer}."
        y = self.norm(middle, at + "post_attention_layernorm")
        gate = self.linear(y, at + "mlp.gate_proj")
        return gate / (1 + np.exp(-gate)) * self.linear(y, at + "mlp.up_proj")

    def skipped(self, h, layer):
        x = self.norm(h, f"model.layers.{layer}.input_layernorm")
        if layer in self.maps:
            return x @ self.maps[layer].T
        if layer not in self.skips:
            return 0
        a, b = self.skips[layer]
        return x @ a.T @ b.T

    def layer(self, h, layer, k, v):
        at = f"model.layers.{layer}."
        middle = h + self.linear(self.heads_out(h, layer, k, v), at + "self_attn.o_proj") + self.skipped(h, layer)
        return middle, middle + self.linear(self.gated(middle, layer), at + "mlp.down_proj")

    def loss(self, windows, targets, owners):
        h, kv = self.w["model.embed_tokens.weight"][windows], {}
        for layer in range(self.layers):
            if owners[layer] == layer:
                kv[layer] = self.keys(h, layer)
            h = self.layer(h, layer, *kv[owners[layer]])[1]
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        logits = self.norm(h, "model.norm") @ head.T
        top = logits.max(-1, keepdims=True)
        q = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        return float(-np.take_along_axis(q, targets[..., None], -1).mean())


# ---- fits ----

def ridge_fit(x, t, old, strengths, pull, held):
    """x [sequence][token][cols], t [sequence][token][outs]; None if the old matrix is the best for the held sequences. Also the
    strength, and the error that is left on the held sequences. Pulls are tried from the strongest, until one does not help."""
    def solve(x, t, strength):
        x, t = x.reshape(-1, x.shape[-1]), t.reshape(-1, t.shape[-1])
        t = t - x @ old.T if pull else t
        rows = np.sqrt(strength * (x * x).sum(0).mean()) * np.eye(x.shape[1])
        w = np.linalg.lstsq(np.vstack((x, rows)), np.vstack((t, np.zeros((x.shape[1], t.shape[1])))), rcond=None)[0].T
        return w + old if pull else w

    def error(w):
        return ((t[held] - x[held] @ w.T) ** 2).sum()

    least, best = error(old), None
    for strength in strengths:
        now = error(solve(x[~held], t[~held], strength))
        if now < least:
            least, best = now, strength
        elif pull:
            break
    return (None if best is None else solve(x, t, best)), best, least


def skip_fit(f, x, t, rank, strengths, held, limit):
    """W_o, a, b and the strength; None if they leave `limit` or more on the held sequences."""
    def solve(f, x, t, strength):
        f, x, t = (y.reshape(-1, y.shape[-1]) for y in (f, x, t))
        (n, cols), hidden = f.shape, x.shape[1]
        ridges = [np.sqrt(strength * (y * y).sum(0).mean()) * np.eye(y.shape[1]) for y in (f, x)]
        f = np.vstack((f, ridges[0], np.zeros((hidden, cols))))
        x = np.vstack((x, np.zeros((cols, hidden)), ridges[1]))
        t = np.vstack((t, np.zeros((cols + hidden, t.shape[1]))))
        full = np.linalg.lstsq(np.hstack((f, x)), t, rcond=None)[0].T[:, cols:]
        rest = x - f @ np.linalg.lstsq(f, x, rcond=None)[0]
        b = np.linalg.svd(rest @ full.T, full_matrices=False)[2][:rank].T
        a = b.T @ full
        return np.linalg.lstsq(f, t - x @ a.T @ b.T, rcond=None)[0].T, a, b

    def error(w, a, b):
        return ((t[held] - f[held] @ w.T - x[held] @ a.T @ b.T) ** 2).sum()

    errors = [error(*solve(f[~held], x[~held], t[~held], s)) for s in strengths]
    best = int(np.argmin(errors))
    if errors[best] >= limit:
        return None
    return *solve(f, x, t, strengths[best]), strengths[best]


class Queries:
    """One head's fit: z, the wanted scores and their weights, the owner's keys."""
    def __init__(self, model, z, scores, keys, layer, head, held):
        tokens = keys.shape[1]
        self.rows = np.arange(STRIDE - 1, tokens, STRIDE)
        self.model, self.held, self.dim = model, held, model.dim
        self.turn, self.z, self.k = model.turns(tokens)[self.rows], z[:, self.rows], keys
        self.s = scores[:, self.rows]
        self.p = model.weights_of(self.s, self.rows)
        bias = model.bias(f"model.layers.{layer}.self_attn.q_proj")
        self.b = np.reshape(bias, (-1, self.dim))[head] if np.ndim(bias) else np.zeros(self.dim)
        self.queries = (~held).sum() * len(self.rows)

    def scores(self, a, bias):
        y = self.z @ a.T + (self.b if bias else 0)
        return np.einsum("tij,ntj,nsi->nts", self.turn, y, self.k) / np.sqrt(self.dim)

    def changed(self, a):
        return self.model.weights_of(self.scores(a, True), self.rows)

    def back(self, e):
        e = np.where(self.model.visible(self.k.shape[1])[self.rows], e, 0)[~self.held]
        g = np.einsum("nts,nsi,tij->ntj", e, self.k[~self.held], self.turn) / np.sqrt(self.dim)
        return np.einsum("nti,ntj->ij", g, self.z[~self.held]) / self.queries

    def centred(self, e, p):
        e = np.where(p > 0, e, 0)
        return p * (e - (p * e).sum(-1, keepdims=True))

    def divergence(self, a):
        p, q = self.p[self.held], self.changed(a)[self.held]
        return float(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(np.where(q > 0, q, 1))), 0).sum() / p[..., 0].size)

    def prepare(self):
        count, rows = len(self.rows), []
        for i in range(1, 9):
            rows.append(max(i * count // 8 - 1, 0) if i * count >= 8 else i * count // 8)
        c = np.zeros((self.dim, self.dim))
        fitted = np.flatnonzero(~self.held)
        for n in fitted:
            for row in rows:
                p, k = self.p[n, row], self.k[n] @ self.turn[row]
                c += (k.T * p) @ k - np.outer(p @ k, p @ k)
        c /= len(fitted) * len(rows) * self.dim
        zz = np.einsum("nti,ntj->ij", self.z[~self.held], self.z[~self.held]) / self.queries
        self.tau = 0.01 * np.diag(c).mean() * np.diag(zz).mean()
        self.c1 = np.linalg.inv(c + 1e-2 * np.diag(c).mean() * np.eye(self.dim))
        self.z1 = np.linalg.inv(zz + 1e-3 * np.diag(zz).mean() * np.eye(self.dim))

    def solve(self, right, p, steps):
        x, r = np.zeros_like(right), right.copy()
        m = self.c1 @ r @ self.z1
        d, product = m, (r * m).sum()
        for _ in range(steps):
            ad = self.back(self.centred(self.scores(d, False), p)) + self.tau * d
            step = product / (d * ad).sum()
            x, r = x + step * d, r - step * ad
            m = self.c1 @ r @ self.z1
            product, before = (r * m).sum(), product
            d = m + product / before * d
        return x

    def fit(self, steps=3):
        self.prepare()
        one = np.eye(self.dim)
        a = self.solve(self.back(self.centred(self.s - self.scores(np.zeros_like(one), True), self.p)), self.p, 8)
        before, kl = self.divergence(one), self.divergence(a)
        if kl >= before:
            a, kl = one, before
        for _ in range(steps):
            q = self.changed(a)
            step = self.solve(self.back(self.p - q) - self.tau * a, (self.p + q) / 2, 5)
            for length in (1, 0.4, 0.16):
                now = self.divergence(a + length * step)
                if now < kl:
                    a, kl = a + length * step, now
                    break
            else:
                break
        return a, before, kl


# ---- the walk ----

def compensate(model, samples, owners, rank):
    held = np.arange(len(samples)) % 4 == 3
    first = next(l for l in range(model.layers) if owners[l] != l)
    original = Model.__new__(Model)
    original.__dict__.update(model.__dict__, w=dict(model.w), skips={}, maps={})
    h = g = model.w["model.embed_tokens.weight"][samples]
    kv, results = {}, []

    def put(layer, part, new, **figures):
        name = f"model.layers.{layer}.{part}.weight"
        model.w[name] = new.astype(np.float32).astype(float)
        results.append({"name": name, "norm": float(np.linalg.norm(new)), **figures,
                        "rows": {str(r): [round(float(v), 8) for v in new[r]] for r in ROWS}})

    def tell_product(layer, product, before, after):
        for half in "ab":
            results.append({"name": f"model.layers.{layer}.self_attn.skip_{half}.weight", "before": before, "after": after})
        results[-1] |= {"norm": float(np.linalg.norm(product)), "rows": {str(r): [round(float(v), 8) for v in product[r]] for r in ROWS}}

    def put_skip(layer, a, b, before, after):
        model.skips[layer] = a, b = tuple(y.astype(np.float32).astype(float) for y in (a, b))
        tell_product(layer, b @ a, before, after)

    def put_map(layer, x, t):
        new, strength, _ = ridge_fit(x, t, np.zeros((t.shape[-1], x.shape[-1])), OUTPUTS, False, held)
        before, after = (float(((t - y) ** 2).mean()) for y in (0, x @ new.T))
        name = f"model.layers.{layer}.self_attn.o_proj"
        put(layer, "self_attn.o_proj", np.zeros_like(model.w[name + ".weight"]), strength=strength, before=before, after=after)
        model.maps[layer] = new.astype(np.float32).astype(float)
        tell_product(layer, new, before, after)

    for layer in range(model.layers):
        at, borrows = f"model.layers.{layer}.", owners[layer] != layer
        own = original.keys(g, layer)
        middle, up = original.layer(g, layer, *own)
        if not borrows:
            kv[layer] = model.keys(h, layer)
        keys, values = kv[owners[layer]]
        if borrows and rank != LINEAR:
            z, w = model.queries(h, layer), model.w[at + "self_attn.q_proj.weight"].copy()
            scores = original.turned(original.queries(g, layer), layer) @ own[0].transpose(0, 1, 3, 2) / np.sqrt(model.dim)
            kl = np.zeros(2)
            for head in range(model.heads):
                a, before, after = Queries(model, z[:, head], scores[:, head], keys[:, head], layer, head, held).fit()
                w[head * model.dim:][:model.dim] = a @ w[head * model.dim:][:model.dim]
                kl += np.array((before, after)) / model.heads
            put(layer, "self_attn.q_proj", w, before=float(kl[0]), after=float(kl[1]))
        name = at + "self_attn.o_proj"
        if borrows and rank == LINEAR:
            put_map(layer, model.norm(h, at + "input_layernorm"), middle - h - model.bias(name))
        f, t = model.heads_out(h, layer, keys, values), middle - h - model.bias(name)
        if layer >= first and layer not in model.maps:
            old = model.w[name + ".weight"]
            new, strength, left = ridge_fit(f, t, old, OUTPUTS if borrows else OTHERS, not borrows, held)
            x, both = model.norm(h, at + "input_layernorm"), None
            before, alone = (float(((t - f @ w.T) ** 2).mean()) for w in (old, old if new is None else new))
            if borrows and rank:
                both = skip_fit(f, x, t, rank, OUTPUTS, held, left)
            if both:
                new, a, b, strength = both
                after = float(((t - f @ new.T - x @ a.T @ b.T) ** 2).mean())
                put(layer, "self_attn.o_proj", new, strength=strength, before=before, after=after)
                put_skip(layer, a, b, alone, after)
            elif new is not None:
                put(layer, "self_attn.o_proj", new, strength=strength, before=before, after=alone)
        if layer >= first:
            reached = h + model.linear(f, name) + model.skipped(h, layer)
            name = at + "mlp.down_proj"
            x, t = model.gated(reached, layer), up - reached - model.bias(name)
            old = model.w[name + ".weight"]
            new, strength, _ = ridge_fit(x, t, old, OTHERS, True, held)
            if new is not None:
                put(layer, "mlp.down_proj", new, strength=strength, before=float(((t - x @ old.T) ** 2).mean()),
                    after=float(((t - x @ new.T) ** 2).mean()))
        h, g = model.layer(h, layer, keys, values)[1], up
    return results


# ---- single pairs, on the original's residual ----

def fit_pair(model, h, middle, layer, own, kv, held):
    """W_q and W_o of `layer` reading kv, fitted on the other sequences; the part of the attention's sum that stays an error."""
    at = f"model.layers.{layer}.self_attn."
    z, w = model.queries(h, layer), model.w[at + "q_proj.weight"].copy()
    scores = model.turned(z, layer) @ own[0].transpose(0, 1, 3, 2) / np.sqrt(model.dim)
    for head in range(model.heads):
        a = Queries(model, z[:, head], scores[:, head], kv[0][:, head], layer, head, held).fit(1)[0]
        w[head * model.dim:][:model.dim] = a @ w[head * model.dim:][:model.dim]
    fitted = Model.__new__(Model)
    fitted.__dict__.update(model.__dict__, w={**model.w, at + "q_proj.weight": w.astype(np.float32).astype(float)})
    f, t = fitted.heads_out(h, layer, *kv), middle - h - model.bias(at + "o_proj")
    def solve(strength):
        x = f[~held].reshape(-1, f.shape[-1])
        rows = np.sqrt(strength * (x * x).sum(0).mean()) * np.eye(x.shape[1])
        return np.linalg.lstsq(np.vstack((x, rows)), np.vstack((t[~held].reshape(len(x), -1), np.zeros((len(rows), t.shape[-1])))),
                               rcond=None)[0].T

    tried = [model.w[at + "o_proj.weight"]] + [solve(strength) for strength in OUTPUTS]
    o = min(tried, key=lambda o: ((t - f @ o.T)[held] ** 2).sum())
    fitted.w[at + "o_proj.weight"] = o.astype(np.float32).astype(float)
    return fitted, float(((t - f @ o.T)[held] ** 2).sum() / (t[held] ** 2).sum())


def log_probabilities(model, h):
    head = model.w.get("lm_head.weight", model.w["model.embed_tokens.weight"])
    logits = model.norm(h, "model.norm") @ head.T
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cost_pairs(model, samples):
    """For each layer its owners, the three below and layer 0, and the KL of the model with the best of them."""
    held = np.arange(len(samples)) % 4 == 3
    h, kv, inputs, pairs = model.w["model.embed_tokens.weight"][samples], [], [], []
    for layer in range(model.layers):
        inputs.append(h)
        kv.append(model.keys(h, layer))
        h = model.layer(h, layer, *kv[layer])[1]
    p = log_probabilities(model, h[held])
    for layer in range(1, model.layers):
        middle = model.layer(inputs[layer], layer, *kv[layer])[0]
        owners = [o for o in (layer - 1, layer - 2, layer - 3) if o >= 0] + ([0] if layer > 3 else [])
        fits = [fit_pair(model, inputs[layer], middle, layer, kv[layer], kv[o], held) for o in owners]
        best = int(np.argmin([left for _, left in fits]))
        g = fits[best][0].layer(inputs[layer][held], layer, *(x[held] for x in kv[owners[best]]))[1]
        for above in range(layer + 1, model.layers):
            g = model.layer(g, above, *model.keys(g, above))[1]
        q = log_probabilities(model, g)
        pairs.append({"layer": layer, "owners": owners, "left": [left for _, left in fits], "best": owners[best],
                      "kl": float((np.exp(p) * (p - q)).sum(-1).mean())})
    return pairs


def make_pairs(cases):
    """tests/golden/calib/pairs.json, on the texts of the first two cases."""
    made = []
    for case in cases[:2]:
        model, count, tokens = Model(HERE.parent.parent / case["model"]), case["samples"], case["tokens"]
        pairs = cost_pairs(model, np.array(case["ids"][:count * tokens]).reshape(count, tokens))
        made.append({key: case[key] for key in ("model", "samples", "tokens", "windows", "ids")} | {"pairs": pairs})
    (HERE / "calib" / "pairs.json").write_text(json.dumps({"numpy": np.__version__, "cases": made}) + "\n")


def main():
    make_window_model(HERE / "calib" / "compensation-window")
    cases = []
    for folder, owners, count, tokens, rank in CASES:
        model = Model(HERE / folder)
        ids = np.random.default_rng(11).integers(0, model.config["vocab_size"], count * tokens + WINDOWS * tokens + 1)
        samples, rest = ids[:count * tokens].reshape(count, tokens), ids[count * tokens:]
        windows, targets = rest[:-1].reshape(WINDOWS, tokens), rest[1:].reshape(WINDOWS, tokens)
        full, plain = (model.loss(windows, targets, o) for o in (range(model.layers), owners))
        matrices = compensate(model, samples, owners, rank)
        losses = {"full": full, "plain": plain, "compensated": model.loss(windows, targets, owners)}
        cases.append({"model": "tests/golden/" + folder, "owners": owners, "samples": count, "tokens": tokens,
                      "skip": 0 if rank == LINEAR else rank, "linear": rank == LINEAR,
                      "windows": WINDOWS, "ids": ids.tolist(), "matrices": matrices, "nll": losses})
        print(folder, losses, [(m["name"], m["before"], m["after"], m.get("strength")) for m in matrices])
    make_pairs(cases)
    (HERE / "calib" / "compensation.json").write_text(json.dumps({"numpy": np.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
