"""numba-cuda's arrays and streams, without a kernel: prints what each gives. usage: numba_arrays.py PACKAGES LAYERS BYTES

The first LAYERS pairs of arrays have BYTES each, K and V of a layer, as a layout of the shim describes them.
"""
import site
import sys
import threading

site.addsitedir(sys.argv[1])  # numba-cuda puts itself into numba by a .pth file

import numpy as np  # noqa: E402
from numba import cuda  # noqa: E402

LAYERS, BYTES = int(sys.argv[2]), int(sys.argv[3])
COUNT = BYTES // 4


def say(what, *values):
    print(what, *values, flush=True)


def digest(array):
    """One number that depends on the place of each element."""
    return int((array.view(np.uint32).astype(np.uint64) * np.arange(1, array.size + 1, dtype=np.uint64)).sum() % (1 << 61))


def numbers(seed, count=COUNT):
    return ((np.arange(count, dtype=np.uint32) * 2654435761 + seed * 40503) % 100003).astype(np.float32)


def cache():
    """K and V of each layer, filled through a stream of the layer's, then read in order."""
    arrays = [[cuda.device_array(COUNT, np.float32) for _ in "kv"] for _ in range(LAYERS)]
    streams = [cuda.stream() for _ in range(LAYERS)]
    hosts = [[cuda.pinned_array(COUNT, np.float32) for _ in "kv"] for _ in range(LAYERS)]
    for layer in range(LAYERS):
        for i in range(2):
            hosts[layer][i][:] = numbers(2 * layer + i)
            arrays[layer][i].copy_to_device(hosts[layer][i], stream=streams[layer])
        streams[layer].synchronize()
    for layer in range(LAYERS):
        say("layer", layer, *[digest(a.copy_to_host()) for a in arrays[layer]])
    first = arrays[0][0]
    say("slice", first[10:20].copy_to_host().tolist())
    first[100:200].copy_to_device(numbers(77, 100))
    say("slice stored", digest(first.copy_to_host()))
    first[:50].copy_to_device(arrays[LAYERS - 1][1][50:100])
    say("between arrays", digest(first.copy_to_host()))
    say("shape", first.shape, first.nbytes, first.reshape(COUNT // 64, 64)[3].copy_to_host()[:4].tolist())
    return arrays


def streams():
    one, two = cuda.stream(), cuda.stream()
    before, between, after = cuda.event(), cuda.event(timing=False), cuda.event()
    source, result = cuda.pinned_array(4096, np.int32), cuda.pinned_array(4096, np.int32)
    source[:] = np.arange(4096)
    before.record(one)
    moved = cuda.to_device(source, stream=one)
    between.record(one)
    between.wait(two)  # two goes on when one has come so far
    moved.copy_to_host(result, stream=two)
    after.record(two)
    after.synchronize()
    say("streams", int(result.sum()), after.query(), before.elapsed_time(after) >= 0)
    with one.auto_synchronize():
        moved.copy_to_host(result, stream=one)
    with cuda.pinned(np.ones(1 << 16, np.float32)):
        say("registered")
    say("default stream", cuda.default_stream().synchronize(), cuda.to_device(source).copy_to_host()[-1])


def kinds():
    mapped = cuda.mapped_array(256, np.int64)
    mapped[:] = 7
    say("mapped", int(mapped.sum()))
    whole = cuda.to_device(np.arange(12, dtype=np.int16).reshape(3, 4), copy=True)
    say("2d", whole.copy_to_host().tolist(), whole[1].copy_to_host().tolist(), whole.strides)
    record = np.zeros(5, np.dtype([("a", np.int32), ("b", np.float64)]))
    record["b"] = 1.5
    say("records", cuda.to_device(record).copy_to_host().tolist())
    say("device", cuda.current_context().device.compute_capability, len(cuda.gpus), cuda.is_cuda_array(whole))
    memory = cuda.current_context().get_memory_info()
    say("memory", 0 < memory.free < memory.total)


def in_a_thread():
    said = []

    def work():
        said.append(int(cuda.to_device(np.arange(1000)).copy_to_host().sum()))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    say("threads", said)


def errors():
    try:
        cuda.device_array(1 << 46, np.uint8)
        say("too large: no error")
    except Exception as error:
        say("too large:", type(error).__name__, str(error)[:60])


arrays = cache()  # held to the end, as a program holds its cache
streams()
kinds()
in_a_thread()
errors()
