#!/usr/bin/env python3
"""Make types.gguf: for each type that is read, blocks of random bytes, and beside them ("TYPE.f32") the numbers that the
gguf Python package (0.19.0; pip install gguf) makes of them. Scales are finite halves, among them zero and subnormal ones.
usage: make_types.py (in this folder)"""
import gguf
import numpy as np

random = np.random.default_rng(11)
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "IQ4_NL": [0]}
writer = gguf.GGUFWriter("types.gguf", "llama")
for name in "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K IQ4_NL".split():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (6 if elements == 256 else 40, size), dtype=np.uint8)
    for at in HALVES.get(name, []):
        half = (random.standard_normal(len(blocks)) * 0.1).astype(np.float16)
        half[:4] = [0, -0.0, 6e-8, 60000]
        blocks[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    if name in ("F32", "BF16"):  # an exponent of a number
        blocks[:, -1] &= 0xbf
    row = blocks.reshape(1, -1)
    data = {"F32": np.float32, "F16": np.float16}.get(name)
    values = gguf.quants.dequantize(row.view(data) if data else row, kind).astype(np.float32)
    writer.add_tensor(name, row.view(data) if data else row, raw_dtype=kind)
    writer.add_tensor(name + ".f32", values)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
