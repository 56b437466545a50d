"""Everything side by side: `python -m benchmarks.pruning [PART ...] [--fresh] [--peers-only]`.

Parts: minilm, stories, resnet, vit, layers, search; all without arguments. What the peers found is
kept under `.bench/` and found again while model, data and their scripts stay the same; `--fresh`
runs them again. ZSEI's own side always runs, each part in a process of its own.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.pruning import environment
from benchmarks.pruning.layers import STACKS, best_subset, by_block_influence, without_layers
from benchmarks.pruning.methods import METHODS, PEERS, Line, best, failures
from benchmarks.pruning.parts import PARTS
from benchmarks.pruning.table import figures, show, verdict

UNIFORM = "taylor contrastive"
"""The peers' scoring for the uniform cuts that the search is compared with."""
MARGIN = 0.05
"""Mean cosine by which the search is to be better at the same latency."""
Options = argparse.Namespace


def side_by_side(name: str, options: Options) -> None:
    """Cuts of one part by all, at each target."""
    part = PARTS[name]()
    original = part.quality(part.model)
    lines = environment.peers(part, METHODS[name], fresh=options.fresh)
    ours = [] if options.peers_only else environment.ours(name, "cut")
    print(f"\n{name}: {part.model.__class__.__name__}, original {figures(original)}")
    for target in part.targets:
        rows = []
        for label, family, without in PEERS:
            found = best(part, target, lines, family, without)
            if found:
                rows.append((f"{label}: {found['method']}, {found['ranking']}", found))
        own = next((line for line in ours if line.get("target") == target.name), None)
        if own:
            rows.append(("ZSEI", own))
        show(f"{target.name} ({target.parameters} parameters)", part, original, rows)
        if own and part.metric in own:
            print(verdict(part, target, original, lines, own))
    for failed in failures(lines):
        print(f"  did not run: {failed}")


def layers(options: Options) -> None:
    """Whole layers removed: ZSEI's choice against block influence, one to three of them."""
    for name in STACKS:
        part = PARTS[name]()
        ours = [] if options.peers_only else environment.ours(name, "layers")
        for count in (1, 2, 3):
            removed = by_block_influence(part, count)
            rows = [(f"block influence: {removed}", part.quality(without_layers(part, removed)))]
            if name != "minilm":
                # The encoder has too many subsets to judge each.
                subset, found = best_subset(part, count)
                rows.append((f"best of all on the judging data: {subset}", found))
            rows += [("ZSEI", line) for line in ours if line["target"] == str(count)]
            show(f"{name}, {count} layers", part, part.quality(part.model), rows)


def search(options: Options) -> None:
    """`zsei prune --max-drop` against uniform cuts of the same latency."""
    part = PARTS["minilm"]()
    lines = environment.uniform(part, UNIFORM, fresh=options.fresh)
    rows = [(f"uniform, {UNIFORM}: {line['target']}", line) for line in lines]
    ours = [] if options.peers_only else environment.ours("minilm", "search")
    rows += [("ZSEI", line) for line in ours]
    show("search", part, part.quality(part.model), rows)
    for line in ours:
        if "latency" in line:
            print(_search_verdict(lines, line))


def _search_verdict(lines: list[Line], own: Line) -> str:
    """The uniform cut's cosine at our latency, by straight lines between its points."""
    points = [*sorted((line["latency"], line["cosine"]) for line in lines), (1.0, 1.0)]
    x, y = zip(*points, strict=True)
    there = float(np.interp(own["latency"], x, y))
    held = own["cosine"] - there >= MARGIN
    return (
        f"  at {own['latency']:.3f} of the latency: uniform {there:.3f}, ZSEI "
        f"{own['cosine']:.3f} ({'held' if held else 'NOT held'}: {MARGIN} more); "
        f"{own['seconds']:.0f} s"
    )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__)
    runs: dict[str, Callable[[Options], None]] = {
        **{name: lambda options, name=name: side_by_side(name, options) for name in PARTS},
        "layers": layers,
        "search": search,
    }
    parser.add_argument(
        "parts", nargs="*", choices=[*runs, []], metavar="PART", help="all without arguments"
    )
    parser.add_argument("--fresh", action="store_true", help="run the peers again")
    parser.add_argument("--peers-only", action="store_true", help="leave ZSEI's own side out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts or runs:
        runs[name](options)


if __name__ == "__main__":
    main()
