#!/usr/bin/env python3
"""Makes tests/golden/models/* (tiny random checkpoints) and tests/golden/eval/* (what Hugging Face computes with them).

Made with transformers 5.23, torch 2.15, tokenizers 0.23, safetensors, numpy on CPU, float32; rerun, from anywhere, with
    python3 -m venv venv && venv/bin/pip install torch transformers tokenizers numpy && venv/bin/python make_models.py
Everything is seeded, so that the same versions give the same files; names as arguments remake only those.

Sharing is put between RoPE and attention, by an attention function of our own that transformers calls: a layer that
borrows attends over the K or V that its owner had in the same pass. Each case is computed twice more: by `plain_forward`
below, which reads the safetensors itself and uses no model code of transformers (must agree to 1e-4 in each token; its
angles are float64, those of transformers float32), and by transformers in float64 (the float32 that is stored must be
within 5e-5 of it, so that a test against 1e-4 is fair).
"""
import json
import math
import pathlib
import shutil
import sys

import numpy
import tokenizers
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

HERE = pathlib.Path(__file__).parent
MODELS, EVAL, FIXTURE = HERE / "models", HERE / "eval", HERE.parent / "models" / "storyworld-3m"
TOKENS = 257

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 256,
         "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}

# name: config.json as it is written (old and new spellings on purpose), and in how many files the weights are.
# Windows of dynamic NTK are whole: transformers takes its theta from the longest position of a pass, the engine from ctx.
CHECKPOINTS = {
    "llama2": ({**LLAMA, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2,
                "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}, 1),
    "llama3.2": ({**LLAMA, "num_hidden_layers": 6, "head_dim": 64, "rope_theta": 500000.0, "tie_word_embeddings": True,
                  "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                   "original_max_position_embeddings": 32},
                  "eos_token_id": [3, 5], "torch_dtype": "bfloat16"}, 1),
    "llama-linear": ({**LLAMA, "head_dim": 80, "num_attention_heads": 2, "num_key_value_heads": 1,
                      "rope_scaling": {"type": "linear", "factor": 4.0}, "torch_dtype": "float16"}, 1),
    "llama-dynamic": ({**LLAMA, "head_dim": 32, "max_position_embeddings": 64,
                       "rope_scaling": {"type": "dynamic", "factor": 2.0}, "torch_dtype": "bfloat16"}, 1),
    "llama-yarn": ({**LLAMA, "head_dim": 96, "num_attention_heads": 2, "max_position_embeddings": 256,
                    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
                                        "rope_theta": 10000.0}, "dtype": "bfloat16"}, 1),
    "llama-bias": ({**LLAMA, "head_dim": 32, "attention_bias": True, "mlp_bias": True, "torch_dtype": "float32"}, 1),
    "mistral": ({**MISTRAL, "head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 24,
                 "torch_dtype": "bfloat16"}, 1),
    "qwen2": ({**QWEN2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
               "use_sliding_window": False, "sliding_window": 16, "max_window_layers": 2, "rope_theta": 1000000.0,
               "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, 3),
    "qwen2-window": ({**QWEN2, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
                      "num_hidden_layers": 6, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3,
                      "torch_dtype": "float16"}, 1),
    "qwen3": ({**QWEN3, "hidden_size": 48, "head_dim": 32, "rope_theta": 1000000.0, "tie_word_embeddings": True,
               "torch_dtype": "bfloat16"}, 1),
    "qwen3-yarn": ({**QWEN3, "head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "use_sliding_window": True,
                    "sliding_window": 32, "max_position_embeddings": 512,
                    "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
                    "rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
                                        "rope_theta": 10000.0, "beta_fast": 24.0, "beta_slow": 2.0, "truncate": False,
                                        "attention_factor": 1.25}, "dtype": "bfloat16"}, 1),
}
WINDOWS = {"llama-dynamic": (64, 128, 256)}

PLANS = {  # by layers: (K owners, V owners)
    4: {"shared": ([0, 1, 0, 1], [0, 1, 0, 1]), "k-only": ([0, 0, 2, 2], [0, 1, 2, 3]),
        "split": ([0, 1, 1, 3], [0, 0, 2, 0])},
    6: {"shared": ([0, 1, 0, 3, 1, 3], [0, 1, 0, 3, 1, 3]), "v-only": ([0, 1, 2, 3, 4, 5], [0, 1, 1, 0, 4, 1]),
        "split": ([0, 0, 2, 3, 2, 5], [0, 1, 1, 3, 4, 3])},
}
FIXTURE_OWNERS = [0, 1, 2, 3, 4, 5, 2, 7, 8, 3, 10, 11, 1, 13, 5, 15]
FIXTURE_SPLIT = ([0, 1, 2, 3, 4, 2, 6, 7, 8, 9, 10, 4, 12, 13, 9, 15], [0, 1, 2, 3, 4, 5, 6, 7, 3, 9, 5, 11, 12, 13, 14, 11])


# ---- sharing in transformers ----

class Sharing:
    """The owners in force, and the K and V that each layer has computed in this pass."""
    owners = None
    keys, values = {}, {}


def shared_attention(module, query, key, value, mask, **kwargs):
    layer = module.layer_idx
    Sharing.keys[layer], Sharing.values[layer] = key, value
    if Sharing.owners:
        key, value = Sharing.keys[Sharing.owners[0][layer]], Sharing.values[Sharing.owners[1][layer]]
    return eager_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register("kvs_shared", shared_attention)
AttentionMaskInterface.register("kvs_shared", eager_mask)


def load(directory, dtype, attention="kvs_shared"):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention).eval()


def hf_logits(model, ids, owners):
    Sharing.owners = owners
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


# ---- the same from the safetensors alone ----

def plain_frequencies(config, positions):
    """Angle per position of each pair, and the amplitude of cos and sin, in float64 from the papers' formulas."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor", 1.0)
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    dim, longest = head_dim(config), config["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings", longest)
    if kind == "dynamic" and positions > longest:
        theta *= (factor * positions / longest - (factor - 1)) ** (dim / (dim - 2))
    base = [theta ** (-2.0 * pair / dim) for pair in range(dim // 2)]
    if kind == "linear":
        return [f / factor for f in base], 1.0
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        blend = [min(max((original * f / (2 * math.pi) - low) / (high - low), 0.0), 1.0) for f in base]
        return [b * f + (1 - b) * f / factor for b, f in zip(blend, base)], 1.0
    if kind == "yarn":
        def pair_of(turns):
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        first, last = pair_of(rope.get("beta_fast", 32)), pair_of(rope.get("beta_slow", 1))
        if rope.get("truncate", True):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        ramp = [min(max((pair - first) / (last - first), 0.0), 1.0) for pair in range(dim // 2)]
        return [f / factor * r + f * (1 - r) for r, f in zip(ramp, base)], \
            rope.get("attention_factor", 0.1 * math.log(factor) + 1)
    return base, 1.0


def head_dim(config):
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def plain_window(config, layer):
    """Tokens that the layer sees, its own among them."""
    if config["model_type"] == "mistral":
        return config["sliding_window"]
    slides = config.get("use_sliding_window", False)
    if slides and "layer_types" in config:
        slides = config["layer_types"][layer] == "sliding_attention"
    elif slides:
        slides = layer >= config["max_window_layers"]
    return config["sliding_window"] if slides else 1 << 30


def plain_norm(x, gain, config):
    return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * gain


def plain_forward(config, weights, ids, owners):
    heads, kv_heads, dim, tokens = config["num_attention_heads"], config.get("num_key_value_heads"), head_dim(config), len(ids)
    frequencies, amplitude = plain_frequencies(config, tokens)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    cos, sin = (angles.cos() * amplitude)[:, None], (angles.sin() * amplitude)[:, None]
    steps = torch.arange(tokens)[:, None] - torch.arange(tokens)

    def linear(name, x):
        out = x @ weights[name + ".weight"].T
        return out + weights[name + ".bias"] if name + ".bias" in weights else out

    def rotate(x):
        a, b = x[..., :dim // 2], x[..., dim // 2:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def head_norm(x, name):
        return plain_norm(x, weights[name], config) if name in weights else x

    x, keys, values = weights["model.embed_tokens.weight"][torch.tensor(ids)], [], []
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = plain_norm(x, weights[at + "input_layernorm.weight"], config)
        q = linear(at + "self_attn.q_proj", y).view(tokens, heads, dim)
        k = linear(at + "self_attn.k_proj", y).view(tokens, kv_heads, dim)
        keys.append(rotate(head_norm(k, at + "self_attn.k_norm.weight")))
        values.append(linear(at + "self_attn.v_proj", y).view(tokens, kv_heads, dim))
        q = rotate(head_norm(q, at + "self_attn.q_norm.weight"))
        k, v = keys[owners[0][layer]], values[owners[1][layer]]
        hidden = (steps < 0) | (steps >= plain_window(config, layer))
        parts = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            scores = (q[:, head] @ k[:, kv].T / math.sqrt(dim)).masked_fill(hidden, -math.inf)
            parts.append(scores.softmax(-1) @ v[:, kv])
        x = x + linear(at + "self_attn.o_proj", torch.cat(parts, -1))
        y = plain_norm(x, weights[at + "post_attention_layernorm.weight"], config)
        gate = linear(at + "mlp.gate_proj", y)
        x = x + linear(at + "mlp.down_proj", gate * gate.sigmoid() * linear(at + "mlp.up_proj", y))
    head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return plain_norm(x, weights["model.norm.weight"], config) @ weights[head].T


def read_weights(directory):
    weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            weights.update({name: tensors.get_tensor(name).double() for name in tensors.keys()})
    return weights


# ---- evaluation, as `kvshare-run eval` defines it ----

def evaluate(logits_of, ids, ctx):
    """Window k predicts tokens k*ctx+1 .. k*ctx+ctx from a fresh cache that starts at token k*ctx."""
    nll, top, margin = [], [], []
    for start in range(0, len(ids) - 1, ctx):
        window = ids[start:start + ctx]
        targets = torch.tensor(ids[start + 1:start + ctx + 1])
        logits = logits_of(window[:len(targets)]).double()
        nll += (-logits.log_softmax(-1)[torch.arange(len(targets)), targets]).tolist()
        best = logits.topk(2)
        top += best.indices[:, 0].tolist()
        margin += (best.values[:, 0] - best.values[:, 1]).tolist()
    return numpy.array(nll), top, margin


def worst(a, b):
    return float(numpy.abs(a - b).max())


def make_case(models, config, weights, ids, ctx, name, owners):
    identity = list(range(config["num_hidden_layers"]))
    nll, top, margin = evaluate(lambda window: hf_logits(models["f32"], window, owners), ids, ctx)
    exact, _, _ = evaluate(lambda window: hf_logits(models["f64"], window, owners), ids, ctx)
    plain, _, _ = evaluate(lambda window: plain_forward(config, weights, window, owners or (identity, identity)), ids, ctx)
    rounding, plainly = worst(nll, exact), worst(nll, plain)
    assert rounding < 5e-5 and plainly < 1e-4, (name, ctx, rounding, plainly)
    if not owners:
        eager, _, _ = evaluate(lambda window: hf_logits(models["eager"], window, None), ids, ctx)
        assert worst(nll, eager) == 0, "transformers' own attention differs from ours without sharing"
    print(f"  {name:7} ctx {ctx:4}: nll {nll.mean():.4f}, float64 within {rounding:.1e}, plain within {plainly:.1e}, "
          f"smallest margin {min(margin):.1e}")
    k, v = owners or (identity, identity)
    return {"plan": name, "ctx": ctx, "k_owners": k, "v_owners": v, "mean_nll": round(float(nll.mean()), 8),
            "nll": [round(x, 6) for x in nll.tolist()], "top": top, "margin": [round(x, 4) for x in margin]}


def open_models(directory):
    return {"f32": load(directory, torch.float32), "f64": load(directory, torch.float64),
            "eager": load(directory, torch.float32, "eager")}


def write_eval(name, directory, ids, cases, **more):
    EVAL.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = {"model": str(directory.resolve().relative_to(HERE.parent.parent.resolve())),
            "made_with": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32",
            "ids": ids, **more}
    (EVAL / f"{name}.json").write_text(json.dumps(head)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n")


# ---- checkpoints ----

def random_weights(model, config, seed):
    """Sharp enough that attention matters: with the default 0.02 nothing in the cache would move the NLL."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            weights[name] = 1 + 0.2 * noise
        elif name.endswith("bias"):
            weights[name] = 0.3 * noise
        elif "embed" in name or "lm_head" in name:
            weights[name] = noise * 1.5 / math.sqrt(config["hidden_size"])
        elif "q_proj" in name or "k_proj" in name:
            weights[name] = noise * 1.3 / math.sqrt(parameter.shape[1])
        else:
            weights[name] = noise / math.sqrt(parameter.shape[1])
    return weights


def save_checkpoint(directory, config, weights, files):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if files == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(weights), {}
    for i in range(files):
        file = f"model-{i + 1:05}-of-{files:05}.safetensors"
        part = {name: weights[name] for name in names[i::files]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make_checkpoint(name, number):
    config, files = CHECKPOINTS[name]
    directory = MODELS / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(directory), dtype=torch.float32)
    dtype = getattr(torch, config.get("dtype") or config["torch_dtype"])
    weights = {key: value.to(dtype) for key, value in random_weights(model, config, 1000 + number).items()}
    save_checkpoint(directory, config, weights, files)
    if name == "llama3.2":  # goes before config.json's
        (directory / "generation_config.json").write_text('{"bos_token_id": 7, "eos_token_id": [9, 11, 13]}\n')
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size // 1024} KiB")

    ids = torch.randint(0, config["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(number)).tolist()
    models, plain = open_models(directory), read_weights(directory)
    plans = {"full": None, **PLANS[config["num_hidden_layers"]]}
    cases = [make_case(models, config, plain, ids, ctx, plan, owners)
             for ctx in WINDOWS.get(name, (96, 256)) for plan, owners in plans.items()]
    write_eval(name, directory, ids, cases)


# ---- the fixture ----

def generate(model, ids, owners, count, eos):
    """Greedy, a whole pass for each token: no cache that could hide a mistake."""
    ids, first, margin = list(ids), len(ids), math.inf
    while len(ids) < first + count and ids[-1] != eos:
        best = hf_logits(model, ids, owners)[-1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[first:], margin


def make_fixture():
    config = json.loads((FIXTURE / "config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(FIXTURE / "tokenizer.json"))
    ids = tokenizer.encode((FIXTURE / "heldout.txt").read_text()).ids[:1536]
    models, plain = open_models(FIXTURE), read_weights(FIXTURE)
    plans = {"full": None, "shared": (FIXTURE_OWNERS, FIXTURE_OWNERS), "split": FIXTURE_SPLIT}
    print("storyworld-3m")
    cases = [make_case(models, config, plain, ids, 256, name, owners) for name, owners in plans.items()]
    prompt, runs = "Anna put the red key", []
    prompt_ids = tokenizer.encode(prompt).ids
    for name in ("full", "shared"):
        out, margin = generate(models["f32"], prompt_ids, plans[name], 64, config["eos_token_id"])
        print(f"  {name}: {len(out)} tokens, smallest margin {margin:.1e}: {tokenizer.decode(out)!r}")
        k, v = plans[name] or (list(range(16)),) * 2
        runs.append({"plan": name, "k_owners": k, "v_owners": v, "ids": out})
    write_eval("storyworld-3m", FIXTURE, ids, cases, prompt=prompt, prompt_ids=prompt_ids, generate=runs)


def main():
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    wanted = sys.argv[1:] or [*CHECKPOINTS, "storyworld-3m"]
    for number, name in enumerate(CHECKPOINTS):
        if name in wanted:
            make_checkpoint(name, number)
    if "storyworld-3m" in wanted:
        make_fixture()


if __name__ == "__main__":
    main()
