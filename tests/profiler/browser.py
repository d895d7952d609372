#!/usr/bin/env python3
"""Opens an HTML report in a headless Chromium, over a pipe and with no other package, and says what does not hold.

usage: browser.py [--pair] CHROMIUM PAGE JSON [SCREENSHOT_PREFIX]
PAGE is opened from file://. It must ask for nothing from anywhere, say nothing on the console, show the figures of JSON on
its cards, name owner and borrower in its KV map below the pointer and the focus, be no wider than its window, have colours that
colour-blind readers can tell apart, and be whole on paper. With a
prefix, PREFIX-light.webp and PREFIX-dark.webp are written too. With --pair, PAGE is of two traces, the second of which shares,
and JSON is of `report --diff`.
"""
import base64
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time

WIDTHS = [320, 768, 1440, 3840]


class Browser:
    """DevTools over --remote-debugging-pipe: the browser reads its descriptor 3 and writes 4, a NUL behind each message."""

    def __init__(self, program, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--no-first-run", "--user-data-dir=" + profile, "--remote-debugging-pipe", "about:blank"]
        # 3 and 4 may be pipes of ours already: by way of higher numbers.
        high = [os.dup2(to_browser, 100), os.dup2(from_browser, 101)]
        script = 'exec 3<&100 4>&101 100<&- 101>&-; exec "$@"'
        self.process = subprocess.Popen(["bash", "-c", script, "bash", program, *flags], pass_fds=high,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in [to_browser, from_browser, *high]:
            os.close(fd)
        self.buffer, self.last_id, self.session, self.events = b"", 0, None, []

    def receive(self):
        while b"\0" not in self.buffer:
            got = os.read(self.read_end, 1 << 16)
            if not got:
                sys.exit("the browser ended")
            self.buffer += got
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def open(self, page):
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Network", "Runtime", "Log"]:
            self.call(domain + ".enable")
        self.call("Page.navigate", url="file://" + os.path.abspath(page))
        for _ in range(200):
            if self.run("document.readyState") == "complete" and self.run("location.protocol") == "file:":
                return
            time.sleep(0.05)
        sys.exit("the page does not load")

    def run(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            sys.exit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def width(self, pixels, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def key(self, name):
        code = {"ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13}[name]
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def close(self):
        self.session = None
        self.call("Browser.close")
        self.process.wait(20)


def size_text(count):
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]:
        if count < 1024 or unit == "PiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024


def require(holds, what):
    if not holds:
        sys.exit(f"browser.py: {what}")


def check_pair_cards(browser, diff):
    cards = browser.run("[...document.querySelectorAll('[data-json]')].map(e => "
                        "[e.dataset.json, e.dataset.value, e.textContent])")
    shown = [r for r in diff["memory"] if r["a"] or r["b"]] + [r for r in diff["phases"] if r["unit"] == "tokens/s"]
    require(len(cards) == 2 * len(shown), f"{len(cards)} figures on cards, {len(shown)} rows")
    for path, value, text in cards:
        section, index, side = path.split(".")
        row = diff[section][int(index)]
        require(float(value) == row[side], f"{path}: {value} on the page, {row[side]} in the JSON")
        expected = size_text(row[side]) if row["unit"] == "bytes" else f"{row[side]:.1f} tok/s"
        require(text == expected, f"{path}: \"{text}\" on the page, {expected} in the JSON")


def check_pair_lines(browser):
    """The chart says what is held, and the lines differ in everybody's eyes."""
    browser.run("document.querySelector('#plot').focus()")
    for key in ["ArrowLeft", "ArrowRight"]:  # there and back: the cursor begins at the peak of A
        browser.key(key)
    text = browser.run("document.querySelector('#plot-readout').textContent")
    peaks = browser.run("[...document.querySelectorAll('#sides b')].map(e => e.textContent)")
    points = browser.run("JSON.parse(document.getElementById('points').textContent).points")
    highest = [size_text(max(point[side] for point in points)) for side in [1, 2]]
    require(f"A {peaks[0]}" in text, f"the chart says {text}, peaks are {peaks}")
    require(highest == peaks, f"the lines rise to {highest}, peaks are {peaks}")
    for scheme in ["light", "dark"]:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        strokes = browser.run("[...document.querySelectorAll('path.line')].map(e => getComputedStyle(e).stroke)")
        a, b = [[int(n) for n in re.findall(r"\d+", stroke)[:3]] for stroke in strokes]
        for name, matrix in DEFICIENCIES.items():
            distance = math.dist(lab_of(a, matrix), lab_of(b, matrix))
            require(distance >= LEAST_DISTANCE, f"the lines are {distance:.1f} apart in {scheme}, with {name}")
    browser.call("Emulation.setEmulatedMedia", features=[])


def check_pair_maps(browser):
    count = "document.querySelectorAll('#kv-{} .{}').length"
    require(browser.run(count.format("a", "borrow")) == 0, "the first run borrows")
    require(browser.run(count.format("b", "borrow")) > 0, "the second run borrows nothing")
    point_at(browser, "document.querySelector('#kv-b .borrow rect')")
    text = browser.run("document.querySelector('#kv-b .readout').textContent")
    require("borrowed by layer" in text, f"the map says of a borrowed block: {text}")


def check_cards(browser, report):
    cards = browser.run("[...document.querySelectorAll('[data-json]')].map(e => "
                        "[e.dataset.json, e.dataset.value, e.textContent, getComputedStyle(e).visibility])")
    require(len(cards) == 8, f"{len(cards)} cards")
    for path, value, text, _ in cards:
        figure = report
        for key in path.split("."):
            figure = figure[key]
        require(int(value) == figure, f"{path}: {value} on the page, {figure} in the JSON")
        if path.endswith("_bytes"):
            require(text == size_text(figure), f"{path}: \"{text}\" on the page, {size_text(figure)} in the JSON")


def point_at(browser, expression):
    """Scroll there, and move the mouse onto the middle."""
    x, y = browser.run(f"(() => {{ const e = {expression}; e.scrollIntoView({{block: 'nearest'}}); const b = "
                       "e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def check_map(browser, report):
    borrowed = [r for r in report["kv_map"] if r["owner"] is not None]
    require(borrowed, "the run shares nothing: nothing to check")
    readout = "document.querySelector('.map + .readout').textContent"
    for kind, side in [("K", "K"), ("V", "V")]:
        row = next(r for r in borrowed if r["which"] == kind)
        owner, layer, block = f"layer {row['owner']}", f"layer {row['layer']}", row["blocks"][0]
        cell = f"document.querySelector('svg[data-side={side}] .borrow rect[data-h=\"{block}\"]')"
        point_at(browser, cell)
        text = browser.run(readout)
        require(f"Owner: {owner};" in text and f"borrowed by {layer}" in text and f"#{block}" in text,
                f"the map says of a borrowed block: {text}")
        require(browser.run("document.querySelectorAll('.linked').length") == 2, "owner and borrower are not linked")
    # By keyboard: one stop of the tab key, then down the layers to a borrower.
    require(browser.run("document.querySelectorAll('.map [tabindex=\"0\"]').length") == 1, "the map has one tab stop")
    browser.run("document.querySelector('.map [tabindex=\"0\"]').focus()")
    lines = sorted({r["layer"] for r in report["kv_map"]})
    for _ in range(lines.index(borrowed[0]["layer"])):
        browser.key("ArrowDown")
    text = browser.run(readout)
    require(text.startswith(f"layer {borrowed[0]['layer']}, K") and f"Owner: layer {borrowed[0]['owner']}" in text,
            f"the focus says: {text}")
    require(browser.run("[...document.querySelectorAll('rect[data-h]')].every(e => e.getAttribute('aria-label'))"),
            "a block has no label")


def check_tables(browser, table):
    """A click sorts the other way, and the keyboard does it too."""
    column = f"[...document.querySelector('{table}').tBodies[0].rows].map(r => Number(r.cells[2].dataset.n))"
    head = f"document.querySelector('{table}').tHead.rows[0].cells[2].querySelector('button')"
    point_at(browser, head)
    browser.run(head + ".click()")
    first = browser.run(column)
    require(first == sorted(first, reverse=True), "the first click does not sort downwards")
    browser.run(head + ".focus()")
    browser.run(head + ".click()")
    require(browser.run(column) == sorted(first), "the second click does not sort upwards")


def check_chart(browser):
    browser.run("document.querySelector('#plot').focus()")
    browser.key("ArrowLeft")
    text = browser.run("document.querySelector('#plot-readout').textContent")
    require("iB at " in text and " s" in text, f"the chart says: {text}")


def check_widths(browser):
    for width in WIDTHS:
        browser.width(width)
        wide = browser.run("document.documentElement.scrollWidth")
        widest = browser.run("[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') && "
                             f"e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 80))")
        require(wide <= width, f"at {width} pixels the page is {wide} wide: {widest}")


def check_quiet(browser):
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    require(len([u for u in asked if u.startswith("file:")]) == 1, f"asked for {asked}")
    require(all(u.startswith(("file:", "data:")) for u in asked), f"asked for {asked}")
    said = [e for e in browser.events if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown",
                                                         "Log.entryAdded")]
    require(not said, f"on the console: {said}")


# Machado, Oliveira and Fernandes 2009, full severity; they work on linear RGB.
DEFICIENCIES = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LEAST_DISTANCE = 12  # in CIELAB (CIE 1976), where 2.3 is just noticeable


def lab_of(colour, matrix):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    r, g, b = (min(max(sum(m * c for m, c in zip(row, linear)), 0), 1) for row in matrix)
    xyz = [(0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505, 0.2126 * r + 0.7152 * g + 0.0722 * b,
           (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def check_colours(browser):
    """Kinds of memory that are drawn next to each other differ in everybody's eyes, in light and dark."""
    for scheme in ["light", "dark"]:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        fills = browser.run("[...document.querySelectorAll('#memory path[class^=k]')].map(e => getComputedStyle(e).fill)")
        require(len(fills) > 3, f"the chart has {len(fills)} areas")
        colours = [[int(n) for n in re.findall(r"\d+", fill)[:3]] for fill in fills]
        for name, matrix in DEFICIENCIES.items():
            seen = [lab_of(colour, matrix) for colour in colours]
            for i in range(1, len(seen)):
                distance = math.dist(seen[i - 1], seen[i])
                require(distance >= LEAST_DISTANCE,
                        f"{fills[i - 1]} and {fills[i]} are {distance:.1f} apart in {scheme}, with {name}")
    browser.call("Emulation.setEmulatedMedia", features=[])


def check_print(browser):
    """On paper: black on white whatever the screen has, nothing hidden behind a scroll bar, nothing that only a pointer fills."""
    browser.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.width(794)  # A4 at 96 dots per inch
    look = browser.run("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    require(look == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"], f"on paper: {look}")
    cut = browser.run("[...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflow !== 'visible').length")
    require(cut == 0, f"{cut} tables are cut on paper")
    require(browser.run("document.documentElement.scrollWidth") <= 794, "the page is wider than the paper")
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    require(pdf.startswith(b"%PDF") and len(pdf) > 20000, f"a print of {len(pdf)} bytes")
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def shoot(browser, page, prefix, last):
    """A fresh page down to the end of the KV map (`last`), with a borrowed block below the pointer."""
    browser.open(page)
    browser.width(1280, 1400)
    height = int(browser.run("document.querySelector('{last}').getBoundingClientRect().bottom".replace("{last}", last))) + 16
    for name in ["light", "dark"]:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])
        browser.width(1280, height)
        point_at(browser, "document.querySelector('svg[data-side=K] .borrow rect')")
        image = browser.call("Page.captureScreenshot", format="webp", quality=80)
        with open(f"{prefix}-{name}.webp", "wb") as file:
            file.write(base64.b64decode(image["data"]))


def check_one(browser, report):
    check_cards(browser, report)
    check_map(browser, report)
    check_tables(browser, "#call-table")
    check_chart(browser)
    check_colours(browser)


def check_pair(browser, diff):
    check_pair_cards(browser, diff)
    check_pair_maps(browser)
    check_tables(browser, "#calls-table")
    check_pair_lines(browser)


def main():
    pair = sys.argv[1] == "--pair"
    program, page, report_path, *prefix = sys.argv[2 if pair else 1:]
    with open(report_path, encoding="utf-8") as file:
        report = json.load(file)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        browser.open(page)
        browser.width(1440)
        (check_pair if pair else check_one)(browser, report)
        check_widths(browser)
        check_print(browser)
        check_quiet(browser)
        if prefix:
            shoot(browser, page, prefix[0], "#kv-b" if pair else "#kv")
        browser.close()


main()
