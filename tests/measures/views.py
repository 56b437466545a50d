"""What a measure sees of a small subject, and what it found there by name."""

from typing import ClassVar

from zsei.measures import Measured, View
from zsei.records import Matrix, Measurement
from zsei.settings import Settings
from zsei.subject.types import Subject
from zsei.trace.run import trace


class _Catch:
    name: ClassVar[str] = "catch"

    def __init__(self) -> None:
        self.seen: View | None = None

    def measure(self, view: View) -> Measured:
        self.seen = view
        return Measured()


def view_of(subject: Subject, settings: Settings) -> View:
    """The view that measures get in a trace of this subject."""
    catch = _Catch()
    trace(subject, settings, measures=(catch,))
    assert catch.seen is not None
    return catch.seen


def named(measured: Measured, component: str) -> dict[str, Measurement]:
    """Name -> measurement of one component."""
    return {m.name: m for m in measured.measurements[component]}


def value(measured: Measured, component: str, name: str) -> float:
    """The number of a measurement that was measured."""
    found = named(measured, component)[name].value
    assert found is not None
    return found


def matrix(measured: Measured, name: str) -> Matrix:
    """The first matrix of this name."""
    return next(m for m in measured.matrices if m.name == name)
