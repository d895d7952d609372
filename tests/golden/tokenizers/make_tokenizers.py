#!/usr/bin/env python3
"""Make the tokenizers of tests/tokenizer/ and what Hugging Face says about them.

Written with tokenizers 0.23.3 (Oniguruma: Unicode 16) and unicodedata2 17.0.0 on Python 3.11. Real vocabularies are too large and not ours, so each
family's BPE is trained here, on seeded text, and then gets the normaliser, pre-tokeniser, post-processor, decoder and added
tokens that the family's published tokenizer.json has. "odd" is no family: it has what the other five leave out.

FAMILY.json       the tokenizer
strings.txt       a line a string: hex of its bytes, hex of the text Python reads in them ("=": the same)
FAMILY.encode     a line a string: ids without special tokens, hex of their decoding, hex of the same without special tokens;
                  "=" for the text itself and for the column before. The first line holds what special tokens go before and behind.
FAMILY.decode     random ids, hex of their decoding

"o200k" and "smollm" are there for what each version of Unicode says: their strings are unicode.txt, one for the ends of each
run of characters of one category that came after Unicode 14, and for characters about them.

Training is not the same from run to run where characters are left out of the alphabet (llama2, mistral, odd): make what
you need by name, and commit only that.

usage: make_tokenizers.py CORPUS_SCRIPT OUT [FAMILY...]      (CORPUS_SCRIPT: tests/models/storyworld-3m/make_corpus.py)
"""
import json
import random
import subprocess
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

STRINGS = 2200
GPT2_PUNCTUATION = "'s 't 're 've 'm 'll 'd 'S 'RE 'LL 'ſ 'x".split()
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2028", "\u2029", "\u0085", "\v", "\f", "\u3000", "\u180e", "\u200b", "\u1680", "\u202f", "\x1c", "\x1f"]
SPECIALS = ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]",
            "<0x41>", "<0xE2>", "<left>", "<right>", "<both>", "word", "Ångström", "<s", "<|", "▁", "Ġ", "é", "e\u0301"]
ZWJ = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "👨🏿‍🚀", "☃", "🫠"]
SCRIPTS = [(0x61, 0x7a), (0x61, 0x7a), (0x61, 0x7a), (0x41, 0x5a), (0xc0, 0x17f), (0x3b1, 0x3c9), (0x430, 0x44f), (0x5d0, 0x5ea), (0x621, 0x64a), (0x905, 0x939),
           (0xe01, 0xe30), (0x3041, 0x3096), (0x30a1, 0x30fa), (0x4e00, 0x4e80), (0xac00, 0xad00), (0x1f600, 0x1f640)]
MARKS = [0x300, 0x301, 0x308, 0x30a, 0x316, 0x323, 0x327, 0x328, 0x345, 0x5b0, 0x64b, 0x93c, 0x1161, 0x11a8, 0x3099]


def character(r):
    while True:
        code = r.choice([r.randrange(0x80), r.randrange(0x800), r.randrange(0x10000), r.randrange(0x10000), r.randrange(0x20000), r.randrange(0x110000)])
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def word(r, longest=9):
    low, high = r.choice(SCRIPTS)
    return "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, longest)))


def code_line(r):
    name = lambda: r.choice(["i", "key", "value", "count", "block", "self.owner", "map_blocks", "x2"])
    return r.choice([f"    for ({name()} = 0; {name()} < {r.randrange(999)}; {name()}++) {{\n", f"\treturn {name()}->{name()};\n",
                     f"def {name()}({name()}, {name()}={r.random():.3f}):\n\n", f"#define {name().upper()} 0x{r.randrange(1 << 20):x}\r\n"])


def training_text(r, corpus):
    lines = subprocess.run([sys.executable, corpus, "77", "150"], check=True, capture_output=True, text=True).stdout.splitlines(keepends=True)
    words = [word(r) for _ in range(600)]
    for _ in range(1500):
        lines.append(" ".join(r.choice(words) + r.choice(["", "", ",", ".", "'s", "!", " 12", " 2024"]) for _ in range(8)) + "\n")
        lines.append(code_line(r))
    return lines


def part(r):
    kind = r.randrange(14)
    if kind < 3:
        return r.choice(["", " "]) + word(r)
    if kind == 3:
        return "".join(character(r) for _ in range(r.randint(1, 6)))
    if kind == 4:
        return "".join(r.choice(SPACES) for _ in range(r.randint(1, 4)))
    if kind == 5:
        return "".join(r.choice("0123456789٣۴५²½Ⅷ〇") for _ in range(r.randint(1, 8)))
    if kind == 6:
        return word(r, 3) + r.choice(GPT2_PUNCTUATION) + r.choice(["", " ", "ll"])
    if kind == 7:
        return r.choice(["", " "]) + r.choice(SPECIALS) + r.choice(["", " ", "\n"])
    if kind == 8:
        return "".join(r.choice(ZWJ) for _ in range(r.randint(1, 3)))
    if kind == 9:
        return word(r, 1) + "".join(chr(r.choice(MARKS)) for _ in range(r.randint(1, 5)))
    if kind == 10:
        return r.choice([unicodedata.normalize("NFD", word(r)), chr(0x1100 + r.randrange(19)) + chr(0x1161 + r.randrange(21)) + chr(0x11A7 + r.randrange(28))])
    if kind == 11:
        return r.choice("()[]{}<>.,;:!?-_=+*/\\|&%$#@~`^\"'") * r.randint(1, 6)
    if kind == 12:
        return code_line(r)
    return r.choice(["", " "]) + r.choice("Anna put the red key under stairs; Ben counted 12 eggs. I'm we'll DON'T".split())


def broken(r):
    data = bytearray("".join(part(r) for _ in range(r.randint(1, 3))).encode())
    for _ in range(r.randint(1, 3)):
        at = r.randrange(len(data) + 1)
        data[at:at] = r.choice([bytes([r.randrange(128, 256)]), bytes(r.randrange(256) for _ in range(3)), "€"[:1].encode()[:2], "😀".encode()[:r.randint(1, 3)],
                                b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xe0\x80"])
    return bytes(data[: r.choice([len(data), len(data), max(1, len(data) - 1)])])


def make_strings(count=STRINGS, seed=20261123):
    r = random.Random(seed)
    out = [b"", b" ", b"  ", b"\n", b"\0", b"a", "é".encode(), b" a", b"a ", "▁".encode(), "▁▁a".encode(), "\u180e \u180e".encode(), b"<s>", b"<s><s> <s>",
           b"a" * 300, b" " * 300, b"\n" * 100, b"ab" * 150, b"9" * 50, "é".encode() * 60, "e\u0301".encode() * 60, "\u0301\u0316".encode() * 60,
           "😀".encode() * 30, b"\xff" * 40, b" \n" * 40, b"a " * 60, b"!" * 90, b"<" * 60, "<s>".encode() * 30, "ꙮ".encode() * 3]
    # every character that Unicode gave out after 14.0, and the neighbours of each property's edges
    fresh = [0x1c89, 0xa7cb, 0x105c0, 0x10d40, 0x10d4a, 0x11bf0, 0x11f04, 0x11f50, 0x13460, 0x16130, 0x1ccf0, 0x1d2c0, 0x1e4f0, 0x2ebf0, 0x31350, 0x323af, 0x1fae8,
             0x323b0, 0x897, 0x1e5d0, 0x11380, 0x1b4e]
    out += [f"a{chr(c)}{chr(c)} {chr(c)}1 {chr(c)}\u0301".encode() for c in fresh]
    while len(out) < count - 300:
        out.append("".join(part(r) for _ in range(r.choice([1, 1, 2, 2, 3, 5]))).encode())
    while len(out) < count:
        out.append(broken(r))
    return out


def unicode_strings():
    """The ends of each run of characters that Unicode 14 (Python 3.11) does not have, and of some that 17 does not have."""
    import unicodedata2

    assert unicodedata.unidata_version == "14.0.0" and unicodedata2.unidata_version == "17.0.0"
    kinds = [pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed", False) for name in ("Lu", "Ll", "Lm", "Lo", "M", "N", "P", "S")]
    numbers = pre_tokenizers.Digits(individual_digits=True)
    out, before = [], None
    for code in [c for c in range(0x110000) if unicodedata.category(chr(c)) == "Cn"]:
        if code >= 0x33480 and code != 0x10FFFF:
            continue
        text = "\0" + chr(code)
        here = tuple(bool(p.pre_tokenize_str(text)[-1][0] == "\0") for p in kinds), len(numbers.pre_tokenize_str(text))
        if not before or before[0] != here or before[1] != code - 1:
            out += [code] if not before else [before[1], code]
        before = here, code
    out = [c for i, c in enumerate(out) if i % 16 == 0 or unicodedata2.category(chr(c)) != "Cn"]
    return [f"a{chr(c)}B{chr(c)}{chr(c)} {chr(c)}1{chr(c)} {chr(c)}\u0301x\n".encode() for c in dict.fromkeys(out)]


def added(i, content, special=True, **flags):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special, **flags}


def template(tokens, ids):
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": t, "type_id": 0}} for t in tokens] + [sequence],
            "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in zip(tokens, ids)}}


def train(lines, size, pre_tokenizer, **options):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    return json.loads(tok.to_str())["model"]


def byte_level(lines, size):
    return train(lines, size, pre_tokenizers.ByteLevel(add_prefix_space=False), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def gpt2_bytes():
    """GPT-2's character for each byte."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: ord(c))
    shown = {ord(c): c for c in names if ord(c) < 256}
    shown.update(zip([b for b in range(256) if b not in shown], sorted(c for c in names if ord(c) >= 256)))
    return shown


def spm_decoder():
    return {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                             {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def seams():
    """A token for each pair of bytes that two characters can meet in, so that every cut between characters shows in the ids."""
    shown = gpt2_bytes()
    first, last = [shown[b] for b in b"aBx1 '\n" + bytes(range(0xe0, 0xf1))], [shown[b] for b in b"aBx1 '\n" + bytes(range(0x80, 0xc0))]
    merges = [[a, b] for a in last for b in first]
    return {"type": "BPE", "vocab": {t: i for i, t in enumerate(dict.fromkeys([shown[b] for b in range(256)] + [a + b for a, b in merges]))}, "merges": merges}


def sentence_piece(lines, size, specials, limit):
    tokens = specials + [f"<0x{b:02X}>" for b in range(256)]
    model = train(lines, size, pre_tokenizers.Metaspace(), special_tokens=tokens, limit_alphabet=limit)
    model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return model


def families(lines):
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    no_regex = dict(as_bytes, use_regex=False)
    split = lambda regex: {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, no_regex]}
    strings = lambda model: dict(model, merges=[" ".join(m) for m in model["merges"]])

    model = byte_level(lines, 1600)
    n = len(model["vocab"])
    yield "gpt2", dict(model=strings(model), pre_tokenizer=as_bytes, post_processor=as_bytes, decoder=as_bytes, added_tokens=[added(n, "<|endoftext|>")])

    model = dict(byte_level(lines, 2000), ignore_merges=True)
    model["merges"] = [m for i, m in enumerate(model["merges"]) if i % 40 != 39 or i < 800]  # so that ignore_merges matters
    n = len(model["vocab"])
    yield "llama3", dict(model=model, pre_tokenizer=split(LLAMA3), decoder=as_bytes,
                         post_processor={"type": "Sequence", "processors": [dict(as_bytes), template(["<|begin_of_text|>"], [n])]},
                         added_tokens=[added(n + i, t) for i, t in enumerate(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])])

    model = seams()
    yield "o200k", dict(model=model, pre_tokenizer=split(O200K), post_processor=no_regex, decoder=no_regex)
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, as_bytes]}
    yield "smollm", dict(model=model, pre_tokenizer=digits, decoder=as_bytes)

    model = byte_level(lines, 1800)
    n = len(model["vocab"])
    yield "qwen2", dict(model=strings(model), normalizer={"type": "NFC"}, pre_tokenizer=split(QWEN2), post_processor=no_regex, decoder=no_regex,
                        added_tokens=[added(n + i, t, special=i < 3) for i, t in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"])])

    specials = ["<unk>", "<s>", "</s>"]
    yield "llama2", dict(model=strings(sentence_piece(lines, 2200, specials, 300)),
                         normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                         post_processor=template(["<s>"], [1]), decoder=spm_decoder(), added_tokens=[added(i, t) for i, t in enumerate(specials)])

    specials += ["[INST]", "[/INST]"]
    yield "mistral", dict(model=sentence_piece(lines, 2000, specials, 400), pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
                          post_processor=template(["<s>"], [1]), decoder=spm_decoder(), added_tokens=[added(i, t) for i, t in enumerate(specials)])

    model = train(lines, 900, pre_tokenizers.Metaspace(), special_tokens=["<unk>"], limit_alphabet=120)
    model.update(unk_token="<unk>")
    n = len(model["vocab"])
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    yield "odd", dict(model=model, normalizer={"type": "NFC"}, decoder=meta, pre_tokenizer={"type": "Sequence", "pretokenizers": [meta, {"type": "Digits", "individual_digits": True}]},
                      added_tokens=[added(0, "<unk>"), added(n, "<left>", lstrip=True), added(n + 1, "<right>", rstrip=True, special=False),
                                    added(n + 2, "<both>", lstrip=True, rstrip=True), added(n + 3, "word", single_word=True, special=False),
                                    added(n + 4, "A\u030angström", normalized=True, special=False), added(n + 5, "é", single_word=True, normalized=True, special=False)])


def answer(tok, data, frame):
    text = data.decode("utf-8", errors="replace")
    ids = tok.encode(text, add_special_tokens=False).ids
    assert tok.encode(text).ids == frame[0] + ids + frame[1]
    whole, skipped = tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)
    return " ".join(map(str, ids)), "=" if whole == text else whole.encode().hex(), "=" if skipped == whole else skipped.encode().hex()


def write_strings(path, strings):
    with open(path, "w") as file:
        for data in strings:
            text = data.decode("utf-8", errors="replace").encode()
            print(data.hex(), "=" if text == data else text.hex(), sep="\t", file=file)


def write_family(out, family, parts, strings):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts}
    with open(f"{out}/{family}.json", "w") as file:
        json.dump(whole, file, ensure_ascii=False, separators=(",", ":"))
    tok = Tokenizer.from_file(f"{out}/{family}.json")
    a, around = tok.encode("a", add_special_tokens=False).ids, tok.encode("a").ids
    at = next(i for i in range(len(around)) if around[i : i + len(a)] == a)
    frame = around[:at], around[at + len(a) :]
    with open(f"{out}/{family}.encode", "w") as file:
        print(" ".join(map(str, frame[0])), " ".join(map(str, frame[1])), sep="\t", file=file)
        for data in strings:
            print(*answer(tok, data, frame), sep="\t", file=file)
    r = random.Random(family)
    with open(f"{out}/{family}.decode", "w") as file:
        for _ in range(150):
            low = r.choice([0, 0, 0, 3])
            ids = [r.randrange(low, r.choice([260, tok.get_vocab_size() + 2])) for _ in range(r.randint(1, 12))]
            print(" ".join(map(str, ids)), tok.decode(ids, skip_special_tokens=False).encode().hex(), sep="\t", file=file)


def main(corpus, out, *wanted):
    lines = training_text(random.Random(1), corpus)
    strings, of_unicode = make_strings(), unicode_strings()
    write_strings(f"{out}/strings.txt", strings)
    write_strings(f"{out}/unicode.txt", of_unicode)
    for family, parts in families(lines):
        if not wanted or family in wanted:
            write_family(out, family, parts, of_unicode if family in ("o200k", "smollm") else strings)


if __name__ == "__main__":
    main(*sys.argv[1:])
