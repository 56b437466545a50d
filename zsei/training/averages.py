"""Cuts averages of the weights (EMA copies) as the weights are cut, in whatever form they come."""

from collections.abc import Iterator, MutableMapping, MutableSequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zsei.errors import SurgeryRefused
from zsei.surgery.module_edit import ModuleEdit
from zsei.surgery.resize import keep
from zsei.training.changes import Change, Contents
from zsei.training.cut import Cut, Left, prepare_cut

Average = nn.Module | MutableMapping[str, Tensor] | MutableSequence[Tensor]
"""`AveragedModel` or any other copy of the model; tensors by name; or a list in the order of
`model.parameters()`, all of them or those that are trained."""


def cut_average(average: Any, model: nn.Module, edit: ModuleEdit, cut: Cut) -> Iterator[Change]:
    """What changes in an average when its model is cut; it is only read.

    Raises:
        SurgeryRefused: It is no copy of the model, or of no form that is known.
    """
    if isinstance(average, nn.Module):
        copied = average.module if isinstance(average, AveragedModel) else average
        yield from prepare_cut(copied, edit).changes
    elif isinstance(average, MutableMapping):
        yield Contents(place=average, content=dict(_by_name(average, model, cut)))
    elif isinstance(average, MutableSequence):
        pairs = zip(average, in_order(average, model), strict=True)
        left = [
            _cut(f"entry {i}", held, cut.tensors.get(id(p))) for i, (held, p) in enumerate(pairs)
        ]
        yield Contents(place=average, content=[held for held in left if held is not None])
    else:
        raise SurgeryRefused(
            f"An average of the weights is a module, a dictionary by name or a list; this one is "
            f"{type(average).__name__}. Give what it holds (such as its `shadow_params`)."
        )


def in_order(average: MutableSequence[Tensor], model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the entries of a list stand for.

    Raises:
        SurgeryRefused: There are more or fewer.
    """
    every = list(model.parameters())
    trained = [parameter for parameter in every if parameter.requires_grad]
    for own in (every, trained):
        if len(own) == len(average):
            return own
    raise SurgeryRefused(
        f"A list of averages has an entry for each of the {len(every)} parameters, or of the "
        f"{len(trained)} that are trained; this one has {len(average)}."
    )


def _by_name(
    average: MutableMapping[str, Tensor], model: nn.Module, cut: Cut
) -> Iterator[tuple[str, Tensor]]:
    known: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    known |= dict(model.named_buffers(remove_duplicate=False))
    for name, held in average.items():
        if name not in known:
            raise SurgeryRefused(
                f"The averages hold `{name}`, and the model has no parameter of that name."
            )
        new = cut.names[name]
        left = _cut(name, held, cut.tensors.get(id(known[name])))
        if new is not None and left is not None:
            yield new, left


def _cut(name: str, held: Tensor, left: Left | None) -> Tensor | None:
    if left is None:
        return held
    if held.shape != left.old.shape:
        raise SurgeryRefused(
            f"The average of `{name}` is {list(held.shape)} and the parameter "
            f"{list(left.old.shape)}; it is the average of another model."
        )
    return None if left.new is None else keep(held.detach(), left.gone)
