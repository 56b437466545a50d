"""Subjects for tests: the small families prepared once, and any small model by hand."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from factories import FAMILIES
from torch import Tensor, nn

from zsei.analyzers.context import Analysis
from zsei.graph.build import build_graph
from zsei.importance.ranking import Importance, rank
from zsei.measures import MEASURES
from zsei.settings import Settings
from zsei.subject.anatomy import read_anatomy
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.program import export, frozen_twin, model_hash
from zsei.subject.types import Batch, ModelSource, Subject
from zsei.trace.engine import engine_for
from zsei.trace.run import output_difference, trace
from zsei.trace.summary import Trace

SMALL = Settings(batch_size=6, samples=16, ablation_sample=8, probes=2, seed=0)
"""Little data and few ablations: enough to run every path through the code."""


@cache
def family(name: str) -> Subject:
    """A small random model of a family with its data; shared, so never change it."""
    model, data = FAMILIES[name]()
    return prepare(model, data, settings=SMALL)


@cache
def traced(name: str) -> Trace:
    """What a trace of that family measures."""
    return trace(family(name), SMALL, measures=MEASURES)


def subject_of(
    model: nn.Module,
    inputs: Sequence[Tensor],
    objective: Objective,
    *,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    names: Sequence[str] = ("x",),
    batch_size: int = 8,
) -> Subject:
    """A subject of any small model; all of the data is calibration data and held-out data."""
    batches = tuple(
        Batch(
            inputs=tuple(tensor[i : i + batch_size] for tensor in inputs),
            labels=None if labels is None else labels[i : i + batch_size],
            mask=None if mask is None else mask[i : i + batch_size],
            groups=("data",) * batch_size,
        )
        for i in range(0, inputs[0].shape[0], batch_size)
    )
    twin = frozen_twin(model)
    program = export(twin, names, batches[0].inputs)
    return Subject(
        source=ModelSource(name=type(model).__name__, kind="object"),
        model=twin,
        model_hash=model_hash(model),
        program=program,
        input_names=tuple(names),
        objective=objective,
        calibration=batches,
        held_out=batches,
        anatomy=read_anatomy(program),
    )


def analysed(subject: Subject, settings: Settings = SMALL) -> Analysis:
    """Everything up to the analyzers."""
    engine = engine_for(subject)
    measured = trace(subject, settings, engine=engine, measures=MEASURES)
    return Analysis(
        subject=subject,
        engine=engine,
        trace=measured,
        flow=build_graph(subject, measured),
        importance=rank(subject, engine, measured, settings),
        settings=settings,
    )


def seeded(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers that are the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@cache
def measured_only(name: str) -> Analysis:
    """A family's analysis without exact ablations and measures: every effect is predicted."""
    subject = family(name)
    engine = engine_for(subject)
    measured = trace(subject, SMALL, engine=engine, clock=False)
    measured = replace(measured, output_difference=output_difference(subject, engine))
    scores = {key: tuple(units.sensitivity.tolist()) for key, units in measured.units.items()}
    batches = subject.calibration
    return Analysis(
        subject=subject,
        engine=engine,
        trace=measured,
        flow=build_graph(subject, measured),
        importance=Importance(
            checks=(), rankings=(), measurements={}, scores=scores, batches=batches
        ),
        settings=SMALL,
    )
