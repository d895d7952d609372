#!/usr/bin/env python3
"""The texts of docs/measurements/: two books of Rust's documentation, without markup, each as two halves for a search and a measurement.

Needs the component rust-docs of a Rust toolchain. Writes into FOLDER, in bytes:
  fit.txt, test.txt            the first 630,000 and the last 600,000 of The Rust Programming Language
  ref-fit.txt, ref-test.txt    the first and the last 1,000,000 of the Rust Reference
  other.txt, reference-spread.txt      16 pieces of 2,400 characters from all over test.txt and the Reference
  book-test.txt, reference-test.txt    5,200 characters from a third of them and from two thirds
The digests are of the texts that were measured, from Rust 1.95; another version of the books gives other losses, and a warning.
usage: rust_texts.py FOLDER [DOCS]    (DOCS: share/doc/rust/html of a toolchain; rustc's own)
"""
import hashlib
import html
import pathlib
import re
import subprocess
import sys

MEASURED = {  # the first 16 digits of SHA-256
    "fit.txt": "b3f6be0e08551d72",
    "test.txt": "37f8341acdabf916",
    "ref-fit.txt": "7da6a91888efb2ff",
    "ref-test.txt": "3518742582277c2e",
    "other.txt": "22f9efdb232ec547",
    "reference-spread.txt": "cc633d1121eeb5d5",
    "book-test.txt": "5052408e8341bf12",
    "reference-test.txt": "c3b404ced03ce40d",
}


def text_of(page):
    """The page's own text, without navigation; None of a page that only leads to another."""
    main = re.search(r"<main>(.*?)</main>", page.read_text(errors="ignore"), re.S)
    return main and re.sub(r"\n\s*\n", "\n\n", html.unescape(re.sub(r"<[^>]+>", "", main.group(1))))


def text_of_all(pages):
    return "\n".join(text for text in map(text_of, sorted(pages, key=str)) if text is not None)


def spread(text):
    step = (len(text) - 2400) // 15
    return "".join(text[i * step:i * step + 2400] + "\n" for i in range(16))


def thirds(text):
    return "".join(text[at:at + 5200] + "\n" for at in (len(text) // 3, 2 * len(text) // 3))


def docs_of_rustc():
    try:
        root = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"rust_texts.py: rustc does not tell where it is: {error}; name DOCS")
    return root + "/share/doc/rust/html"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder, docs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else docs_of_rustc())
    book = text_of_all((docs / "book").glob("ch*.html")).encode()
    reference = text_of_all((docs / "reference").rglob("*.html"))
    if not book or not reference:
        sys.exit(f"rust_texts.py: {docs} has no book or no reference: rustup component add rust-docs")
    test = book[-600000:]
    texts = {"fit.txt": book[:630000], "test.txt": test, "ref-fit.txt": reference.encode()[:1000000],
             "ref-test.txt": reference.encode()[-1000000:], "other.txt": spread(test.decode(errors="ignore")[16000:]).encode(),
             "reference-spread.txt": spread(reference).encode(),
             "book-test.txt": thirds(test.decode(errors="ignore")).encode(), "reference-test.txt": thirds(reference).encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
        digest = hashlib.sha256(text).hexdigest()[:16]
        if digest != MEASURED[name]:
            print(f"rust_texts.py: {name} is not the text that was measured: {digest}", file=sys.stderr)


main()
