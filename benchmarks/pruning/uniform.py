"""Torch-Pruning's uniform cuts of growing size, with their latency: the search's baseline.

`python -m benchmarks.pruning.uniform PART METHOD` prints a JSON line a cut: as many heads and as
large a share of the neurons in every layer.
"""

import json
import sys
from dataclasses import asdict

import torch

from benchmarks.pruning.costs import cost
from benchmarks.pruning.parts import PARTS, parameters
from benchmarks.pruning.peer import cut, method_of, prepared

HEADS = (1, 2, 3, 4, 5, 6)


def main() -> None:
    """Print a line for each size."""
    torch.set_num_threads(1)
    run = prepared(PARTS[sys.argv[1]](), method_of(sys.argv[2]))
    part = run.part
    for heads in HEADS:
        share = heads / part.heads
        # Torch-Pruning rounds the number of heads up.
        model = cut(part, run.method, run.gradients, "local", share - 0.01 / part.heads, share)
        line = {"target": f"{heads} heads", "share": share, **part.quality(model)}
        line |= {"removed": parameters(part.model) - parameters(model)}
        print(json.dumps(line | asdict(cost(part, model))), flush=True)


if __name__ == "__main__":
    main()
