"""Small subjects for surgery's tests, each prepared once."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import factories
import torch
from torch import Tensor, nn

from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.prepare import prepare
from zsei.subject.program import Program, export, frozen_twin
from zsei.subject.types import Anatomy, Site, Subject, UnitKind
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits

FEW = Settings(samples=8, batch_size=4)
UNITS: tuple[UnitKind, ...] = ("head", "neuron", "channel")


@cache
def subject(family: str) -> Subject:
    """A model of a family with data, prepared as an analysis prepares it."""
    return prepare(*factories.FAMILIES[family](), settings=FEW)


def own_subject(model: nn.Module, data: dict[str, Tensor]) -> Subject:
    """A subject of a model made in a test."""
    return prepare(model, data, settings=FEW)


def program_of(model: nn.Module, *inputs: Tensor, dynamic: bool = False) -> tuple[Program, Anatomy]:
    """A model's program and anatomy, with no subject around them."""
    names = [f"x{i}" for i in range(len(inputs))]
    program = export(frozen_twin(model), names, inputs, dynamic=dynamic)
    if dynamic:
        from zsei.surgery.symbolic import static_anatomy

        return program, static_anatomy(program)
    return program, read_anatomy(program)


def sites(anatomy: Anatomy, *kinds: UnitKind) -> list[Site]:
    """The sites of some kinds, in program order."""
    return [site for site in anatomy.sites if site.kind in kinds]


def some_units(site: Site, family: str = "") -> tuple[int, ...]:
    """A few units that may go: one head of each key/value group, or three neurons."""
    if site.kind != "head":
        return (0, 3, 5)
    return (0, 3) if family in ("llama", "mixtral") else (1,)


def cut(site: Site, family: str = "") -> Edit:
    """An edit of a site, whatever it holds."""
    if site.kind == "layer":
        return BypassLayer(site=site)
    return RemoveUnits(site=site, units=some_units(site, family))


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry (at least 1)."""
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def parameters(program: Program) -> int:
    """How many parameters a program reads, tied ones once."""
    held = dict(program.graph_module.named_parameters(remove_duplicate=False))
    read = {str(n.target) for n in program.graph_module.graph.nodes if n.op == "get_attr"}
    tensors = {id(held[name]): held[name] for name in read if name in held}
    return sum(tensor.numel() for tensor in tensors.values())


def storages(module: nn.Module) -> dict[str, tuple[int, Any]]:
    """Address and bytes of every parameter and buffer."""
    return {
        name: (tensor.data_ptr(), tensor.detach().clone())
        for name, tensor in module.state_dict().items()
    }


def unchanged(module: nn.Module, before: dict[str, tuple[int, Any]]) -> bool:
    """Whether parameters lie where they lay and hold what they held."""
    after = storages(module)
    return after.keys() == before.keys() and all(
        after[name][0] == address and torch.equal(after[name][1], value)
        for name, (address, value) in before.items()
    )


def names(found: Iterable[Site]) -> list[str]:
    """Component ids of sites."""
    return [site.component for site in found]
