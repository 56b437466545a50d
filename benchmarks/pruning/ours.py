"""The same cuts by ZSEI; `python -m benchmarks.pruning.ours PART` prints a JSON line a cut.

What ZSEI sees of a part is its model and its calibration inputs: no label, no partner. All that is
particular to its interface stands in the three functions that give a model.
"""

import json
import resource
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from benchmarks.pruning.costs import cost
from benchmarks.pruning.layers import STACKS
from benchmarks.pruning.parts import PARTS, SENTENCES, Part, Target, parameters
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject

MAX_DROP = 0.1
"""1 - mean cosine that the search may spend."""


def subject_of(part: Part) -> Subject:
    """The part's model with its calibration inputs."""
    model, data = part.source
    settings = Settings(samples=SENTENCES, batch_size=32, length=128)
    return prepare(model, data, settings=settings)


def cut(subject: Subject, part: Part, target: Target) -> nn.Module:
    """Heads, neurons or channels cut until a target is reached."""
    raise NotImplementedError("zsei.pruning is not wired to this benchmark yet.")


def without_layers(subject: Subject, part: Part, count: int) -> nn.Module:
    """So many layers removed."""
    raise NotImplementedError("zsei.pruning is not wired to this benchmark yet.")


def search(subject: Subject, part: Part, max_drop: float) -> nn.Module:
    """What `zsei prune --max-drop` finds."""
    raise NotImplementedError("zsei.pruning is not wired to this benchmark yet.")


def judged(part: Part, model: nn.Module, target: Target | None = None) -> dict[str, Any]:
    """All figures of one model, under the names the peers' lines have."""
    line = {"removed": parameters(part.model) - parameters(model), **part.quality(model)}
    if part.full_quality and (target is None or target.heads is not None):
        line |= part.full_quality(model)
    found = cost(part, model)
    return line | asdict(found) | {"realised": found.realised}


def main() -> None:
    """Print a line for each cut of a part: `cut`, `layers` or `search`."""
    torch.set_num_threads(1)
    part, what = PARTS[sys.argv[1]](), sys.argv[2]
    resting = _resident()
    begin = time.process_time()
    subject = subject_of(part)
    preparing = time.process_time() - begin

    def line(name: str, target: Target | None, make: Any) -> None:
        start = time.process_time()
        try:
            model = make()
        except NotImplementedError as error:
            print(json.dumps({"target": name, "error": str(error)}), flush=True)
            return
        found = {"target": name, "seconds": time.process_time() - start, "preparing": preparing}
        # Before the judging, which is not part of the cut.
        found |= {"resting_mb": resting, "peak_mb": _resident()}
        print(json.dumps(found | judged(part, model, target)), flush=True)

    if what == "cut":
        for target in part.targets:
            line(target.name, target, lambda target=target: cut(subject, part, target))
    elif what == "layers" and part.name in STACKS:
        for count in (1, 2, 3):
            line(str(count), None, lambda count=count: without_layers(subject, part, count))
    elif what == "search":
        line("search", None, lambda: search(subject, part, MAX_DROP))


def _resident() -> float:
    """Largest resident memory so far, MB (ru_maxrss is in kibibytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
