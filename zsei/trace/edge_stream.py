"""What a residual stream is made of: writers, sums, norms, and the terms of each value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from zsei.trace.edge_norms import FrozenNorm


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Components that write through one node: the heads of an attention, an MLP, a bias."""

    component: str
    names: tuple[str, ...]
    """Id of each writer: the heads, or the component alone."""
    node: str | None = None
    """Its value: heads [n, h, t, w], or what is added to the stream; None for a parameter."""
    weight: Tensor | None = None
    """By head [h, w, d]; None where the value itself is added."""
    constant: Tensor | None = None
    """The parameter it is: a bias [d], or positions [.., t, d]."""
    lead: tuple[int, ...] = ()
    """Sizes of all axes but the channels where it is added."""
    shared: bool = False
    """Whether its own axes are fewer or smaller than that."""

    @property
    def varies(self) -> bool:
        """Whether it depends on the input or the position; a bias does not."""
        return self.constant is None or self.constant.numel() > self.constant.shape[-1]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A value of the stream: how it comes about."""

    kind: Literal["sum", "norm", "writer"]
    sources: tuple[str, ...] = ()
    norm: FrozenNorm | None = None
    writers: tuple[int, ...] = ()
    """For a writer: its numbers (an attention also writes its bias); for a norm: its bias."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """A writer on its way to one value: the norms it passes, first to last."""

    writer: int
    norms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The residual streams of a program (an encoder and a decoder have one each)."""

    writers: tuple[Writer, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    """Node -> how it comes about, in program order."""
    inside: frozenset[str] = frozenset()
    """Every node that belongs to a stream: places, reshapes between them, calls of norms."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Reshaped node -> the place it shows."""

    @cached_property
    def norms(self) -> dict[str, FrozenNorm]:
        """Node a norm writes -> the norm."""
        return {node: p.norm for node, p in self.places.items() if p.norm is not None}

    @cached_property
    def terms(self) -> dict[str, tuple[Term, ...]]:
        """Place -> its summands, in the order in which they were written."""
        known: dict[str, tuple[Term, ...]] = {}
        for name, place in self.places.items():
            own = tuple(Term(writer=w, norms=()) for w in place.writers)
            if place.kind == "norm":
                passed = (replace(t, norms=(*t.norms, name)) for t in known[place.sources[0]])
                known[name] = (*passed, *own)
            else:
                known[name] = own + tuple(t for source in place.sources for t in known[source])
        return known
