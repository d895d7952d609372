#!/usr/bin/env python3
"""Make unicode_table.c: what tokenizers need to know of Unicode's characters.

Hugging Face tokenizers 0.23 has three versions of Unicode in it, and so has the table:
  16.0  the categories and scripts of its regular expressions (Oniguruma 6.9.10) and of single_word (the regex crate)
  17.0  the numbers of the pre-tokeniser Digits (Rust's char::is_numeric); only what 16.0 lacks is stored
   9.0  NFC (the crate unicode-normalization-alignments)
The data are those that packages ship: unicodedata2 16.0.0 and 17.0.0 and fonttools 4.56.0 (its Scripts.py is of 16.0)
from PyPI, and Python 3.6's own unicodedata, which is 9.0.

  for p in unicodedata2==16.0.0 unicodedata2==17.0.0 fonttools==4.56.0; do pip install --no-deps --target DIR/$p $p; done
  make_unicode.py DIR PYTHON3.6 >unicode_table.c
"""
import json
import subprocess
import sys

# Scripts by the name that patterns use; others are refused by name.
SCRIPTS = {"Arabic": "Arab", "Bopomofo": "Bopo", "Cyrillic": "Cyrl", "Devanagari": "Deva", "Greek": "Grek", "Han": "Hani", "Hangul": "Hang",
           "Hebrew": "Hebr", "Hiragana": "Hira", "Katakana": "Kana", "Latin": "Latn", "Thai": "Thai"}

CATEGORIES = """import sys, json, unicodedata2 as u
json.dump([u.unidata_version, [u.category(chr(c)) for c in range(0x110000)]], sys.stdout)"""

SCRIPT_RANGES = """import sys, json, fontTools.unicodedata.Scripts as s
json.dump([[f, v] for f, v in zip(s.RANGES, s.VALUES)], sys.stdout)"""

# Only what decomposes canonically, by one step; Hangul is computed.
NORMAL = """import sys, json, unicodedata as u
out = dict(version=u.unidata_version, classes=[], parts=[], pairs=[])
for c in range(0x110000):
    d = u.decomposition(chr(c)).split()
    if u.combining(chr(c)): out["classes"].append([c, u.combining(chr(c))])
    if not d or d[0].startswith("<"): continue
    d = [int(x, 16) for x in d] + [0]
    out["parts"].append([c, d[0], d[1]])
    if len(d) == 3 and u.normalize("NFC", chr(d[0]) + chr(d[1])) == chr(c): out["pairs"].append([d[0], d[1], c])
json.dump(out, sys.stdout)"""


def ask(python, program, path=None):
    return json.loads(subprocess.run([python, "-c", program], check=True, stdout=subprocess.PIPE, env={"PYTHONPATH": path or ""}).stdout.decode())


def categories(folder, version):
    got, values = ask(sys.executable, CATEGORIES, f"{folder}/unicodedata2=={version}")
    assert got == version, got
    return values


def ranges(codes):
    out = []
    for code in sorted(codes):
        if out and out[-1][1] == code - 1:
            out[-1][1] = code
        else:
            out.append([code, code])
    return out


def table(declaration, entries):
    print(f"\n{declaration} = {{")
    line = ""
    for entry in entries:
        if len(line) + len(entry) > 150:
            print(f"\t{line}")
            line = ""
        line += entry + ","
    print(f"\t{line}\n}};")
    name = declaration.split()[-1].split("[")[0]
    print(f"const size_t {name}_count = sizeof({name}) / sizeof({name}[0]);")


def braces(*numbers):
    return "{" + ",".join(hex(n) for n in numbers) + "}"


def main(folder, python36):
    print("/*\n * model/tokenizer/unicode_table.c: made by make_unicode.py, which says from what. Not to be edited.\n */")
    print("#include \"tokenizer.h\"\n\n/* clang-format off */")
    now, later = categories(folder, "16.0.0"), categories(folder, "17.0.0")
    names = sorted(set(now))
    print("\nconst char tok_category_names[TOK_CATEGORIES][2] = {")
    print("\t" + ", ".join(f"\"{n}\"" for n in names) + "\n};")
    runs = [c for c in range(0x110000) if not c or now[c] != now[c - 1]]
    table("const uint32_t tok_category_runs[]", [hex(c << 5 | names.index(now[c])) for c in runs])
    numbers = [c for c in range(0x110000) if later[c][0] == "N" and now[c][0] != "N"]
    table("const struct tok_range tok_later_numbers[]", [braces(a, b) for a, b in ranges(numbers)])

    of = ask(sys.executable, SCRIPT_RANGES, f"{folder}/fonttools==4.56.0")
    codes = {script: [] for script in SCRIPTS.values()}
    for (first, script), (end, _) in zip(of, of[1:] + [[0x110000, ""]]):
        if script in codes:
            codes[script] += range(first, end)
    entries, spans = [], []
    for name, script in SCRIPTS.items():
        mine = ranges(codes[script])
        entries.append(f"{{\"{name}\", {len(spans)}, {len(mine)}}}")
        spans += mine
    table("const struct tok_script tok_scripts[]", entries)
    table("const struct tok_range tok_script_ranges[]", [braces(a, b) for a, b in spans])

    normal = ask(python36, NORMAL)
    assert normal["version"] == "9.0.0", normal["version"]
    classes = []
    for code, value in normal["classes"]:
        if classes and classes[-1][1] == code - 1 and classes[-1][2] == value:
            classes[-1][1] = code
        else:
            classes.append([code, code, value])
    table("const struct tok_mark_range tok_mark_ranges[]", [braces(*c) for c in classes])
    table("const struct tok_decomposition tok_decompositions[]", [braces(*p) for p in normal["parts"]])
    place = {p[0]: i for i, p in enumerate(normal["parts"])}
    table("const uint16_t tok_compositions[]", [str(place[p[2]]) for p in sorted(normal["pairs"])])


main(*sys.argv[1:])
