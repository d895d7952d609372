#!/usr/bin/env python3
"""Reads a Chrome trace as its format's page has it ("Trace Event Format"), and says what Perfetto's trace processor would complain of.

An independent reader: it shares nothing with profiler/export. usage: chrome_check.py FILE
"""
import bisect
import collections
import json
import sys

NEEDED = {  # by phase: what each event has, beside ph, pid and name
    "X": ("tid", "ts", "dur"), "C": ("ts", "args"), "b": ("ts", "id", "cat"), "e": ("ts", "id", "cat"),
    "s": ("tid", "ts", "id", "cat"), "f": ("tid", "ts", "id", "cat"), "M": ("args",)}
problems = []


def demand(holds, *what):
    if not holds:
        problems.append(" ".join(str(word) for word in what))


def reject(text):
    raise ValueError(f"{text} is no number of JSON")


def unique(pairs):
    keys = [key for key, _ in pairs]
    demand(len(keys) == len(set(keys)), "a key twice:", keys)
    return dict(pairs)


def ns(microseconds):
    return round(1000 * microseconds)


def check_fields(event):
    kind = event.get("ph")
    demand(kind in NEEDED, "phase", kind)
    for field in NEEDED.get(kind, ()) + ("pid", "name"):
        demand(field in event, kind, "without", field)
    for field in ("ts", "dur"):
        value = event.get(field, 0)
        demand(isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0, field, value)
    for field in ("pid", "tid"):
        value = event.get(field, 0)
        demand(isinstance(value, int) and 0 <= value < 2**31, field, value)


def check_slices(track, slices):
    """Each lies in or behind the one before; the longer comes first where two begin together."""
    open_ends = []
    for start, length, name in sorted(slices, key=lambda s: (s[0], -s[1])):
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        demand(not open_ends or start + length <= open_ends[-1], "slice", name, "at", start, "of", track, "is half in another")
        open_ends.append(start + length)


def union(slices):
    """The times in which any slice of a track is open: begins and ends, in order."""
    begins, ends = [], []
    for start, length, _ in sorted(slices):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], start + length)
        else:
            begins.append(start)
            ends.append(start + length)
    return begins, ends


def check_flows(flows, slices):
    open_times = {track: union(inside) for track, inside in slices.items()}
    for key, (starts, ends) in flows.items():
        demand(len(starts) == 1 and len(ends) >= 1, "flow", key, "has", len(starts), "starts and", len(ends), "ends")
        for event in starts + ends:
            opened, closed = open_times.get((event["pid"], event["tid"]), ([], []))
            at = bisect.bisect_right(opened, ns(event["ts"])) - 1
            demand(at >= 0 and ns(event["ts"]) <= closed[at], "flow", key, "is bound to no slice")
        if starts and ends:
            demand(min(ns(e["ts"]) for e in ends) >= ns(starts[0]["ts"]), "flow", key, "ends before it starts")


def check_async(key, events):
    depth = 0
    for event in sorted(events, key=lambda e: (ns(e["ts"]), e["ph"] == "e")):
        depth += 1 if event["ph"] == "b" else -1
        demand(depth in (0, 1), "async", key, "begins or ends twice")
    demand(depth == 0, "async", key, "is not paired")


def check(events):
    """Fills `problems`; gives how many slices, flows, pairs and counters there are."""
    problems.clear()
    slices, flows = collections.defaultdict(list), collections.defaultdict(lambda: ([], []))
    counters, pairs, named = {}, collections.defaultdict(list), set()
    for event in events:
        check_fields(event)
        kind = event["ph"]
        if kind == "X":
            slices[event["pid"], event["tid"]].append((ns(event["ts"]), ns(event["dur"]), event["name"]))
        elif kind in "sf":
            flows[event["cat"], event["id"]][kind == "f"].append(event)
        elif kind in "be":
            pairs[event["pid"], event["cat"], event["id"]].append(event)
        elif kind == "C":
            track = event["pid"], event["name"]
            demand(counters.get(track, 0) <= event["ts"], "counter", track, "goes back at", event["ts"])
            counters[track] = event["ts"]
            demand(all(isinstance(v, (int, float)) for v in event["args"].values()), "counter", track, "counts no number")
        elif event["name"] == "thread_name":
            named.add((event["pid"], event["tid"]))
    for track, inside in slices.items():
        check_slices(track, inside)
        demand(track in named, "track", track, "has no name")
    check_flows(flows, slices)
    for key, both in pairs.items():
        check_async(key, both)
    return {"slices": sum(map(len, slices.values())), "flows": len(flows), "async": len(pairs), "counters": len(counters)}


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file, parse_constant=reject, object_pairs_hook=unique)["traceEvents"]


def main(path):
    counts = check(read(path))
    print(*(f"{count} {name}" for name, count in counts.items()))
    print(*problems[:10], sep="\n", end="")
    return 1 if problems or not all(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
