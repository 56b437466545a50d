"""The whole trace: what it measures, that it repeats, and that it leaves the model alone."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from factories import FAMILIES, tiny_bert, tiny_mlp
from oracles.interpreter import all_values
from oracles.statistics import effective_rank_by_svd, proximity_by_loops
from prepared import SMALL, family, seeded, subject_of, traced
from torch import Tensor, nn

from zsei.measures import MEASURES
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.types import Subject
from zsei.trace.engine import engine_for
from zsei.trace.evidence import collect
from zsei.trace.run import evidence_to_trace, trace
from zsei.trace.summary import Trace
from zsei.trace.taps import find_taps

CLOCK = {"seconds", "overhead"}


def _state(model: nn.Module) -> dict[str, object]:
    return {
        "hash": model_hash(model),
        "flags": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


def test_tracing_leaves_the_model_as_it_was() -> None:
    model, data = tiny_bert()
    model.train()
    before = _state(model)
    subject = prepare(model, data, settings=SMALL)
    twin = _state(subject.model)
    trace(subject, SMALL)
    assert _state(model) == before
    assert _state(subject.model) == twin


def _same(first: object, second: object) -> bool:
    if isinstance(first, dict):
        assert isinstance(second, dict)
        return list(first) == list(second) and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if hasattr(first, "__dataclass_fields__"):
        names = [f.name for f in fields(first)]
        return all(_same(getattr(first, n), getattr(second, n)) for n in names)
    return first == second


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet"])
def test_one_seed_gives_one_trace_apart_from_the_clock(name: str) -> None:
    again = trace(family(name), SMALL, measures=MEASURES)
    for part in fields(Trace):
        if part.name not in CLOCK:
            assert _same(getattr(traced(name), part.name), getattr(again, part.name)), part.name


def test_another_seed_gives_other_probes() -> None:
    other = trace(family("bert"), SMALL.model_copy(update={"seed": 1}))
    key = ("encoder.layer.0/attention", "head")
    assert not np.array_equal(traced("bert").units[key].sensitivity, other.units[key].sensitivity)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_component_is_measured_and_every_number_is_finite(name: str) -> None:
    subject, found = family(name), traced(name)
    assert set(found.measurements) == {c.id for c in subject.anatomy.components}
    for component, rows in found.measurements.items():
        assert {"parameters", "flops_share", "bytes"} <= set(rows), component
        for row in rows.values():
            assert row.value is not None or row.state == "could not tell"
            assert row.std is None or row.std >= 0
    for site in subject.anatomy.sites:
        scores = found.units[site.component, site.kind]
        assert scores.sensitivity.shape == (site.units,)
        assert (scores.sensitivity >= 0).all()
    fast = torch.backends.mha.get_fastpath_enabled() and name == "encoder"
    assert found.output_difference <= (1e-6 if fast else 0.0)


def _rows(subject: Subject, node: str) -> Tensor:
    """All rows of a value over all batches, padding left out."""
    parts = []
    for batch in subject.calibration:
        value = all_values(subject.program, batch.inputs)[node]
        padded = batch.mask is not None and batch.mask.shape == value.shape[:2]
        parts.append(value[batch.mask] if padded else value.flatten(0, -2))
    return torch.cat(parts)


def test_values_are_summed_up_as_plain_statistics() -> None:
    subject, found = family("bert"), traced("bert")
    component = "encoder.layer.0/mlp"
    node = subject.anatomy.outputs[component]
    rows = _rows(subject, node)
    measured = found.measurements[component]
    assert rows.shape[0] < 512  # every row is kept, so the sample is the whole
    whole = torch.cat([all_values(subject.program, b.inputs)[node] for b in subject.calibration])
    per_sample = whole.double().square().mean((1, 2)).sqrt()
    assert measured["rms"].value == pytest.approx(float(per_sample.mean()), rel=1e-5)
    assert measured["rms"].std == pytest.approx(float(per_sample.std()), rel=1e-3)
    assert measured["rms"].n == len(whole)
    assert measured["mean_abs"].value == pytest.approx(float(rows.abs().mean()), rel=1e-5)
    rank = effective_rank_by_svd(rows)
    assert measured["effective_rank"].value == pytest.approx(rank, rel=1e-3)
    assert measured["rank_cap"].value == 32
    assert measured["saturation"].value == pytest.approx(rank / 32, rel=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet"])
def test_joins_are_split_into_what_each_summand_brings(name: str) -> None:
    subject, found = family(name), traced(name)
    joins = find_taps(subject, engine_for(subject)).joins
    assert joins
    for join in joins:
        values = all_values(subject.program, subject.calibration[0].inputs)
        assert torch.allclose(values[join.skip] + values[join.branch], values[join.node])
        assert found.shares[join.skip, join.node] + found.shares[join.branch, join.node] == 1
    if name == "bert":
        rows = {n: _rows(subject, n) for n in (joins[0].node, joins[0].skip, joins[0].branch)}
        total, skip, branch = rows.values()
        measured = found.measurements[joins[0].component]
        share = proximity_by_loops(total, [skip, branch])[1]
        assert measured["branch_share"].value == pytest.approx(share, rel=1e-4)
        ratio = float((branch.norm(dim=1) / skip.norm(dim=1)).mean())
        assert measured["branch_to_stream"].value == pytest.approx(ratio, rel=1e-4)
        cosine = torch.nn.functional.cosine_similarity(skip, branch, dim=1)
        assert measured["branch_stream_cosine"].value == pytest.approx(
            float(cosine.mean()), abs=1e-5
        )


def test_a_projected_shortcut_is_the_skip_though_it_is_computed_last() -> None:
    """In a ResNet's first block of a stage the shortcut convolution runs after the branch."""
    subject = family("resnet")
    joins = {j.component: j for j in find_taps(subject, engine_for(subject)).joins}
    join = joins["resnet.encoder.stages.1.layers.0/residual"]
    names = [n.name for n in subject.program.graph_module.graph.nodes]
    assert names.index(join.skip) > names.index(join.branch)
    shortcut = subject.anatomy.outputs["resnet.encoder.stages.1.layers.0.shortcut.normalization"]
    assert join.skip == shortcut


def test_block_influence_is_one_minus_the_cosine_of_in_and_out() -> None:
    subject, found = family("bert"), traced("bert")
    site = subject.anatomy.site("encoder.layer.1", "layer")
    assert site is not None
    entered, left = _rows(subject, site.source or ""), _rows(subject, site.node)
    cosine = torch.nn.functional.cosine_similarity(entered, left, dim=1)
    measured = found.measurements["encoder.layer.1"]["block_influence"]
    assert measured.value == pytest.approx(1 - float(cosine.mean()), rel=1e-3)


def test_dead_units_are_counted_over_all_data() -> None:
    model, (x, _) = tiny_mlp()
    with torch.no_grad():
        model[0].bias[[2, 7]] = -1e3
    objective = Objective(name="fidelity", output="values", reason="")
    found = trace(subject_of(model, [x], objective, names=("input",)), SMALL)
    assert found.measurements["0"]["dead_units"].value == int(
        (found.units["0", "neuron"].largest == 0).sum()
    )
    assert {2, 7} <= set(np.flatnonzero(found.units["0", "neuron"].largest == 0))


def test_seconds_are_counted_once() -> None:
    """Heads run in their attention's calls; the output is a call of another component."""
    subject, found = family("bert"), traced("bert")
    kinds = {c.id: c.kind for c in subject.anatomy.components}
    assert {kinds[c] for c in found.seconds}.isdisjoint({"head", "output"})
    assert found.seconds["encoder.layer.0/attention"] > 0
    assert found.overhead is not None
    assert found.overhead > 0


def test_the_expensive_part_can_be_left_out() -> None:
    subject = family("bert")
    engine = engine_for(subject)
    taps = find_taps(subject, engine)
    kept = collect(engine, taps, subject.objective, subject.calibration, probes=1, seed=0, rows=32)
    found = evidence_to_trace(subject, taps, kept, structure=False)
    assert found.head_similarity == {}
    assert "effective_rank" not in found.measurements["encoder.layer.0/mlp"]
    assert "rms" in found.measurements["encoder.layer.0/mlp"]


def test_progress_reaches_one_and_only_grows() -> None:
    seen: list[float] = []
    trace(family("mlp"), SMALL, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


class Branching(nn.Module):
    """Control flow that depends on data, which no export can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        if hidden.mean() > 1e6:
            hidden = hidden / 2
        return self.last(self.second(hidden).relu())


def test_a_model_that_cannot_be_exported_is_traced_by_its_modules() -> None:
    torch.manual_seed(0)
    subject = prepare(Branching().eval(), seeded(24, 6), "fidelity", Settings(batch_size=8))
    assert subject.fidelity == "modules"
    found = trace(subject, SMALL)
    assert found.output_difference == 0
    for component in ("first", "second", "last"):
        assert found.measurements[component]["rms"].value is not None
        assert found.measurements[component]["sensitivity"].value is not None
        assert found.seconds[component] > 0
