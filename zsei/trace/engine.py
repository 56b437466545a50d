"""Two ways to run a model value by value, behind one protocol."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor

from zsei.subject.streamed import mapped_weights
from zsei.subject.types import Batch, Replacement, Subject, Watch


class Engine(Protocol):
    """Runs a model and shows, or replaces, the values of named calls."""

    fidelity: Literal["program", "modules"]
    concurrent: bool
    """Whether several runs may go on at once."""

    def run(self, batch: Batch, watch: Watch | None = None) -> Tensor:
        """The main output for a batch; `watch` sees (and may replace) the values it names."""
        ...

    def sweep(
        self, batch: Batch, replacements: Sequence[Replacement]
    ) -> Iterator[tuple[int, Tensor]]:
        """(index of the replacement, output under it) for each, in an order of its own choosing."""
        ...

    def together(self, batch: Batch, replacements: Sequence[Replacement]) -> Tensor:
        """The main output when all replacements are made in one run.

        What enters a bypassed layer is what the replacements before it left.
        """
        ...

    def seconds(self, batch: Batch, repeats: int) -> Mapping[str, float]:
        """Median seconds per call over repeated runs."""
        ...


def engine_for(subject: Subject) -> Engine:
    """The program interpreter, layer by layer for a streamed model; or module hooks where the model
    could not be exported.
    """
    mapped = mapped_weights(subject.model)
    if subject.program is not None and mapped is not None:
        from zsei.trace.streamed import StreamedEngine

        return StreamedEngine(subject.program, subject.anatomy, mapped)
    if subject.program is not None:
        from zsei.trace.interpreter import ProgramEngine

        return ProgramEngine(subject.program)
    from zsei.trace.hooks import ModuleEngine

    return ModuleEngine(subject.model, subject.input_names)


def replaced(value: Tensor, replacement: Replacement, entered: Tensor | None) -> Tensor:
    """`value` with the units of a replacement exchanged; `entered` is a layer's input.

    Args:
        value: The clean value at the site.
        replacement: Which units, by what.
        entered: The value of `site.source`, used when `replacement.value` is None.
    """
    site = replacement.site
    substitute = replacement.value if replacement.value is not None else entered
    if substitute is None:
        raise ValueError(f"{site.component}: an identity needs the value that enters the layer")
    if site.axis is None:
        return substitute.expand_as(value).to(value.dtype)
    edited = value.clone()
    for unit in replacement.units:
        start, size = unit * site.unit_size, site.unit_size
        target = edited.narrow(site.axis, start, size)
        whole = substitute.shape[site.axis] == value.shape[site.axis]
        target.copy_(substitute.narrow(site.axis, start, size) if whole else substitute)
    return edited
