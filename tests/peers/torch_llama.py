#!/usr/bin/env python3
"""A program of PyTorch and transformers that knows nothing of kvshare: a random Llama generates greedily from a StaticCache.

Prints one JSON object: tokens, the narrowest lead of a chosen token, what NVML says the device's memory has grown by. With
--k-owners and --v-owners layers share by patched attention: a layer that borrows reads its owner's K and V and stores none.
The cache is allocated before all else, so that no tensor of it lies in a segment that was made for something else. All steps are
given their positions and masks, which makes them capturable. shim_torch.py compares runs of it; --help has the options.
"""
import argparse
import ctypes
import inspect
import json
import os
import sys

import torch
import transformers
from transformers.cache_utils import StaticCache, StaticLayer

HEADS, KV_HEADS, HEAD, VOCAB, PROMPT = 8, 4, 64, 1024, 24
TOKEN_BYTES = KV_HEADS * HEAD * 4  # of K, and of V, in a layer


class PlanLayer(StaticLayer):
    """A layer whose K is that of the layer k_owner, and whose V is that of v_owner; None: its own."""
    k_owner = v_owner = None

    def update(self, key_states, value_states, *args, **kwargs):
        count = key_states.shape[-2]
        position = torch.arange(count, device=self.device) + self.cumulative_length
        self.cumulative_length.add_(count)
        if self.k_owner is None:
            self.keys.index_copy_(2, position, key_states)
        if self.v_owner is None:
            self.values.index_copy_(2, position, value_states)
        return (self.k_owner or self).keys, (self.v_owner or self).values


def make_cache(config, ctx, device, k_owners, v_owners):
    cache = StaticCache(config=config, max_cache_len=ctx)
    if k_owners:
        cache.layers = [PlanLayer(max_cache_len=ctx) for _ in cache.layers]
        for layer, (k_owner, v_owner) in enumerate(zip(k_owners, v_owners)):
            cache.layers[layer].k_owner = None if k_owner == layer else cache.layers[k_owner]
            cache.layers[layer].v_owner = None if v_owner == layer else cache.layers[v_owner]
    cache.early_initialization(1, KV_HEADS, HEAD, torch.float32, torch.device(device))
    return cache


def make_config(layers):
    return transformers.LlamaConfig(
        hidden_size=HEADS * HEAD, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD, vocab_size=VOCAB, max_position_embeddings=1 << 16,
        initializer_range=0.08, attn_implementation="sdpa")


def make_model(config, device):
    """Weights are drawn on the CPU, so that they are the same on every device."""
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(config).eval().to(device)


def make_prompt():
    return torch.randint(VOCAB, (1, PROMPT), generator=torch.Generator().manual_seed(11))


class Generation:
    def __init__(self, model, cache, ctx, device):
        self.model, self.cache = model, cache
        names = inspect.signature(model.forward).parameters
        self.cache_name = "cache" if "cache" in names else "past_key_values"  # its new name and its old one
        self.places = torch.arange(ctx, device=device)
        self.logits_of = self.forward
        self.leads, self.tokens = [], []

    def forward(self, ids, positions):
        mask = (self.places[None, :] <= positions[0, :, None])[None, None]
        return self.model(ids, attention_mask=mask, position_ids=positions, **{self.cache_name: self.cache}).logits[:, -1]

    def start(self, prompt):
        self.token = self.forward(prompt, self.places[None, :prompt.shape[1]]).argmax(-1)[None]
        self.position = self.places[None, prompt.shape[1]:prompt.shape[1] + 1].clone()
        self.lead = torch.zeros(1, device=self.token.device)
        self.tokens.append(self.token.item())

    def step(self):
        """All of it on the device, in buffers that stay, so that a graph can be made of it."""
        best = self.logits_of(self.token, self.position).topk(2)
        self.token.copy_(best.indices[:, :1])
        self.lead.copy_(best.values[:, 0] - best.values[:, 1])
        self.position.add_(1)

    def run(self, count, step):
        for _ in range(count):
            step()
            self.tokens.append(self.token.item())
            self.leads.append(self.lead.item())


def capture(generation):
    """The step as a graph; two steps go before it, as PyTorch wants them to, on a stream beside."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        generation.run(2, generation.step)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        generation.step()
    return graph.replay


def compiled(generation):
    call = torch.compile(generation.forward, mode="reduce-overhead")

    def logits_of(ids, positions):
        torch.compiler.cudagraph_mark_step_begin()
        return call(ids, positions).clone()

    generation.logits_of = logits_of
    return generation.step


@torch.no_grad()
def generate(model, cache, ctx, device, count, mode="eager"):
    generation = Generation(model, cache, ctx, device)
    generation.start(make_prompt().to(device))
    step = {"eager": lambda _: generation.step, "graph": capture, "compile": compiled}[mode](generation)
    generation.run(count - len(generation.tokens), step)
    return generation


def used_bytes():
    """Memory in use on the device that CUDA calls 0, from NVML; None where it cannot be asked."""
    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    device, memory = ctypes.c_void_p(), Memory()
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    name = (uuid if uuid.startswith("GPU-") else "GPU-" + uuid).encode()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(device)) or \
            nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)):
        return None
    return memory.used


def profiled(work):
    """The number of kernels that torch.profiler saw."""
    activities = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activities.CPU, activities.CUDA]) as profiler:
        generation = work()
        torch.cuda.synchronize()
    names = [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return generation, sum(not name.startswith(("Memcpy", "Memset")) for name in names)


def ipc_error(tensor):
    """What comes of handing the tensor to another process."""
    try:
        tensor.untyped_storage()._share_cuda_()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def owners(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--ctx", type=int, default=12288, help="12288: tensors of 12 MiB")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--mode", choices=["eager", "graph", "compile"], default="eager")
    parser.add_argument("--k-owners", type=owners, help="share by patched attention, as in 0,1,0,1")
    parser.add_argument("--v-owners", type=owners, help="those of V, where they differ")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--profile", action="store_true", help="generate under torch.profiler")
    parser.add_argument("--ipc", action="store_true", help="try to export the last layer's K to another process")
    options = parser.parse_args()
    if options.tokens < 4:
        parser.error("at least 4 tokens: a graph is made after the third")
    if options.device == "cpu" and (options.mode != "eager" or options.profile or options.ipc):
        parser.error("graphs, the profiler and IPC are for GPUs")
    if options.device == "cuda":
        torch.zeros(1, device="cuda")  # the context is not the cache's
        before = used_bytes()
    config = make_config(options.layers)
    cache = make_cache(config, options.ctx, options.device, options.k_owners, options.v_owners or options.k_owners)
    model = make_model(config, options.device)

    def work():
        return generate(model, cache, options.ctx, options.device, options.tokens, options.mode)

    generation, kernels = profiled(work) if options.profile else (work(), None)
    said = {"pid": os.getpid(), "tokens": generation.tokens, "narrowest_lead": min(generation.leads), "kernels": kernels}
    if options.device == "cuda":
        torch.cuda.synchronize()
        after = used_bytes()
        said["grown_bytes"] = None if before is None or after is None else after - before
        said["cudagraph_skips"] = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] if options.mode == "compile" else 0
        said["ipc_error"] = ipc_error(cache.layers[-1].keys) if options.ipc else None
    json.dump(said, sys.stdout)
    print()


if __name__ == "__main__":
    main()
