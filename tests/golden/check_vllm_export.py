#!/usr/bin/env python3
"""Checks tests/golden/exports/vllm-shared.py, which `kvshare-run plan convert --to vllm` made, without vLLM.

A stand-in takes the place of vLLM's Attention: the parameters of its constructor and what it refuses (a target that is not
there yet, or a name twice) are those of vllm/attention/layer.py, commit 004a5da0, and of
vllm/model_executor/layers/attention/attention.py, commit 0014ca6b. What a real vLLM does with the argument is not checked.

Last run on 2026-11-23, Python 3.11: passed. Needs nothing but Python:
    python3 tests/golden/check_vllm_export.py
"""
import importlib.util
import os
import pathlib
import sys
import types

EXPORT = pathlib.Path(__file__).parent / "exports" / "vllm-shared.py"
OWNERS = [0, 1, 0, 3, 1, 3]
MODULES = {"2025": "vllm.attention.layer", "2026": "vllm.model_executor.layers.attention.attention"}


def make_attention(with_sharing=True):
    built = {}

    class Attention:
        def __init__(self, num_heads, head_size, scale, num_kv_heads=None, alibi_slopes=None, cache_config=None,
                     quant_config=None, logits_soft_cap=None, per_layer_sliding_window=None, prefix="",
                     attn_type="decoder", kv_sharing_target_layer_name=None, attn_backend=None, **extra_impl_args):
            if prefix in built or (kv_sharing_target_layer_name and kv_sharing_target_layer_name not in built):
                raise ValueError(f"{prefix}: {kv_sharing_target_layer_name}")
            built[prefix] = self
            self.kv_sharing_target_layer_name = kv_sharing_target_layer_name

    class Old:
        def __init__(self, num_heads, head_size, scale, prefix=""):
            pass

    return Attention if with_sharing else Old


def install(module_name, attention, layers):
    """A vllm package with nothing in it but what a plug-in for sharing needs."""
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]
    parts = module_name.split(".")
    for i in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:i]))
        module.__path__ = []
        sys.modules[module.__name__] = module
    sys.modules[module_name].Attention = attention
    text_config = types.SimpleNamespace(num_hidden_layers=layers)
    config = types.ModuleType("vllm.config")
    config.get_current_vllm_config = lambda: types.SimpleNamespace(
        model_config=types.SimpleNamespace(hf_text_config=text_config))
    sys.modules["vllm.config"] = config


def load_export():
    spec = importlib.util.spec_from_file_location("export", EXPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(attention, head, layers=len(OWNERS)):
    return [attention(8, 64, 0.125, num_kv_heads=2, prefix=f"{head}layers.{i}.self_attn.attn") for i in range(layers)]


def refused(call, error, words):
    try:
        call()
    except error as caught:
        assert words in str(caught), caught
        return
    raise AssertionError(f"not refused: {words}")


def main():
    for module_name in MODULES.values():
        attention = make_attention()
        install(module_name, attention, len(OWNERS))
        load_export().register()
        load_export().register()  # vLLM may call it again
        for head in "model.", "language_model.model.":
            for i, layer in enumerate(build(attention, head)):
                target = None if OWNERS[i] == i else f"{head}layers.{OWNERS[i]}.self_attn.attn"
                assert layer.kv_sharing_target_layer_name == target, (i, layer.kv_sharing_target_layer_name)
        assert attention(8, 64, 1.0, prefix="visual.blocks.2.attn").kv_sharing_target_layer_name is None
        own = attention(8, 64, 1.0, prefix="other.model.layers.2.self_attn.attn",
                        kv_sharing_target_layer_name="model.layers.1.self_attn.attn")
        assert own.kv_sharing_target_layer_name == "model.layers.1.self_attn.attn"  # the model knows better

    for layers in 4, 8:
        attention = make_attention()
        install(MODULES["2026"], attention, layers)
        load_export().register()
        refused(lambda: build(attention, "model.", layers), ValueError, f"plan has 6 layers, the model has {layers}")

    install(MODULES["2025"], make_attention(with_sharing=False), 6)
    refused(load_export().register, RuntimeError, "0.9.1 or newer")
    install(MODULES["2026"], make_attention(), 6)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    refused(load_export().register, RuntimeError, "unset VLLM_USE_V2_MODEL_RUNNER")
    print("vllm export: passed")


if __name__ == "__main__":
    main()
