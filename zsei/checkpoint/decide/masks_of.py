"""A removal as entries that are held at zero: the model then computes what the smaller one does.

Of a unit all that a removal would cut is held: what makes it (the rows of weights, biases, the
weight and bias of a norm) and what reads it (columns). Of a layer what its branches write with is
held, so that they add nothing to the stream. Whether that is enough is not argued but measured:
both models must give the same outputs.

Held at zero on both sides, the entries' own gradients are zero as long as the activation between
them keeps zero; but momentum goes on moving them, and behind a sigmoid so do gradients. So masks
are applied again after every step of the optimizer.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from zsei.checkpoint.contracts import TensorMask
from zsei.errors import SurgeryRefused
from zsei.subject.program import Program
from zsei.subject.reading import (
    BATCH_NORM,
    CONV,
    LAYOUT,
    LINEAR,
    operation,
    parameter_names,
)  # fmt: skip
from zsei.subject.types import Site, Subject
from zsei.surgery.calls import describe
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.module_form import equal, run
from zsei.surgery.program_form import edit_program, plan_edits

_WRITES = LINEAR | CONV | BATCH_NORM
"""Calls whose result is zero when their own weight and bias are."""


def masks_of(
    subject: Subject, edits: Sequence[Edit], inputs: Sequence[Tensor]
) -> tuple[TensorMask, ...]:
    """What to hold at zero instead of doing the edits, proven equal on some inputs.

    Args:
        subject: The model.
        edits: Removals of units and whole layers at its sites.
        inputs: Inputs of the shapes its program was exported with.

    Raises:
        SurgeryRefused: When a layer writes through what zeros do not silence (a norm behind the
            sum, as in BERT), or the outputs differ.
    """
    program = subject.program
    if program is None:
        raise SurgeryRefused("Masks are read off the exported program, and this model has none.")
    masks = tuple(_entries(subject.model, program, edits))
    wanted = edit_program(program, edits)
    held = masked_copy(subject.model, masks)
    with torch.no_grad():
        if not equal(run(held, program.input_names, inputs), wanted(*inputs)):
            raise SurgeryRefused(
                "Held at zero, these entries do not make the model compute what it computes "
                "without them; take them out, or leave them."
            )
    return masks


@torch.no_grad()
def hold(model: nn.Module, masks: Iterable[TensorMask]) -> None:
    """Set the entries to zero, in place.

    Raises:
        SurgeryRefused: The model has no such parameter.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    for mask in masks:
        if mask.name not in known:
            raise SurgeryRefused(
                f"{type(model).__name__} has no parameter `{mask.name}`; is it the model the "
                f"masks were made for?"
            )
        parameter = known[mask.name]
        gone = torch.tensor(mask.removed, dtype=torch.long, device=parameter.device)
        parameter.index_fill_(mask.axis, gone, 0.0)


def masked_copy(model: nn.Module, masks: Sequence[TensorMask]) -> nn.Module:
    """A copy with the entries at zero; parameters without a mask share their storage."""
    touched = {mask.name for mask in masks}
    memo = {
        id(parameter): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name not in touched
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in touched:
            memo.pop(id(parameter), None)  # tied to one that is touched
    found = copy.deepcopy(model, memo)  # type: ignore[arg-type]
    hold(found, masks)
    return found


def _entries(model: nn.Module, program: Program, edits: Sequence[Edit]) -> Iterator[TensorMask]:
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    units = [edit for edit in edits if isinstance(edit, RemoveUnits)]
    if units:
        for name, entries in plan_edits(program, units).group.parameters.items():
            for axis, removed in entries.items():
                if name in shapes:
                    yield TensorMask(name=name, axis=axis, removed=removed)
    silenced = {
        name
        for edit in edits
        if isinstance(edit, BypassLayer)
        for name in _writers(program, edit.site)
    }
    for name in sorted(silenced & shapes.keys()):
        yield TensorMask(name=name, axis=0, removed=tuple(range(shapes[name][0])))


def _writers(program: Program, site: Site) -> set[str]:
    """Parameters with which a layer writes into its stream.

    From the layer's output back to its input along the sums of the stream; every other summand
    must come, through nothing but moves and products, from a call with a weight of its own.
    """
    if site.source is None:
        raise SurgeryRefused(f"`{site.component}` has no value that could stand in for it.")
    output, source = program.node(site.node), program.node(site.source)
    above = _above(source)
    found: set[str] = set()
    node = output
    while node is not source:
        name = operation(node)
        if name == "add":
            ways = [n for n in node.all_input_nodes if n is source or source in _above(n)]
            stream = next((n for n in ways if _along_sums(n, source)), None)
            if stream is None:
                raise _not_maskable(site, node)
            for branch in node.all_input_nodes:
                if branch is not stream:
                    found |= _silencing(site, branch, above)
            node = stream
        elif name in LAYOUT or name == "relu":
            # A stream behind a rectifier is not negative, so another one leaves it as it is.
            node = node.all_input_nodes[0]
        else:
            raise _not_maskable(site, node)
    return found


def _above(node: fx.Node) -> set[fx.Node]:
    """All that a value is computed from."""
    found: set[fx.Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.all_input_nodes
    return found


def _along_sums(node: fx.Node, source: fx.Node) -> bool:
    """Whether a value is the source plus other things, and nothing else is done to it."""
    while node is not source:
        name = operation(node)
        if name == "add":
            return any(_along_sums(argument, source) for argument in node.all_input_nodes)
        if name not in LAYOUT and name != "relu":
            return False
        node = node.all_input_nodes[0]
    return True


def _silencing(site: Site, node: fx.Node, outside: set[fx.Node]) -> set[str]:
    """The parameters whose zeros make a value zero."""
    name = operation(node)
    if name in _WRITES:
        own = [n for n in parameter_names(node)]
        if own and node not in outside:
            stays = {"running_mean", "running_var", "num_batches_tracked"}
            return {n for n in own if n.rpartition(".")[2] not in stays}
    if name == "add":
        return {p for n in node.all_input_nodes for p in _silencing(site, n, outside)}
    if name in LAYOUT or name in ("mul", "div"):
        factors = node.all_input_nodes if name == "mul" else node.all_input_nodes[:1]
        for factor in (one for one in factors if one.op == "call_function"):
            return _silencing(site, factor, outside)
    raise _not_maskable(site, node)


def _not_maskable(site: Site, node: fx.Node) -> SurgeryRefused:
    return SurgeryRefused(
        f"`{site.component}` cannot be silenced by zeros: {describe(node)} stands between what its "
        f"branches write and what leaves it. It can only be taken out."
    )
