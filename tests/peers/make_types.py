#!/usr/bin/env python3
"""Makes GGUF files in f32, bf16 and Q8_0 from one in another type, by the gguf package, and one folder for transformers.

All have the same weights, but for rounding to the type. Norms stay in f32, as llama.cpp has them. The folder is in bf16: torch
makes f32 of it at load.
usage: make_types.py MODEL.gguf FOLDER
"""
import pathlib
import sys

import gguf
import numpy

TYPES = {"f32": ("F32", "ALL_F32"), "bf16": ("BF16", "MOSTLY_BF16"), "q8_0": ("Q8_0", "MOSTLY_Q8_0")}


def copy_keys(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], part)


def write(reader, path, kind):
    quant, file_type = (getattr(gguf.GGMLQuantizationType, TYPES[kind][0]), getattr(gguf.LlamaFileType, TYPES[kind][1]))
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    copy_keys(reader, writer)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        as_type = quant if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_folder(model, folder):
    import torch
    import transformers

    where = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
    read = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    config = transformers.AutoConfig.from_pretrained(**where)
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # one from GGUF cannot be saved
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def main():
    model, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(model)
    for kind in TYPES:
        write(reader, folder / f"{kind}.part", kind)
        (folder / f"{kind}.part").rename(folder / f"{kind}.gguf")
    write_folder(model.absolute(), folder / "transformers")


main()
