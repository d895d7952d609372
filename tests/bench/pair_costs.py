#!/usr/bin/env python3
"""What the cost of a pair depends on, from the trials of a search by loss: its first step measures every pair alone.

usage: tests/bench/pair_costs.py PLAN...
    PLAN     of `calibrate --method nll`, with or without --split-kv; the second and later ones are compared with the first

Prints tables in Markdown, in nats above the cheapest pair, and how two orders of the pairs agree (Spearman's rank correlation: 1 is the
same order, 0 is none, -1 the opposite).
"""
import json
import sys
from statistics import median

GROUPS = [
    ("owner is layer 0", lambda layer, owner, layers: owner == 0),
    ("owner is layer 1 to 3", lambda layer, owner, layers: 1 <= owner <= 3),
    ("owner is the layer below (4 or higher)", lambda layer, owner, layers: owner > 3 and layer - owner == 1),
    ("two or three below", lambda layer, owner, layers: owner > 3 and 2 <= layer - owner <= 3),
    ("farther", lambda layer, owner, layers: owner > 3 and layer - owner > 3),
    ("the layer that borrows is 1 to 4", lambda layer, owner, layers: 1 <= layer <= 4),
    ("5 to 9", lambda layer, owner, layers: 5 <= layer <= 9),
    ("10 to a sixth below the last", lambda layer, owner, layers: 10 <= layer < layers - layers // 6),
    ("the last sixth", lambda layer, owner, layers: layer >= max(10, layers - layers // 6)),
]


def first_trials(path):
    """{tensor: {(layer, owner): (nll, distance)}}: each pair's first trial, alone and on the same tokens as the others."""
    plan = json.load(open(path))
    trials, tokens = {}, None
    for trial in plan["calibration"]["trials"]:
        if trial["walk"] != "nll":
            continue
        tokens = tokens or trial["tokens"]
        pairs, key = trials.setdefault(trial["tensor"], {}), (trial["layer"], trial["owner"])
        if trial["tokens"] == tokens and key not in pairs:
            pairs[key] = trial["nll"], trial["distance"]
    if not trials:
        sys.exit(f"{path}: has no trials of a search by loss")
    return trials, plan["layers"]


def ranks(values):
    """Ranks from 1 on; equal values share their mean."""
    order, out, at = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for i in order[at:end]:
            out[i] = (at + end + 1) / 2
        at = end
    return out


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    spread = (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5
    return covariance / spread if spread else 0.0


def quarters(pairs):
    """Names and pairs by quarters of the distance of K and V, which KVSharer orders pairs by."""
    order = sorted(pairs, key=lambda pair: pairs[pair][1])
    names = "K and V: the most similar quarter", "the second", "the third", "the least similar quarter"
    for i, name in enumerate(names):
        yield name, order[i * len(order) // 4:(i + 1) * len(order) // 4]


def groups(pairs, layers):
    yield "all", list(pairs)
    for name, fits in GROUPS:
        yield name, [pair for pair in pairs if fits(*pair, layers)]
    yield from quarters(pairs)


def print_groups(plans, tensor):
    print("| pairs | number |" + "".join(f" {path}: least | median |" for path, _, _ in plans))
    print("|---|---|" + "---|---|" * len(plans))
    rows = {}
    for _, trials, layers in plans:
        least = min(nll for nll, _ in trials[tensor].values())
        for name, chosen in groups(trials[tensor], layers):
            costs = [trials[tensor][pair][0] - least for pair in chosen]
            rows.setdefault(name, [str(len(costs))]).extend([f"{min(costs):.3f}", f"{median(costs):.3f}"] if costs else ["", ""])
    for name, cells in rows.items():
        if int(cells[0]):
            print(f"| {name} | " + " | ".join(cells) + " |")


def print_correlations(plans, tensor):
    print("\n| rank correlation of the cost with |" + "".join(f" {path} |" for path, _, _ in plans))
    print("|---|" + "---|" * len(plans))
    measures = {"the distance of K and V": lambda pair, distance: distance, "the layers between": lambda pair, _: pair[0] - pair[1],
                "the layer that borrows": lambda pair, _: pair[0], "its owner": lambda pair, _: pair[1]}
    for name, measure in measures.items():
        cells = [spearman([nll for nll, _ in trials[tensor].values()], [measure(pair, d) for pair, (_, d) in trials[tensor].items()])
                 for _, trials, _ in plans]
        print(f"| {name} | " + " | ".join(f"{cell:+.2f}" for cell in cells) + " |")
    first = plans[0][1][tensor]
    for path, trials, _ in plans[1:]:
        both = sorted(first.keys() & trials[tensor].keys())
        print(f"\nWith the same pairs in {path}: {spearman([first[p][0] for p in both], [trials[tensor][p][0] for p in both]):+.2f}")


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    plans = [(path, *first_trials(path)) for path in sys.argv[1:]]
    for tensor in plans[0][1]:
        print(f"## {tensor}\n")
        print_groups([plan for plan in plans if tensor in plan[1]], tensor)
        print_correlations([plan for plan in plans if tensor in plan[1]], tensor)
        print()


main()
