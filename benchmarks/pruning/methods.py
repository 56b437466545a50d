"""Which ways of scoring Torch-Pruning gets on each part, and the best of what they found."""

from collections.abc import Iterable
from typing import Any

from benchmarks.pruning.parts import Part, Target

_RANDOM = ("random 0", "random 1", "random 2")
METHODS: dict[str, tuple[str, ...]] = {
    "minilm": (
        "taylor contrastive", "magnitude", "hessian contrastive", *_RANDOM, "taylor sum",
        "hessian projection", "taylor projection", "lamp",
    ),
    "stories": (
        "magnitude", "taylor labels", "hessian labels", "hessian projection", "taylor projection",
        "taylor sum", *_RANDOM, "wide magnitude", "wide taylor labels", "as-built magnitude",
    ),
    "resnet": (
        "magnitude", "batch norm", "lamp", "fpgm", "taylor labels", "taylor projection",
        "hessian labels", "hessian projection", *_RANDOM, "wide magnitude",
    ),
    "vit": (
        "magnitude", "lamp", "taylor labels", "taylor projection", "hessian labels",
        "hessian projection", *_RANDOM, "wide magnitude", "wide taylor labels",
    ),
}  # fmt: skip

Line = dict[str, Any]


NONE = "none"
OURS = "projection"
"""The loss that is no usual one with Torch-Pruning: ZSEI's own idea, lent to it."""


def best(
    part: Part, target: Target, lines: Iterable[Line], family: str = "", without: str = NONE
) -> Line | None:
    """The line of best quality at a target, among methods whose name holds `family`.

    Methods whose name holds `without` are left out.
    """
    sign = 1 if part.larger_is_better else -1
    fitting = [
        line
        for line in lines
        if line.get("target") == target.name
        and part.metric in line
        and family in line["method"]
        and without not in line["method"]
    ]
    # Of lines of one quality the one with more figures.
    return max(fitting, key=lambda line: (sign * line[part.metric], len(line)), default=None)


PEERS = (
    ("Torch-Pruning, best", "", NONE),
    ("  best with usual losses", "", OURS),
    ("  magnitude", "magnitude", NONE),
    ("  random, best of 3", "random", NONE),
)
"""Rows of a table: what they are called, what the method's name holds, and what it does not."""


def failures(lines: Iterable[Line]) -> list[str]:
    """What did not run, once each."""
    found = [f"{line['method']}: {line['error']}" for line in lines if "error" in line]
    return list(dict.fromkeys(found))
