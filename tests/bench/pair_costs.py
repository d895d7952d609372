#!/usr/bin/env python3
"""What the cost of a pair depends on, from the trials of a search by loss: its first step measures every pair alone.

usage: tests/bench/pair_costs.py PLAN [PLAN]
    PLAN     of `calibrate --method nll`, with or without --split-kv; a second one is compared with the first

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
    return trials, plan["layers"], tokens


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


def print_groups(pairs, layers):
    least = min(nll for nll, _ in pairs.values())
    print("| pairs | number | least | median |\n|---|---|---|---|")
    for name, fits in [("all", lambda *_: True)] + GROUPS:
        costs = [nll - least for (layer, owner), (nll, _) in pairs.items() if fits(layer, owner, layers)]
        if costs:
            print(f"| {name} | {len(costs)} | {min(costs):.3f} | {median(costs):.3f} |")


def print_distances(pairs):
    """By quarters of the distance of K and V, which KVSharer orders pairs by."""
    least = min(nll for nll, _ in pairs.values())
    order = sorted((distance, nll - least) for nll, distance in pairs.values())
    print("\n| K and V of the two layers | least | median |\n|---|---|---|")
    for i, name in enumerate(["the most similar quarter", "the second", "the third", "the least similar quarter"]):
        costs = [cost for _, cost in order[i * len(order) // 4:(i + 1) * len(order) // 4]]
        print(f"| {name} | {min(costs):.3f} | {median(costs):.3f} |")


def print_correlations(pairs):
    costs = [nll for nll, _ in pairs.values()]
    print("\nRank correlation of the cost with: "
          f"the distance of K and V {spearman(costs, [d for _, d in pairs.values()]):+.2f}, "
          f"the layers between {spearman(costs, [l - o for l, o in pairs]):+.2f}, "
          f"the layer that borrows {spearman(costs, [l for l, _ in pairs]):+.2f}, "
          f"its owner {spearman(costs, [o for _, o in pairs]):+.2f}")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    trials, layers, tokens = first_trials(sys.argv[1])
    for tensor, pairs in trials.items():
        print(f"## {tensor}: {len(pairs)} pairs, {tokens} tokens\n")
        print_groups(pairs, layers)
        print_distances(pairs)
        print_correlations(pairs)
        print()
    if len(sys.argv) == 3:
        others, _, _ = first_trials(sys.argv[2])
        for tensor in trials.keys() & others.keys():
            both = sorted(trials[tensor].keys() & others[tensor].keys())
            print(f"Rank correlation of {tensor} with that in {sys.argv[2]}, {len(both)} pairs: "
                  f"{spearman([trials[tensor][p][0] for p in both], [others[tensor][p][0] for p in both]):+.2f}")


main()
