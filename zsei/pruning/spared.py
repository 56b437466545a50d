"""Where nothing may be cut: what the user keeps, or all that is not among the only parts named."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from zsei.errors import UsageError
from zsei.records import Component
from zsei.subject.types import Anatomy

NEAR = 4
"""Names shown beside one that does not exist."""


def spared_components(
    anatomy: Anatomy, keep: Sequence[str] = (), only: Sequence[str] = ()
) -> frozenset[str]:
    """Ids of the components at which nothing may be cut.

    Args:
        anatomy: The parts of the model.
        keep: Ids or module paths; neither they nor what stands inside them is cut, and what they
            stand inside of is not removed whole.
        only: Ids or module paths; everything outside of them is spared. Empty: anything may go.

    Raises:
        UsageError: The model has no such component.

    Misleads when: channels are tied by a residual join. They go together or not at all, so that
    keeping one keeps all that are tied to it. What a kept part reads may become narrower.
    """
    kept = {component.id for name in keep for component in _named(anatomy, name)}
    allowed = {component.id for name in only for component in _named(anatomy, name)}
    above = {component.id: component.parent for component in anatomy.components}
    spared = {own for own in above if kept & set(_upwards(own, above))}
    spared |= {higher for own in kept for higher in _upwards(own, above)}
    if only:
        spared |= {own for own in above if not allowed & set(_upwards(own, above))}
    return frozenset(spared)


def _named(anatomy: Anatomy, name: str) -> list[Component]:
    """The components of a name: by id, else by module path and all below it."""
    found = [own for own in anatomy.components if own.id == name]
    found = found or [
        own for own in anatomy.components if own.path == name or own.path.startswith(f"{name}.")
    ]
    if found and name:
        return found
    names = dict.fromkeys(own.id for own in anatomy.components)
    near = get_close_matches(name, names, n=NEAR) or [own for own in names if name in own][:NEAR]
    near = near or [own.id for own in anatomy.components if own.kind == "layer"][:NEAR]
    raise UsageError(
        f"What is kept or cut is named by a component's id or its module's path; the model has no "
        f"{name!r}. Near it: {', '.join(near) or 'nothing'}."
    )


def _upwards(own: str | None, above: dict[str, str | None]) -> Iterable[str]:
    """A component and all it stands inside of, innermost first."""
    seen: set[str] = set()
    while own is not None and own not in seen:
        seen.add(own)
        yield own
        own = above.get(own)
