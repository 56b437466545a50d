"""What one step of gradient descent would do to every component's weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.samples import could_not_tell
from zsei.records import Measurement
from zsei.subject.objective import loss, probes, readout
from zsei.subject.program import MainOutput
from zsei.subject.reading import operation, parameter_names
from zsei.subject.screen import taken
from zsei.subject.types import Subject
from zsei.trace.streamed import StreamedEngine
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class LearningEfficiency:
    """Update-to-weight ratio, and first-order loss decrease per parameter.

    Measures: how large a step of plain gradient descent would be beside the weights, and how much
    of the loss it would take away per parameter, for each component with weights.

    Formula: g the gradient of the mean loss over a few samples with respect to the component's
    weights w: update_to_weight = ‖g‖ / ‖w‖ (the ratio of the step to the weights for a learning
    rate of 1; multiply by yours), learning_efficiency = Σ g² / number of weights (a step of
    learning rate η lowers the loss by η Σ g² to first order). Tables of embeddings are left out:
    few of their rows take part. Under fidelity the loss is one random probe of the output.

    Reading it: the two are compared between components, not with a limit. A component a hundred
    times below its neighbours learns that much slower and could be frozen.

    Misleads when: an optimiser with its own scale per weight (Adam) is used, or weights are
    followed by a norm, which makes their scale meaningless. Few samples: the gradient is theirs,
    noise included.

    References: Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance estimation for neural
    network pruning", CVPR 2019, for the first-order decrease; You, Gitman and Ginsburg, "Large
    batch training of convolutional networks", 2017, for the ratio.
    """

    name: ClassVar[str] = "learning-efficiency"

    samples: int = 4
    """Samples the gradient is taken over."""

    def measure(self, view: View) -> Measured:
        """Two measurements per component that reads weights itself."""
        owned = weights_of(view.subject)
        names = sorted({name for names in owned.values() for name in names})
        if isinstance(view.engine, StreamedEngine) or not names:
            return Measured()
        n, gradients = weight_gradients(view.subject, names, self.samples, view.settings.seed)
        weights = dict(view.subject.model.named_parameters())
        how = "mean loss" if view.subject.objective.supervised else "one random probe"
        found = {}
        for component, mine in owned.items():
            pairs = [(weights[name], gradients[name]) for name in mine if name in gradients]
            if pairs:
                found[component] = step_size(pairs, n, f"of {how} over {n} samples")
        return Measured(measurements=found)


def weight_gradients(
    subject: Subject, names: list[str], samples: int, seed: int
) -> tuple[int, Mapping[str, Tensor]]:
    """Gradients of the mean loss over the first samples (of a probe, without labels), by parameter.

    The model is called with detached aliases of its weights that want a gradient: nothing of it
    changes.

    Args:
        subject: Model, data and objective.
        names: Parameters wanted; those the output does not depend on are left out.
        samples: How many samples; a model of fixed batch size takes its whole batch.
        seed: Of the probe.

    Returns:
        (samples used, name -> gradient).
    """
    first = subject.calibration[0]
    step = 2 if subject.objective.name == "similarity" else 1
    fixed = subject.source.kind == "pt2"
    size = first.size if fixed else min(first.size, max(samples // step, 1) * step)
    batch = taken([first], torch.arange(size))
    call = MainOutput(subject.model, subject.input_names).eval()
    known = dict(subject.model.named_parameters())
    leaves = {
        name: known[name].detach().requires_grad_()
        for name in names
        if name in known and known[name].is_floating_point()
    }
    with torch.enable_grad():
        replaced = {f"model.{name}": leaf for name, leaf in leaves.items()}
        output = torch.func.functional_call(call, replaced, batch.inputs)
        seen = readout(subject.objective, output, batch)
        if subject.objective.supervised:
            scalar = loss(subject.objective, seen, batch).mean()
        else:
            generator = torch.Generator().manual_seed(seed)
            scalar = probes(subject.objective, seen, batch, 1, generator)[0].mean()
        if not scalar.requires_grad:
            return size, {}
        found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    gradients = {n: g for n, g in zip(leaves, found, strict=True) if g is not None}
    return size, gradients


def step_size(
    pairs: Sequence[tuple[Tensor, Tensor]], n: int, note: str
) -> tuple[Measurement, ...]:  # fmt: skip
    """`update_to_weight` and `learning_efficiency` of some (weight, gradient) pairs."""
    squares = sum(float(g.double().square().sum()) for _, g in pairs)
    size = sum(float(w.detach().double().square().sum()) for w, _ in pairs)
    count = sum(g.numel() for _, g in pairs)
    if not math.isfinite(squares):
        why = "the gradient is NaN or infinite"
        return (
            could_not_tell("update_to_weight", "ratio", why, n),
            could_not_tell("learning_efficiency", "Δ loss per parameter", why, n),
        )
    efficiency = Measurement(name="learning_efficiency", value=squares / count,
                             unit="Δ loss per parameter", n=n, note=note)  # fmt: skip
    if size == 0:
        return could_not_tell("update_to_weight", "ratio", "all weights are zero", n), efficiency
    ratio = (squares / size) ** 0.5
    return (
        Measurement(name="update_to_weight", value=ratio, unit="ratio", n=n,
                    note=f"for a learning rate of 1; {note}"),
        efficiency,
    )  # fmt: skip


def weights_of(subject: Subject) -> dict[str, list[str]]:
    """Component -> the parameters its calls read, tables of embeddings left out."""
    known = {name for name, _ in subject.model.named_parameters()}
    program = subject.program
    found: dict[str, list[str]] = {}
    if program is None:
        for component in subject.anatomy.components:
            path = f"{component.path}." if component.path else ""
            names = [n for n in known if n.startswith(path) and component.kind != "embedding"]
            found[component.id] = sorted(names)
        return {component: names for component, names in found.items() if names}
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    for component in subject.anatomy.components:
        if component.kind in ("head", "layer", "residual", "output", "input"):
            continue
        names = {
            name
            for owned in subject.anatomy.nodes[component.id]
            if owned in nodes and operation(nodes[owned]) != "embedding"
            for name in parameter_names(nodes[owned])
        }
        if names & known:
            found[component.id] = sorted(names & known)
    return found
