#!/usr/bin/env python3
"""Make stand_ins.c: characters that PCRE2 and utf8proc may classify otherwise than Hugging Face tokenizers.

Hugging Face tokenizers 0.23 takes categories and scripts from Unicode 16.0 (Oniguruma 6.9.10), and the numbers of the pre-tokeniser
Digits from 17.0 (Rust's char::is_numeric). The libraries of a machine may have any version from 14.0 on. If a character differs
between 14.0 and 17.0, a stand-in is matched in its place: a character of its category in 16.0 (and of its script, if there is one)
that is the same in all versions, and has as many bytes in UTF-8.

The data come from packages: Python 3.11's own unicodedata (14.0), unicodedata2 16.0.0 and 17.0.0, and fonttools 4.56.0 for
scripts (16.0), from PyPI:

  for p in unicodedata2==16.0.0 unicodedata2==17.0.0 fonttools==4.56.0; do pip install --no-deps --target DIR/$p $p; done
  python3.11 make_stand_ins.py DIR >stand_ins.c
"""
import bisect
import json
import subprocess
import sys
import unicodedata

ALL = range(0x110000)
SCRIPTS = ("Hani", "Hang", "Hira", "Kana", "Bopo", "Latn", "Cyrl", "Grek", "Arab", "Hebr", "Thai", "Deva")


def categories(folder, version):
    program = "import sys, json, unicodedata2 as u; json.dump([u.unidata_version, [u.category(chr(c)) for c in range(0x110000)]], sys.stdout)"
    got, values = json.loads(subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE,
                                            env={"PYTHONPATH": f"{folder}/unicodedata2=={version}"}).stdout)
    assert got == version, got
    return values


def bytes_of(code):
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4


def ranges(stand_ins):
    out = []
    for code in sorted(stand_ins):
        if out and out[-1][1] == code - 1 and out[-1][2] == stand_ins[code]:
            out[-1][1] = code
        else:
            out.append([code, code, stand_ins[code]])
    return out


def table(name, comment, stand_ins):
    print(f"\n/* {comment} */\nconst struct tok_stand_in {name}[] = {{")
    line = ""
    for entry in ranges(stand_ins):
        piece = "{" + ", ".join(hex(n) for n in entry) + "}, "
        if len(line) + len(piece) > 110:
            print("\t" + line.rstrip())
            line = ""
        line += piece
    print("\t" + line.rstrip() + "\n};")
    print(f"const size_t {name}_count = sizeof({name}) / sizeof({name}[0]);")


def main(folder):
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    sys.path.insert(0, f"{folder}/fonttools==4.56.0")
    from fontTools.unicodedata import Scripts

    old, now, new = [unicodedata.category(chr(c)) for c in ALL], categories(folder, "16.0.0"), categories(folder, "17.0.0")
    script = [Scripts.VALUES[bisect.bisect_right(Scripts.RANGES, c) - 1] for c in ALL]
    script = [s if s in SCRIPTS else "" for s in script]

    settled = {}  # (category, script, bytes): the first such character that is the same in all versions and has no case
    for c in ALL:
        if old[c] == now[c] == new[c] and c >= 0x80 and unicodedata.normalize("NFC", chr(c)) == chr(c):
            if now[c] not in ("Lu", "Ll", "Lt") or chr(c).lower() == chr(c).upper() == chr(c):
                settled.setdefault((now[c], script[c], bytes_of(c)), c)
    for c in ALL:  # where all have case, one with case does
        if old[c] == now[c] == new[c] and c >= 0x80:
            settled.setdefault((now[c], script[c], bytes_of(c)), c)
    differs = [c for c in ALL if not old[c] == now[c] == new[c]]
    print("/*\n * model/tokenizer/stand_ins.c: made by make_stand_ins.py, which says from what. Not to be edited.\n */")
    print("#include \"tokenizer.h\"\n\n/* clang-format off */")
    table("tok_stand_ins", "Unicode 16.0, for patterns and words: first, last, the character to match in their place.",
          {c: settled.get((now[c], script[c], bytes_of(c))) or settled[now[c], "", bytes_of(c)] for c in differs})
    numbers = {c: settled["Nd", "", bytes_of(c)] for c in differs if new[c][0] == "N" and now[c][0] != "N"}
    table("tok_later_numbers", "Numbers that Unicode 17.0 added, for Digits.", numbers)


main(*sys.argv[1:])
