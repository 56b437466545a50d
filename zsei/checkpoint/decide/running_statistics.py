"""What a cut does to the running statistics of the batch norms behind it.

A batch norm subtracts the mean its channels had in training. When units in front of it go, the mean
moves and the stored one is wrong until training has forgotten it, which alone can double the loss
of a model whose cut is otherwise harmless. So the statistics are measured before and after the cut
on the calibration data, each batch with its own, and the stored ones move by the difference; where
a cut changes nothing, they stay as they are to the bit.

References: Ioffe and Szegedy, "Batch normalization", 2015; Li et al., "EagleEye: fast sub-net
evaluation for efficient neural network pruning", 2020, for renewing them before judging a cut.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import operation
from zsei.subject.types import Batch
from zsei.surgery.calls import tensor_of
from zsei.surgery.edits import Edit
from zsei.surgery.program_form import plan_edits
from zsei.surgery.resize import keep

NORM = "_native_batch_norm_legit_no_training"
"""What `torch.export` makes of a batch norm in eval mode: input, weight, bias, mean, variance."""
_LEAST = 1e-12


def renewed_statistics(
    original: Program, edited: Program, edits: Sequence[Edit], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """Buffer of a batch norm -> its value behind the cut, [channels left].

    - mean: m + (μ' - μ), with m the stored mean and μ, μ' the mean over positions of what enters,
      averaged over the batches, without and with the cut
    - variance: v · σ'² / σ², with v the stored one

    Only those that the cut moves are named. Empty where there is no batch norm.

    Misleads when: the calibration data is unlike what is trained on: only the difference is taken
    from it, but a difference that training would not see is one all the same.
    """
    if not _norms(original):
        return {}
    batches = list(batches)
    before, after = _measured(original, batches), _measured(edited, batches)
    stored = {name: tensor_of(original.graph_module, node) for name, node in _buffers(original)}
    gone = plan_edits(original, edits).group.parameters
    found: dict[str, Tensor] = {}
    for name, now in after.items():
        cut = gone.get(name, {})
        was, kept = keep(before[name], cut), keep(stored[name].detach(), cut)
        if torch.equal(was, now):
            continue
        mean = name.endswith("running_mean")
        moved = kept + (now - was) if mean else kept * (now / was.clamp_min(_LEAST))
        found[name] = moved.to(kept.dtype)
    return found


def put_statistics(program: Program, values: Mapping[str, Tensor]) -> Program:
    """The program with other running statistics; it is one of our own copies and is changed."""
    module = program.graph_module
    for name, node in _buffers(program):
        if name in values:
            path, _, leaf = str(node.target).rpartition(".")
            setattr(module.get_submodule(path), leaf, values[name].clone())
    return program


def _norms(program: Program) -> list[fx.Node]:
    calls = [node for node in program.graph_module.graph.nodes if node.op == "call_function"]
    return [node for node in calls if operation(node) == NORM]


def _buffers(program: Program) -> list[tuple[str, fx.Node]]:
    """(name in the user's model, node) of every running mean and variance."""
    nodes = [node.args[place] for node in _norms(program) for place in (3, 4)]
    return [(strip_prefix(str(node.target)), node) for node in nodes if isinstance(node, fx.Node)]


def _measured(program: Program, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Statistics of what enters each batch norm, averaged over the batches."""
    watching = _Watching(program.graph_module)
    with torch.no_grad():
        for batch in batches:
            watching.run(*batch.inputs)
    return {name: total / len(batches) for name, total in watching.totals.items()}


class _Watching(fx.Interpreter):
    """Runs a program with each batch's own statistics, and adds them up."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.totals: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As usual, but for batch norms."""
        if n.op != "call_function" or operation(n) != NORM:
            return super().run_node(n)
        (entered, weight, bias, *_), _ = self.fetch_args_kwargs_from_env(n)
        axes = [axis for axis in range(entered.ndim) if axis != 1]
        names = [strip_prefix(str(arg.target)) for arg in n.args[3:5] if isinstance(arg, fx.Node)]
        moments = entered.mean(axes), entered.var(axes, unbiased=True)
        for name, value in zip(names, moments, strict=True):
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value
        return F.batch_norm(entered, None, None, weight, bias, training=True), None, None
