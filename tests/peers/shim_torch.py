#!/usr/bin/env python3
"""PyTorch and transformers under `kvshare-run exec`, on a GPU: tokens, memory, torch.profiler; and a program with a static cudart.

Runs tests/peers/torch_llama.py plain, with layers shared by patched attention in Python, and unmodified under the shim with the
same owners: eager, in a CUDA graph, and with torch.compile's reduce-overhead; 16 and 32 layers. Tokens must be those of the patched
run, and the device's memory (NVML) must be lower than in the plain run by the statistics' saved_bytes. The kernels that store are
found by `kvshare-run probe`, in a model of four layers, as it reads the whole cache around each launch.

One line for each check; the last is "N passed, N failed, N skipped". Exits 1 where a check failed, and 77, with what is missing,
where there is no GPU, torch or transformers. Nothing else may use the GPU's memory meanwhile.
    venv/bin/python tests/peers/shim_torch.py                      # a Python that has torch and transformers 5
    venv/bin/python tests/peers/shim_torch.py --device cpu         # only the patched attention, against a slow computation
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = [sys.executable, str(HERE / "torch_llama.py")]
MIB = 1 << 20
TENSOR, BLOCK = 12 * MIB, 2 * MIB  # torch_llama.py's K or V of a layer; the sink
NVML_SLACK = 8 * MIB  # modules of kernels, and tables of pages
CLOSE = 1e-3  # a lead below which another order of sums may choose another token
# probe finds a kernel that changes the cache. torch.zeros may clear what was clear, and must not do so to an owner.
CLEARS = "*FillFunctor*"


class Missing(Exception):
    """What a check needs and this machine lacks."""


class Checks:
    def __init__(self):
        self.count = {"passed": 0, "failed": 0, "skipped": 0}

    def say(self, result, what, why=""):
        self.count[result] += 1
        print(f"{result:8} {what}{': ' if why else ''}{why}", flush=True)

    def that(self, holds, what, why=""):
        self.say("passed" if holds else "failed", what, "" if holds else why)

    def all_of(self, what, function, *arguments):
        """A group of checks; what goes wrong outside of a check is one that failed."""
        try:
            function(*arguments)
        except Missing as missing:
            self.say("skipped", what, str(missing))
        except subprocess.TimeoutExpired as expired:
            self.say("failed", what, f"no end after {expired.timeout:.0f} s")
        except (RuntimeError, OSError, ValueError) as error:
            self.say("failed", what, str(error))

    def end(self):
        print(", ".join(f"{number} {result}" for result, number in self.count.items()))
        return 1 if self.count["failed"] else 0


def call(command, timeout=900):
    """The output of a command that must succeed."""
    # Segments of cudaMalloc, which the layout is about; no pool of compilers, which would be more processes under the shim.
    environment = dict(os.environ, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:False", TORCHINDUCTOR_COMPILE_THREADS="1",
                       TOKENIZERS_PARALLELISM="false", PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        ours = [line for line in said if "kvshare" in line]
        raise RuntimeError(f"exit {done.returncode} of {' '.join(command)}: {' | '.join([*ours, said[-1]])}")
    return done.stdout


def generate(options, under=()):
    """What torch_llama.py says of a run; its JSON is the last line."""
    return json.loads(call([*under, *PROGRAM, *options]).splitlines()[-1])


def text_of(owners):
    return ",".join(map(str, owners))


def half_shared(layers):
    """Half of the layers borrow: 0,1,0,1,4,5,4,5, ..."""
    return [layer - 2 if layer % 4 > 1 else layer for layer in range(layers)]


def layout_of(layers):
    return f"tensors:layers={layers},bytes={TENSOR // MIB}MiB,order=kv"


def difference(first, second):
    step = next((i for i, (one, other) in enumerate(zip(first["tokens"], second["tokens"])) if one != other), None)
    lead = min(first["narrowest_lead"], second["narrowest_lead"])
    if step is None:
        return "they are the same"
    close = " (which is so close that the order of sums may matter)" if lead < CLOSE else ""
    return f"token {step} is {first['tokens'][step]}, not {second['tokens'][step]}; narrowest lead {lead:.2g}{close}"


class Gpu:
    """The checks that need one."""

    def __init__(self, checks, run, work, layers, modes):
        self.checks, self.run, self.work, self.layers, self.modes = checks, run, work, layers, modes
        self.plain = {}

    def plain_run(self, layers, mode):
        if (layers, mode) not in self.plain:
            self.plain[layers, mode] = generate(["--layers", str(layers), "--mode", mode])
        return self.plain[layers, mode]

    def writers(self, mode):
        path = self.work / f"writers-{mode}.json"
        if not path.exists():
            call([self.run, "probe", "--layout", layout_of(4), "-o", str(path), "--", *PROGRAM, "--layers", "4", "--tokens", "6",
                  "--mode", mode], timeout=3600)
        return str(path)

    def shared(self, layers, mode, plan, *options):
        """A run under the shim, and its statistics; processes that it starts have files of their own."""
        under = [self.run, "exec", *plan, "--layout", layout_of(layers), "--writers", self.writers(mode), "--writer", CLEARS,
                 "--strict", "--stats", str(self.work / "stats-%p.json"), "--"]
        said = generate(["--layers", str(layers), "--mode", mode, *options], under)
        return said, json.loads((self.work / f"stats-{said['pid']}.json").read_text())

    def memory(self, what, plain, said, stats, saved):
        self.checks.that(stats["saved_bytes"] == saved and stats["sink_bytes"] == BLOCK, f"{what}: the statistics",
                         f"saved {stats['saved_bytes']}, sink {stats['sink_bytes']}; expected are {saved} and {BLOCK}")
        self.checks.that(stats["launches_patched"] > 0, f"{what}: stores were redirected", "launches_patched is 0")
        if plain["grown_bytes"] is None or said["grown_bytes"] is None:
            self.checks.say("skipped", f"{what}: NVML", "it cannot be asked here")
            return
        less = plain["grown_bytes"] - said["grown_bytes"]
        self.checks.that(abs(less - stats["saved_bytes"]) <= NVML_SLACK, f"{what}: NVML says {less / MIB:.0f} MiB less",
                         f"the statistics say {stats['saved_bytes'] / MIB:.0f} MiB")

    def sharing(self, what, layers, mode, k_owners, v_owners):
        plain = self.plain_run(layers, mode)
        patched = generate(["--layers", str(layers), "--mode", mode, "--k-owners", text_of(k_owners),
                            "--v-owners", text_of(v_owners)])
        plan = self.work / "plan.json"
        plan.write_text(json.dumps({"kvshare_plan": 1, "layers": layers, "k_owners": k_owners, "v_owners": v_owners}))
        said, stats = self.shared(layers, mode, ["--plan", str(plan)])
        self.checks.that(patched["tokens"] != plain["tokens"], f"{what}: sharing changes the tokens",
                         "so equal tokens would say nothing")
        self.checks.that(said["tokens"] == patched["tokens"], f"{what}: tokens of the patched run", difference(said, patched))
        if mode == "compile":
            self.checks.that(said["cudagraph_skips"] == 0, f"{what}: with CUDA graphs", f"{said['cudagraph_skips']} were not made")
        borrowed = sum(owner != layer for owners in (k_owners, v_owners) for layer, owner in enumerate(owners))
        self.memory(what, plain, said, stats, borrowed * TENSOR - BLOCK)

    def without_plan(self):
        said = generate(["--layers", "16"], [self.run, "exec", "--"])
        plain = self.plain_run(16, "eager")
        self.checks.that(said["tokens"] == plain["tokens"], "no plan: tokens of the plain run", difference(said, plain))

    def inspect(self):
        said = call([self.run, "inspect", "-o", str(self.work / "layout.json"), "--", *PROGRAM, "--layers", "16", "--tokens", "4"])
        found = json.loads((self.work / "layout.json").read_text())
        self.checks.that((found.get("kind"), found.get("layers")) == ("tensors", 16), "inspect names the layout",
                         f"{json.dumps(found)}; it says {said[:300]}")

    def profiler(self):
        plain = generate(["--layers", "16", "--profile"])
        said, stats = self.shared(16, "eager", ["--owners", text_of(half_shared(16))], "--profile")
        self.checks.that(said["kernels"] > 0 and said["kernels"] == plain["kernels"], "torch.profiler sees all kernels",
                         f"{said['kernels']}, and {plain['kernels']} without the shim")
        self.checks.that(stats["launches_patched"] > 0, "torch.profiler: stores were redirected", "launches_patched is 0")

    def ipc(self):
        said, _ = self.shared(16, "eager", ["--owners", text_of(half_shared(16))], "--ipc")
        self.checks.that(said["ipc_error"] is not None, f"a borrower's K is not exported ({said['ipc_error']})", "it was exported")

    def static_cudart(self):
        nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin:/opt/cuda/bin")
        if not nvcc:
            raise Missing("nvcc is needed, of the CUDA toolkit")
        program = str(self.work / "static_cudart")
        call([nvcc, "-cudart", "static", "-arch=native", "-o", program, str(HERE / "static_cudart.cu")])
        owners = text_of(half_shared(8))
        plain, oracle = call([program, "8"]), call([program, "8", owners])
        stats = self.work / "static.json"
        said = call([self.run, "exec", "--owners", owners, "--layout", "tensors:layers=8,bytes=4MiB,order=kv", "--strict", "--stats",
                     str(stats), "--", program, "8"])
        found = json.loads(stats.read_text())
        self.checks.that(plain != oracle, "static cudart: sharing changes the output", "so equal output would say nothing")
        self.checks.that(said == oracle, "static cudart: output of the program's own sharing", f"{said.split()} not {oracle.split()}")
        self.checks.that(found["saved_bytes"] == 8 * 4 * MIB - BLOCK and found["launches_patched"] > 0,
                         "static cudart: the statistics", json.dumps(found))

    def all(self):
        self.checks.all_of("static cudart", self.static_cudart)
        self.checks.all_of("no plan", self.without_plan)
        self.checks.all_of("inspect", self.inspect)
        for layers in self.layers:
            for mode in self.modes:
                what = f"{layers} layers, {mode}"
                self.checks.all_of(what, self.sharing, what, layers, mode, half_shared(layers), half_shared(layers))
        own = list(range(16))
        self.checks.all_of("K alone", self.sharing, "K alone", 16, "eager", half_shared(16), own)
        self.checks.all_of("torch.profiler", self.profiler)
        self.checks.all_of("IPC", self.ipc)


# ---- the patched attention, without a GPU ----

def slow_tokens(model, prompt, count, k_owners, v_owners):
    """Greedy tokens by a Llama written out in float64: the whole text anew for each, no cache and nothing of transformers' code."""
    import torch
    weights = {name: value.double() for name, value in model.state_dict().items()}
    config, half = model.config, model.config.head_dim // 2
    shape = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads, config.head_dim)
    theta = (getattr(config, "rope_parameters", None) or {"rope_theta": getattr(config, "rope_theta", None)})["rope_theta"]

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    def turn(x, angles):
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)

    def next_token(ids):
        x, ks, vs = weights["model.embed_tokens.weight"][ids], [], []
        angles = torch.arange(len(ids)).double()[:, None, None] / theta ** (torch.arange(half).double() / half)
        hidden = torch.ones(len(ids), len(ids)).triu(1).bool()
        for layer in range(config.num_hidden_layers):
            at = f"model.layers.{layer}."
            normed = norm(x, at + "input_layernorm.weight")
            q, k, v = (normed @ weights[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
            ks.append(turn(k.view(len(ids), shape[0], shape[2]), angles))
            vs.append(v.view(len(ids), shape[0], shape[2]))
            q = turn(q.view(len(ids), -1, shape[2]), angles).view(len(ids), *shape)
            scores = torch.einsum("qhgd,khd->hgqk", q, ks[k_owners[layer]]) / shape[2] ** 0.5
            scores = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            mixed = torch.einsum("hgqk,khd->qhgd", scores, vs[v_owners[layer]]).reshape(len(ids), -1)
            x = x + mixed @ weights[at + "self_attn.o_proj.weight"].T
            normed = norm(x, at + "post_attention_layernorm.weight")
            gate, up = (normed @ weights[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
            x = x + (torch.nn.functional.silu(gate) * up) @ weights[at + "mlp.down_proj.weight"].T
        return int((norm(x[-1], "model.norm.weight") @ weights["lm_head.weight"].T).argmax())

    ids = prompt[0].tolist()
    for _ in range(count):
        ids.append(next_token(torch.tensor(ids)))
    return ids[-count:]


def self_check(checks):
    import torch
    import torch_llama
    torch.set_num_threads(1)
    layers, ctx, count = 8, 64, 12
    config = torch_llama.make_config(layers)
    model = torch_llama.make_model(config, "cpu")

    def tokens(k_owners, v_owners):
        cache = torch_llama.make_cache(config, ctx, "cpu", k_owners, v_owners)
        return torch_llama.generate(model, cache, ctx, "cpu", count).tokens, cache

    def slow(k_owners, v_owners):
        return slow_tokens(model, torch_llama.make_prompt(), count, k_owners, v_owners)

    own, half, late = list(range(layers)), half_shared(layers), [0, 1, 2, 3, 4, 1, 3, 0]
    plain, _ = tokens(None, None)
    checks.that(plain == slow(own, own), "StaticCache: tokens of the slow computation", f"{plain}")
    checks.that(tokens(own, own)[0] == plain, "patched, each layer its own: tokens of StaticCache")
    for what, k_owners, v_owners in (("K and V", half, half), ("K alone", half, own), ("K and V apart", half, late)):
        found, cache = tokens(k_owners, v_owners)
        checks.that(found != plain, f"patched, {what}: sharing changes the tokens", "so equal tokens would say nothing")
        expected = slow(k_owners, v_owners)
        checks.that(found == expected, f"patched, {what}: tokens of the slow computation", f"{found}, not {expected}")
        checks.that(all(bool(getattr(cache.layers[i], held).any()) == (owner == i)
                        for held, owners in (("keys", k_owners), ("values", v_owners)) for i, owner in enumerate(owners)),
                    f"patched, {what}: only owners store")


# ---- what the machine has ----

def require_python(device):
    try:
        import torch
        import transformers
        from transformers.cache_utils import StaticLayer
    except ImportError as error:
        raise Missing(f"{error} in {sys.executable}: pip install torch transformers, and run this with that Python") from None
    if not hasattr(StaticLayer(8), "cumulative_length"):
        raise Missing(f"transformers {transformers.__version__} is too old: 5 is needed")
    if device == "cuda" and not torch.cuda.is_available():
        raise Missing(f"torch {torch.__version__} finds no GPU")


def find_run(name):
    run = pathlib.Path(name)
    if not os.access(run, os.X_OK):
        raise Missing(f"{run} is not there: run make, or name it with --run")
    return str(run.resolve())


def main():
    build = pathlib.Path(os.environ.get("BUILD", HERE.parent.parent / "build"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--run", default=str(build / "kvshare-run"), help="kvshare-run (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", choices=[8, 16, 32], default=[16, 32])
    parser.add_argument("--modes", nargs="+", choices=["eager", "graph", "compile"], default=["eager", "graph", "compile"])
    options = parser.parse_args()
    checks = Checks()
    try:
        require_python(options.device)
        run = find_run(options.run) if options.device == "cuda" else None
    except Missing as missing:
        print(f"shim_torch: {missing}; nothing was run")
        return 77
    if options.device == "cpu":
        self_check(checks)
    else:
        with tempfile.TemporaryDirectory() as work:
            Gpu(checks, run, pathlib.Path(work), options.layers, options.modes).all()
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
