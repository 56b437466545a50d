"""What surgery can do to a model, as data."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

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
    merged: bool = False
    """Whether other units take over what these did, by new weights that come with the edit; their
    mean then is not folded into a bias."""


@dataclass(frozen=True, kw_only=True)
class BypassLayer:
    """Remove a layer: whatever read its output reads its input instead.

    A layer on a residual stream so loses its branches; the stream goes on.
    """

    site: Site


@dataclass(frozen=True, kw_only=True)
class ReplaceLayer:
    """Put one linear map in a layer's place: y = M x + b along the channels.

    M and b are new parameters `<layer>.map.weight` and `<layer>.map.bias`, zero until values are
    given for them.
    """

    site: Site
    """See `layer_site`; a source of None is the only value that enters the layer."""
    form: Literal["linear", "convolution"]
    """linear: values [..., c]; convolution: images [n, c, h, w], by a 1 x 1 kernel with the stride
    that gives the layer's output its size."""


@dataclass(frozen=True, kw_only=True)
class FactoriseLinear:
    """Put two thin linears in a linear's place: W [o, i] becomes A [o, r] times B [r, i].

    B and A are new parameters `<linear>.0.weight` and `<linear>.1.weight`, zero until values are
    given for them; a bias goes on as `<linear>.1.bias`.
    """

    site: Site
    """See `linear_site`."""
    rank: int


Edit = RemoveUnits | BypassLayer | ReplaceLayer | FactoriseLinear


def stands_inside(component: str, layer: str) -> bool:
    """Whether a component is a layer or a part of it, by their ids."""
    return component == layer or component.startswith((f"{layer}/", f"{layer}."))


def layer_site(anatomy: Anatomy, component: str) -> Site | None:
    """The site of a whole layer, also of one whose output has another shape than its input."""
    known = anatomy.site(component, "layer")
    if known is not None or all(part.id != component for part in anatomy.components):
        return known
    if anatomy.component(component).kind != "layer":
        return None
    node = anatomy.outputs[component]
    return Site(
        component=component, kind="layer", node=node, axis=None, units=1, unit_ids=(component,)
    )


def linear_site(anatomy: Anatomy, component: str) -> Site | None:
    """The site of a linear as a whole; of the kind whose limits hold for its channels."""
    if all(part.id != component for part in anatomy.components):
        return None
    if anatomy.component(component).kind != "linear":
        return None
    node = anatomy.nodes[component][0]
    return Site(
        component=component, kind="neuron", node=node, axis=None, units=1, unit_ids=(component,)
    )


def same_sites(edits: Iterable[Edit], anatomy: Anatomy) -> tuple[Edit, ...]:
    """The same edits on another export of the same model, matched by component id and kind.

    Raises:
        SurgeryRefused: When that export has no such site, or one of another size.
    """
    found = []
    for edit in edits:
        if isinstance(edit, FactoriseLinear):
            site = linear_site(anatomy, edit.site.component)
        elif isinstance(edit, ReplaceLayer):
            site = layer_site(anatomy, edit.site.component)
        else:
            site = anatomy.site(edit.site.component, edit.site.kind)
        if site is None or (site.units, site.unit_size) != (edit.site.units, edit.site.unit_size):
            raise SurgeryRefused(
                f"The edit of `{edit.site.component}` ({edit.site.kind}, {edit.site.units} units) "
                f"has no counterpart in the other export of the model."
            )
        found.append(replace(edit, site=site))
    return tuple(found)
