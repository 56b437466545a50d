"""Torch-Pruning on one part with one way of scoring; runs in an environment of its own.

`python -m benchmarks.pruning.peer PART METHOD` prints one JSON line a cut. Nothing is trained
afterwards. The ratio is searched until the number of parameters fits, for each share of heads that
comes near; the best of what fits is for the reader to choose.
"""

import copy
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pruning.losses import (
    LOSSES,
    mean_gradient,
    mean_square_gradient,
    zero_gradient,
)
from benchmarks.pruning.parts import PARTS, Part, Target, parameters
from benchmarks.pruning.recipes import RECIPES, without_concatenation

RANKINGS: dict[str, dict[str, Any]] = {
    "local": {"global_pruning": False},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
HEAD_STEPS = {"minilm": (-1, 0), "vit": (-1, 0, 1)}
"""Numbers of heads a layer to try, from the parameters' own share. The Llama keeps all its heads
whatever is asked (grouped queries), in every ranking."""
NEAR = 0.01
"""Share of the counted parameters by which what is left may miss a target."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of scoring."""

    importance: Callable[[Any], Any]
    """Makes the importance from the module torch_pruning."""
    loss: str = ""
    squared: bool = False
    rankings: tuple[str, ...] = ("local", "global", "isomorphic")
    seed: int = 0
    wide: bool = False
    """With the recipe that cuts the residual stream too."""
    as_built: bool = False
    """The Llama as transformers builds it: rotary embedding by concatenation, cache in use."""


def _methods() -> dict[str, Method]:
    found = {
        "magnitude": Method(importance=lambda tp: tp.importance.MagnitudeImportance(p=2)),
        "lamp": Method(
            importance=lambda tp: tp.importance.LAMPImportance(), rankings=("global", "isomorphic")
        ),
        "fpgm": Method(importance=lambda tp: tp.importance.FPGMImportance(), rankings=("local",)),
        "batch norm": Method(importance=lambda tp: tp.importance.BNScaleImportance()),
    }
    for seed in range(3):
        found[f"random {seed}"] = Method(
            importance=lambda tp: tp.importance.RandomImportance(), rankings=("local",), seed=seed
        )
    for loss in LOSSES:
        found[f"taylor {loss}"] = Method(
            importance=lambda tp: tp.importance.TaylorImportance(), loss=loss
        )
        found[f"hessian {loss}"] = Method(
            importance=lambda tp: tp.importance.HessianImportance(), loss=loss, squared=True
        )
    return found


METHODS = _methods()
"""By name; `wide` or `as-built` may stand before it."""


def method_of(name: str) -> Method:
    """The method of a name, with what stands before it."""
    for word, change in (("wide ", {"wide": True}), ("as-built ", {"as_built": True})):
        if name.startswith(word):
            return replace(method_of(name.removeprefix(word)), **change)
    return METHODS[name]


def cut(
    part: Part, method: Method, gradients: dict[str, Tensor], ranking: str, heads: float,
    neurons: float,
) -> nn.Module:  # fmt: skip
    """A cut copy of the part's model."""
    tp: Any = import_module("torch_pruning")

    model = copy.deepcopy(part.model)
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    recipe = RECIPES[part.name](model, method.wide)
    # One short batch: the graph depends on no size of it.
    inputs = {name: values[:2] for name, values in part.calibration[0].items()}

    def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return model(**inputs).logits if method.as_built else part.forward(model, inputs)

    torch.manual_seed(method.seed)
    pruner = tp.pruner.BasePruner(
        model, inputs, importance=method.importance(tp), pruning_ratio=neurons,
        head_pruning_ratio=heads, ignored_layers=recipe.ignored, num_heads=dict(recipe.heads),
        out_channel_groups={}, in_channel_groups={}, channel_groups={},
        prune_num_heads=bool(recipe.heads), prune_head_dims=not recipe.heads, forward_fn=forward,
        **RANKINGS[ranking],
    )  # fmt: skip
    pruner.step()
    recipe.repair(model)
    return model.eval()


def discard() -> None:
    """Free the pruners of earlier cuts: their graphs refer to themselves, and to a model each."""
    gc.collect()


def fitted(
    part: Part, target: Target, make: Callable[[float, float], nn.Module]
) -> Iterator[tuple[float, float, nn.Module]]:
    """(share of heads, share of neurons, model) for each share of heads that reaches the target."""
    if target.heads is not None and target.neurons is not None:
        yield target.heads, target.neurons, make(target.heads, target.neurons)
        return
    near = round(target.parameters / part.counted * part.heads)
    steps = [max(0, near + step) for step in HEAD_STEPS.get(part.name, (-near,))]
    for step in sorted(set(steps)):
        # Torch-Pruning rounds the number of heads up.
        heads = max(0.0, step - 0.01) / max(part.heads, 1)
        low, high, best = 0.0, 0.95, None
        for _ in range(9):
            middle = (low + high) / 2
            model = make(heads, middle)
            missing = parameters(part.model) - parameters(model) - target.parameters
            if best is None or abs(missing) < best[0]:
                best = (abs(missing), middle, model)
            if abs(missing) <= NEAR / 10 * part.counted:
                break
            low, high = (middle, high) if missing < 0 else (low, middle)
        assert best is not None
        if best[0] <= NEAR * (part.counted - target.parameters):
            yield heads, best[1], best[2]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one part, scored."""

    part: Part
    method: Method
    gradients: dict[str, Tensor]
    seconds: float
    """CPU time that scoring took."""
    resting_mb: float
    """Largest resident memory before it."""


def prepared(part: Part, method: Method) -> Run:
    """Gradients for a method on a part, once for all its cuts."""
    if not method.as_built:
        without_concatenation()
    resting = _resident()
    begin = time.process_time()
    torch.manual_seed(method.seed)
    if method.loss:
        gradient = mean_square_gradient if method.squared else mean_gradient
        gradients = gradient(part, LOSSES[method.loss])
    else:
        gradients = zero_gradient(part.model)
    seconds = time.process_time() - begin
    return Run(
        part=part, method=method, gradients=gradients, seconds=seconds, resting_mb=resting
    )  # fmt: skip


def cuts(run: Run, ranking: str, target: Target) -> Iterator[tuple[dict[str, Any], nn.Module]]:
    """A line and a model for each way of reaching a target."""
    part, taken = run.part, []

    def make(heads: float, neurons: float) -> nn.Module:
        start = time.process_time()
        model = cut(part, run.method, run.gradients, ranking, heads, neurons)
        taken.append(time.process_time() - start)
        discard()
        return model

    for heads, neurons, model in fitted(part, target, make):
        line = {"ranking": ranking, "target": target.name, "heads": heads, "neurons": neurons}
        line |= {"removed": parameters(part.model) - parameters(model), **part.quality(model)}
        line |= {"seconds": run.seconds + min(taken), "cut_seconds": min(taken)}
        yield line | {"resting_mb": run.resting_mb, "peak_mb": _resident()}, model


def main() -> None:
    """Print a line for each cut of one part by one method, then the dear figures of the best."""
    torch.set_num_threads(1)
    run = prepared(PARTS[sys.argv[1]](), method_of(sys.argv[2]))
    part, prescribed = run.part, []
    for ranking in run.method.rankings:
        if part.name == "minilm" and ranking == "global":
            continue  # The dearest part to judge; there isomorphic differs from it little.
        for target in part.targets:
            try:
                for line, model in cuts(run, ranking, target):
                    print(json.dumps(line), flush=True)
                    if target.heads is not None:
                        prescribed.append((line, model))
            except Exception as error:
                reason = next(iter(str(error).splitlines()), "")[:200]
                failed = {"ranking": ranking, "target": target.name}
                failed |= {"error": f"{type(error).__name__}: {reason}"}
                print(json.dumps(failed), flush=True)
    if prescribed and part.full_quality:
        sign = 1 if part.larger_is_better else -1
        line, model = max(prescribed, key=lambda found: sign * found[0][part.metric])
        print(json.dumps(line | part.full_quality(model)), flush=True)


def _resident() -> float:
    """Largest resident memory so far, MB (ru_maxrss is in kibibytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
