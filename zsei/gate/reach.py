"""Which parameters the gradient of the output reaches.

Asked of the program itself, with every parameter as a leaf of its own, so that neither the user's
`requires_grad` flags nor the weights are touched.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from zsei.gate.cost import constant, live_nodes, parameter_targets
from zsei.gate.evidence import Reach
from zsei.subject.objective import Objective, readout
from zsei.subject.program import Program, strip_prefix
from zsei.subject.types import Batch

_NOISE = 1e-7
"""A gradient below this share of the largest is rounding (a key's bias under softmax has none),
so the original does not count as reached by it."""


class _WithLeaves(fx.Interpreter):
    """Runs a graph with some of its parameters replaced."""

    def __init__(self, module: fx.GraphModule, leaves: Mapping[str, Tensor]):
        super().__init__(module)
        self.leaves = leaves

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The replacement of a parameter, or the constant itself."""
        found = self.leaves.get(str(target))
        return super().get_attr(target, args, kwargs) if found is None else found


def gradient_norms(
    program: Program,
    objective: Objective,
    batch: Batch,
    seed: int,
    parameters: Collection[str] | None = None,
) -> dict[str, float]:
    """Norm of the gradient of a random direction of the readout, by parameter.

    s = Σ r · readout with r ~ N(0, I), the same r for every program with this output. A direction
    rather than a loss: it needs no labels, and the divergence of an unedited model has no slope.

    Args:
        program: The program asked.
        objective: Whose readout is followed back.
        batch: One batch; labels are not looked at.
        seed: Seed of the direction.
        parameters: Targets that count as parameters, by default those that are.

    Returns:
        Name in the user's model -> ‖∂s/∂w‖; 0 for a parameter the output does not depend on.
    """
    known = parameter_targets(program) | frozenset(parameters or ())
    targets = [str(n.target) for n in live_nodes(program) if n.op == "get_attr"]
    with torch.inference_mode(False), torch.enable_grad():
        leaves: dict[str, Tensor] = {}
        for target in sorted(known.intersection(targets)):
            tensor = constant(program, target)
            if tensor.is_floating_point():
                leaves[target] = tensor.detach().requires_grad_()
        output = _WithLeaves(program.graph_module, leaves).run(*batch.inputs)
        values = readout(objective, output, batch)
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        gradients = torch.autograd.grad(
            (values * direction).sum(), list(leaves.values()), allow_unused=True
        )
    return {
        strip_prefix(target): 0.0 if gradient is None else float(gradient.norm())
        for target, gradient in zip(leaves, gradients, strict=True)
    }


def compare_reach(
    before: Mapping[str, float], after: Mapping[str, float]
) -> tuple[Reach, tuple[str, ...]]:
    """What the gradient reached before and no longer reaches, with the names of what is lost.

    Parameters the edited program no longer has are excused; that nothing else went with them is
    the architecture stage's business.
    """
    largest = max(before.values(), default=0.0)
    demanded = [n for n, norm in before.items() if norm > _NOISE * largest and n in after]
    lost = tuple(name for name in demanded if after[name] == 0)
    bad = sum(not _is_finite(norm) for norm in after.values())
    return Reach(demanded=len(demanded), lost=len(lost), nonfinite=bad), lost


def _is_finite(number: float) -> bool:
    return number - number == 0
