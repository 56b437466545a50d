"""The parts of a model whose arithmetic can be done in fewer bits: components with weights."""

from collections.abc import Iterable, Sequence

from torch import nn

from zsei.errors import SpeedUpRefused, UsageError
from zsei.records import Component
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload

_NOT_LOWERED = ("norm", "layer", "module", "input", "output", "residual")
"""Kinds that hold other components, or so few weights that nothing is gained."""


def weighted(workload: Workload) -> tuple[Component, ...]:
    """Components that multiply by weights of their own, in the order of the program."""
    found: list[Component] = []
    for component in workload.subject.anatomy.components:
        if component.kind in _NOT_LOWERED or not _exists(workload.model, component.path):
            continue
        module = workload.model.get_submodule(component.path)
        if any(True for _ in module.parameters(recurse=False)):
            found.append(component)
    return tuple(found)


def _exists(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return bool(path)


def paths_of(ids: Iterable[str], workload: Workload) -> tuple[str, ...]:
    """Module paths of the weighted components with these ids and of those inside of them.

    Args:
        ids: Component ids; an attention, an MLP or a layer stands for all weights in it.
        workload: Holds the anatomy.

    Returns:
        Paths in the order of the program, each once.

    Raises:
        UsageError: There is no such component, or there are no weights in it.
    """
    parents = {c.id: c.parent for c in workload.subject.anatomy.components}
    inside: dict[str, set[str]] = {}
    for component in weighted(workload):
        above: str | None = component.id
        while above is not None:
            inside.setdefault(above, set()).add(component.path)
            above = parents.get(above)
    wanted: set[str] = set()
    for name in ids:
        if name not in inside:
            known = ", ".join(list(inside)[:8])
            raise UsageError(
                f"A component must be one with weights of its own or around such ones; {name!r} "
                f"is none. This model has {known}{' ...' if len(inside) > 8 else ''}."
            )
        wanted |= inside[name]
    order = dict.fromkeys(component.path for component in weighted(workload))
    return tuple(
        path
        for path in order
        # What stands inside another one of them goes with it.
        if path in wanted and not any(path.startswith(f"{other}.") for other in wanted)
    )


def grouped(components: Sequence[Component], workload: Workload, most: int) -> tuple[str, ...]:
    """Ids that cover these components, at most `most` where the model's structure allows it.

    The components themselves; where they are too many the attentions and MLPs they stand in; where
    those are, the layers.
    """
    by_id = {c.id: c for c in workload.subject.anatomy.components}
    ids = tuple(dict.fromkeys(component.id for component in components))
    while len(ids) > most:
        above = tuple(dict.fromkeys(by_id[name].parent or name for name in ids))
        if len(above) == len(ids):
            break
        ids = above
    return ids


def one_line(error: BaseException) -> str:
    """An exception's cause at the bottom as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def refuse_opaque(runnable: Runnable, title: str) -> None:
    """Refuse a runnable that another runtime runs already.

    Raises:
        SpeedUpRefused: Its module is no longer the model's own.
    """
    if runnable.main_only:
        raise SpeedUpRefused(
            f"{title} works on the model's own modules; an earlier step runs the model as one "
            f"opaque piece. Leave one of the two out."
        )
