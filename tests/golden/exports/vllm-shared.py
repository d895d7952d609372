"""A plug-in that has vLLM share KV caches between layers as a kvshare plan says.

Made by `kvshare-run plan convert --to vllm -o kvshare_plan.py`. Install it with a pyproject.toml beside it,

    [project]
    name = "kvshare-plan"
    version = "1"
    [project.entry-points."vllm.general_plugins"]
    kvshare_plan = "kvshare_plan:register"
    [tool.setuptools]
    py-modules = ["kvshare_plan"]

by `pip install .`; vLLM then calls register() in each of its processes before it builds a model. It is in force for every
model that vLLM loads while the package is installed and VLLM_PLUGINS, if set, names it; a model with another number of
layers is refused.

For vLLM 0.9.1 and newer with the V1 model runner: Attention takes kv_sharing_target_layer_name, and get_kv_cache_spec() of
the runner gives a layer that has it no cache of its own. Written against vllm/attention/layer.py (commit 004a5da0, 2025) and
vllm/model_executor/layers/attention/attention.py (commit 0014ca6b, 2026); it has not been run inside vLLM. The argument is
added when a layer is built, not set on the layer afterwards: older backends keep a copy of it, and only the constructor
checks it. Runner V2 (VLLM_USE_V2_MODEL_RUNNER=1) did not know it (vLLM pull request 43185), so it is refused here.

What shows that it works: vLLM's line "GPU KV cache size" grows by layers / owners. Owner and borrower must be on the same
pipeline stage, which vLLM checks. K and V of layers that share are computed still: memory is saved, not arithmetic. vLLM's
cache of compiled graphs may not see that the plan has changed: set VLLM_DISABLE_COMPILE_CACHE=1 after changing it.
"""
import functools
import inspect
import os
import re

OWNERS = [0, 1, 0, 3, 1, 3]  # the layer whose K and V each layer reads

# As Llama, Mistral, Qwen2 and Qwen3 name their attention, alone or as the language part of another model.
LAYER_NAME = re.compile(r"((?:.*\.)?model\.layers\.)(\d+)(\.self_attn\.attn)")


def target_name(name):
    """The layer that `name` borrows from, or None where it owns its cache or is no decoder layer."""
    match = LAYER_NAME.fullmatch(name)
    if not match:
        return None
    layer = int(match[2])
    if layer >= len(OWNERS):
        raise ValueError(f"kvshare: {name} is outside the plan, which has {len(OWNERS)} layers")
    return None if OWNERS[layer] == layer else f"{match[1]}{OWNERS[layer]}{match[3]}"


def check_model():
    from vllm.config import get_current_vllm_config

    layers = get_current_vllm_config().model_config.hf_text_config.num_hidden_layers
    if layers != len(OWNERS):
        raise ValueError(f"kvshare: the plan has {len(OWNERS)} layers, the model has {layers}")


def register():
    """Called by vLLM, maybe more than once in a process."""
    try:
        from vllm.model_executor.layers.attention.attention import Attention
    except ImportError:  # before 2026
        from vllm.attention.layer import Attention
    if getattr(Attention, "kvshare_plan", None):
        return
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") not in ("", "0"):
        raise RuntimeError("kvshare: vLLM's model runner V2 does not share caches: unset VLLM_USE_V2_MODEL_RUNNER")
    build = Attention.__init__
    signature = inspect.signature(build)
    if "kv_sharing_target_layer_name" not in signature.parameters:
        raise RuntimeError("kvshare: this vLLM's Attention has no kv_sharing_target_layer_name: 0.9.1 or newer is needed")

    @functools.wraps(build)
    def build_shared(self, *args, **kwargs):
        arguments = signature.bind(self, *args, **kwargs).arguments
        target = target_name(arguments.get("prefix", ""))
        if target and arguments.get("kv_sharing_target_layer_name") is None:
            check_model()
            kwargs["kv_sharing_target_layer_name"] = target
        build(self, *args, **kwargs)

    Attention.__init__ = build_shared
    Attention.kvshare_plan = OWNERS
