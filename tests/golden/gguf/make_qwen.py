#!/usr/bin/env python3
"""Make qwen2.gguf and qwen3.gguf: the tiny checkpoints of tests/golden/models in GGUF, with the names of keys and tensors that the
gguf Python package has for these architectures. tests/e2e/eval_golden_test compares them with what transformers computes.

Made with gguf 0.19.0, safetensors and torch, as the golden models are; as llama.cpp's converter does, matrices keep their type and
vectors become F32.
usage: make_qwen.py (in this folder)"""
import json
import pathlib

import gguf
import torch
from safetensors.torch import load_file

MODELS = pathlib.Path(__file__).parent.parent / "models"
ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write_keys(to, config):
    heads = config["num_attention_heads"]
    to.add_block_count(config["num_hidden_layers"])
    to.add_context_length(config["max_position_embeddings"])
    to.add_embedding_length(config["hidden_size"])
    to.add_feed_forward_length(config["intermediate_size"])
    to.add_head_count(heads)
    to.add_head_count_kv(config["num_key_value_heads"])
    to.add_layer_norm_rms_eps(config["rms_norm_eps"])
    to.add_rope_freq_base(config["rope_theta"])
    if config.get("head_dim", config["hidden_size"] // heads) * heads != config["hidden_size"]:
        to.add_key_length(config["head_dim"])
        to.add_value_length(config["head_dim"])
    to.add_token_list([f"t{i}" for i in range(config["vocab_size"])])


def write_tensors(to, directory, names):
    weights = {}
    for path in sorted(directory.glob("*.safetensors")):
        weights.update(load_file(path))
    for name, tensor in sorted(weights.items()):
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if tensor.ndim > 1 and tensor.dtype == torch.bfloat16:
            to.add_tensor(theirs, tensor.contiguous().view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            to.add_tensor(theirs, tensor.float().numpy())


def main():
    for name, architecture in ARCHITECTURES.items():
        config = json.loads((MODELS / name / "config.json").read_text())
        to = gguf.GGUFWriter(f"{name}.gguf", gguf.MODEL_ARCH_NAMES[architecture])
        write_keys(to, config)
        write_tensors(to, MODELS / name, gguf.get_tensor_name_map(architecture, config["num_hidden_layers"]))
        to.write_header_to_file()
        to.write_kv_data_to_file()
        to.write_tensors_to_file()
        to.close()


main()
