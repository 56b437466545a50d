"""What surgery can do to a model, as data."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zsei.errors import SurgeryRefused
from zsei.subject.types import Anatomy, Site


@dataclass(frozen=True, kw_only=True)
class RemoveUnits:
    """Remove heads, neurons or channels: the values at a site, and all that makes and reads them.

    The model that is left computes what the original computes with these units held at zero where
    they are read.
    """

    site: Site
    units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BypassLayer:
    """Remove a layer: whatever read its output reads its input instead."""

    site: Site


Edit = RemoveUnits | BypassLayer


def same_sites(edits: Iterable[Edit], anatomy: Anatomy) -> tuple[Edit, ...]:
    """The same edits on another export of the same model, matched by component id and kind.

    Raises:
        SurgeryRefused: When that export has no such site, or one of another size.
    """
    found = []
    for edit in edits:
        site = anatomy.site(edit.site.component, edit.site.kind)
        if site is None or (site.units, site.unit_size) != (edit.site.units, edit.site.unit_size):
            raise SurgeryRefused(
                f"The edit of `{edit.site.component}` ({edit.site.kind}, {edit.site.units} units) "
                f"has no counterpart in the other export of the model."
            )
        found.append(replace(edit, site=site))
    return tuple(found)
