"""Edges against hooks on the user's model; shares against plain loops; scores against the truth."""

import copy
from collections.abc import Callable
from typing import Any

import factories
import pytest
import torch
import trained
from oracles import edges as oracle
from prepared import SMALL, family, subject_of, traced
from torch import Tensor, nn

from zsei.measures.edge_attribution import EdgeAttribution
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.trace.edge_check import check_edges, exact_edge_effects, integrated_effects
from zsei.trace.edge_rows import carried_parts
from zsei.trace.edge_scores import score_edges, writer_means
from zsei.trace.edge_values import whole_run
from zsei.trace.engine import engine_for
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.run import trace
from zsei.trace.taps import Taps, find_taps

WIRINGS = {
    "gpt2": (factories.tiny_gpt2, oracle.gpt2_wiring),
    "llama": (factories.tiny_llama, oracle.llama_wiring),
    "bert": (factories.tiny_bert, oracle.bert_wiring),
}
STREAMS = ("bert", "gpt2", "llama", "mixtral", "t5", "vit", "patchtst", "encoder")
SAMPLES = 4


def _roughened(model: nn.Module) -> nn.Module:
    """Weights ten times as large and norms that are not the identity, so that effects show."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * noise.to(parameter.dtype))
            elif "embed" not in name and "wte" not in name and "wpe" not in name:
                parameter.mul_(6)
    return model


class PlainRMSNorm(nn.Module):
    """Llama's norm without its cast to float32, which would drown small differences."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight: Tensor = norm.weight
        self.variance_epsilon: float = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )


def _uncast(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(module, name, PlainRMSNorm(child))


class _Prepared:
    """A wired model as a subject with a sloped objective, and its double in float64."""

    def __init__(self, name: str):
        make, wiring = WIRINGS[name]
        model = _roughened(make()[0])
        _uncast(model)
        self.ids = factories.token_ids(SAMPLES)
        double = copy.deepcopy(model).double()
        self.wiring = wiring(double)
        out = oracle._nudged(  # the clean output: nothing is nudged
            double, {"input_ids": self.ids}, oracle.Reading(linears=(), order=0), torch.zeros(())
        )
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.randn(out.flatten(1).shape, generator=generator, dtype=torch.float64)
        self.labels = self.labels + out.flatten(1)
        self.subject = subject_of(
            double, (self.ids,), Objective(name="regression", output="values", reason="test"),
            labels=self.labels, names=("input_ids",), batch_size=SAMPLES,
        )  # fmt: skip
        engine = engine_for(self.subject)
        assert isinstance(engine, ProgramEngine)
        self.engine = engine
        self.taps = find_taps(self.subject, self.engine)

    def loss(self, output: Tensor) -> Tensor:
        """The objective's own formula, in float64."""
        return (output.flatten(1) - self.labels).square().mean(1)

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"input_ids": self.ids}


@pytest.fixture(scope="module", params=WIRINGS)
def wired(request: pytest.FixtureRequest) -> _Prepared:
    return _Prepared(request.param)


def _scores(prepared: _Prepared) -> dict[tuple[str, str, str], Tensor]:
    plan = prepared.taps.edges
    batch = prepared.subject.calibration[0]
    whole = whole_run(prepared.engine, plan.taps, prepared.subject.objective, batch)
    means = writer_means(plan.stream, whole, {})
    return {
        (writer, reader, port): block.scores[0, :, i, j]
        for block in score_edges(plan.stream, plan.readers, whole, means)
        for i, writer in enumerate(block.writers)
        for j, (reader, port) in enumerate(block.readers)
    }


def test_every_edge_has_the_slope_that_nudging_it_has(wired: _Prepared) -> None:
    found = _scores(wired)
    expected = dict(oracle.edge_scores(wired.wiring, wired.inputs, wired.loss))
    # A writer that is the same everywhere (one token type) equals its mean and has no edges.
    moving = {edge for edge, score in expected.items() if score.abs().max() > 1e-12}
    assert moving <= found.keys() <= expected.keys()
    largest = max(float(score.abs().max()) for score in expected.values())
    for edge in sorted(moving):
        away = (found[edge].double() - expected[edge]).abs().max()
        assert away < 1e-6 * largest, edge


def test_exchanging_an_edge_moves_the_output_as_hooks_do(wired: _Prepared) -> None:
    chosen = sorted(_scores(wired))[::9]
    effects = exact_edge_effects(
        wired.engine, wired.taps.edges, wired.subject.objective, wired.subject.calibration, chosen
    )
    nothing = wired.loss(oracle._nudged(
        wired.wiring.model, wired.inputs, oracle.Reading(linears=(), order=0), torch.zeros(())
    ))  # fmt: skip
    truth = {
        edge: wired.loss(oracle.exact_effect(wired.wiring, wired.inputs, edge)) - nothing
        for edge in chosen
    }
    largest = max(float(t.abs().max()) for t in truth.values())
    for effect in effects:
        assert effect.loss_increase is not None
        away = (effect.loss_increase.double() - truth[effect.edge]).abs().max()
        assert away < 1e-7 * largest, effect.edge


def test_integrated_slopes_sum_to_the_exact_effect(wired: _Prepared) -> None:
    chosen = sorted(_scores(wired), key=lambda e: -float(_scores(wired)[e].abs().max()))[:3]
    arguments = (wired.engine, wired.taps.edges, wired.subject.objective)
    exact = exact_edge_effects(*arguments, wired.subject.calibration, chosen)
    found = integrated_effects(*arguments, wired.subject.calibration[0], chosen, steps=24)
    for effect, slope in zip(exact, found, strict=True):
        assert effect.loss_increase is not None
        limit = 0.02 * float(effect.loss_increase.abs().max())
        torch.testing.assert_close(slope, effect.loss_increase, atol=limit, rtol=0)


def test_integrated_is_the_divergence_where_there_is_no_loss() -> None:
    subject = family("bert")
    engine = engine_for(subject)
    assert isinstance(engine, ProgramEngine)
    plan = find_taps(subject, engine).edges
    edge = ("embeddings.word_embeddings", "output", "in")
    exact = exact_edge_effects(engine, plan, subject.objective, subject.calibration[:1], [edge])
    found = integrated_effects(
        engine, plan, subject.objective, subject.calibration[0], [edge], steps=24
    )
    assert float(exact[0].divergence.mean()) > 1e-3
    torch.testing.assert_close(found[0], exact[0].divergence, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("name", STREAMS)
def test_writers_sum_to_what_every_reader_reads(name: str) -> None:
    subject = family(name)
    found = traced(name)
    error = found.measurements["output"]["writers_sum_error"]
    assert error.value is not None
    assert error.value <= 1e-6
    assert found.edges
    assert all(edge.n == 8 for edge in found.edges)
    assert any(edge.attribution != 0 for edge in found.edges)
    names = {c.id for c in subject.anatomy.components}
    assert {edge.reader for edge in found.edges} <= names


def test_parts_of_hand_written_writers_are_those_found(wired: _Prepared) -> None:
    """The parts themselves, not only their sum: each writer's against hooks, at the last reader."""
    plan = wired.taps.edges
    batch = wired.subject.calibration[0]
    whole = whole_run(wired.engine, plan.taps, wired.subject.objective, batch)
    last = plan.readers[-1]
    parts = next(p for p in carried_parts(plan.stream, whole, {last.place}))
    captured = oracle.capture(wired.wiring.model, wired.inputs)
    reader = wired.wiring.readers[last.names[0]]
    rows = torch.linspace(0, SAMPLES * 16 - 1, len(parts.value)).round().long()
    for name, part in zip(parts.names, parts.parts, strict=True):
        if name.endswith(":bias") or name.endswith("/mlp"):
            continue  # biases are in no hook; a hook on GPT-2's MLP is compared by its edges
        place, written = wired.wiring.writers[name]
        expected = oracle.part_in(wired.wiring, captured, written(captured), place, reader)
        torch.testing.assert_close(part, expected.flatten(0, 1)[rows], rtol=1e-6, atol=1e-7)
    slow = oracle.proximity(parts.value, list(parts.parts))
    assert parts.proximity().tolist() == pytest.approx(slow, abs=1e-4)


def test_projection_shares_sum_to_one_and_name_the_largest() -> None:
    found = traced("gpt2")
    matrix = next(m for m in found.matrices if m.name == "attention_to_mlp")
    for row in matrix.values:
        assert sum(value or 0.0 for value in row) == pytest.approx(1, abs=1e-4)
    first = found.measurements["transformer.h.0/mlp"]
    assert first["mlp_from_earlier"].value == 0.0
    assert (first["mlp_from_embedding"].value or 0) > 0.9


def test_flow_shares_of_heads_are_those_of_plain_loops() -> None:
    """y = stream + Σ over heads and keys, share by share, for one query of GPT-2."""
    from zsei.trace.attention_maps import AttentionCall, attention_weights
    from zsei.trace.edge_routes import attention_route, join_of

    subject = family("gpt2")
    engine = engine_for(subject)
    assert isinstance(engine, ProgramEngine)
    taps = find_taps(subject, engine)
    tap = taps.attentions[1]
    batch = subject.calibration[0]
    whole = whole_run(engine, taps.edges.taps, subject.objective, batch, samples=1)
    join = join_of(taps.edges.stream, tap.component)
    assert join is not None
    route = attention_route(tap, join, whole, queries=64)
    assert route is not None
    assert tap.projection is not None
    value = whole.values[tap.value]
    mask = whole.values.get(tap.mask or "")
    weights = attention_weights(AttentionCall(
        query=whole.values[tap.query], key=whole.values[tap.key], mask=mask, causal=tap.causal,
        scale=tap.scale,
    ))  # fmt: skip
    query = 7
    y = whole.values[join][0, query]
    parts = {
        (h, j): weights[0, h, query, j] * (value[0, h, j] @ tap.projection[h])
        for h in range(weights.shape[1])
        for j in range(query + 1)
    }
    parts[-1, -1] = y - sum(parts.values())
    near = {k: max(0.0, float(y.abs().sum() - (y - p).abs().sum())) for k, p in parts.items()}
    whole_size = sum(near.values())
    for head in range(weights.shape[1]):
        share = sum(v for (h, _), v in near.items() if h == head) / whole_size
        assert float(route.heads[query, head]) == pytest.approx(share, abs=1e-5)
    own = sum(v for (h, j), v in near.items() if h >= 0 and j == query) / whole_size
    assert float(route.own[query]) == pytest.approx(own, abs=1e-5)
    total = route.heads.sum(1) + route.stream
    torch.testing.assert_close(total, torch.ones_like(total))


def test_shares_of_a_block_are_shares() -> None:
    found = traced("vit")
    matrix = next(m for m in found.matrices if m.name == "flow_routes")
    for row in matrix.values:
        assert sum(value or 0.0 for value in row) == pytest.approx(1, abs=1e-5)
        assert all(value is not None and value >= 0 for value in row)


def _in_double(name: str) -> Subject:
    model, data = factories.FAMILIES[name]()
    x, labels = data if isinstance(data, tuple) else data.values()
    x = x[:8].double() if x.is_floating_point() else x[:8]
    objective = Objective(name="classification", output="logits", reason="test")
    names = ("input",) if isinstance(data, tuple) else tuple(data)[:1]
    return subject_of(model.double(), (x,), objective, labels=labels[:8], names=names)


@pytest.mark.parametrize("name", ["resnet", "mlp", "lstm"])
def test_programs_without_a_stream_have_their_own_edges(name: str) -> None:
    """Each score is the slope of the loss along the exchange of that edge alone."""
    assert traced(name).edges
    subject = _in_double(name)
    engine = engine_for(subject)
    assert isinstance(engine, ProgramEngine)
    taps = find_taps(subject, engine)
    slopes = _program_slopes(subject, engine, taps)
    assert len(slopes) >= 3
    for key in slopes:
        nudged = _nudged_slope(subject, engine, taps, key)
        torch.testing.assert_close(slopes[key], nudged, rtol=1e-4, atol=1e-7)


def _program_slopes(
    subject: Subject, engine: ProgramEngine, taps: Taps
) -> dict[tuple[str, str, str], Tensor]:
    from zsei.trace.edge_program import score_program_edge

    whole = whole_run(engine, taps.edges.taps, subject.objective, subject.calibration[0])
    found = {}
    for edge in taps.edges.program_edges:
        scores = score_program_edge(edge, whole, engine.constants)
        assert scores is not None
        found[edge.source, edge.target, "in"] = scores[0]
    return found


def _nudged_slope(
    subject: Subject, engine: ProgramEngine, taps: Taps, key: tuple[str, str, str]
) -> Tensor:
    """Difference of the loss for a small part of the exchange, both ways."""
    from zsei.subject.objective import loss, readout
    from zsei.trace.edge_check import _changes, _values

    batch = subject.calibration[0]
    with torch.no_grad():
        _, whole = _values(engine, taps.edges, batch)
        change = _changes(engine, taps.edges, whole, {}, key)[0]
        losses: list[Tensor] = []
        for step in (1e-6, -1e-6):
            watch: dict[str, Callable[[Tensor], Tensor]] = {
                change.node: lambda value, step=step: change.on(value, step)
            }
            seen = readout(subject.objective, engine.run(batch, watch), batch)
            losses.append(loss(subject.objective, seen, batch))
    return (losses[0] - losses[1]) / 2e-6


def test_without_a_program_it_says_so() -> None:
    from dataclasses import replace

    subject = replace(family("mlp"), program=None)
    from zsei.subject.modules_anatomy import read_modules

    anatomy = read_modules(subject.model, subject.input_names, subject.calibration[0].inputs)
    found = trace(replace(subject, anatomy=anatomy), SMALL, measures=(EdgeAttribution(),))
    assert found.edges == ()
    assert any("edge attribution" in note for note in found.notes)


@pytest.mark.long
def test_scores_order_edges_as_exchanging_them_does() -> None:
    """On trained models, by slope with labels and by probes without."""
    settings = Settings(batch_size=8, samples=32, probes=2, seed=0)
    for objective, least in (("causal-lm", 0.8), ("fidelity", 0.7)):
        model, data = trained.trained_gpt2()
        subject = prepare(model, data, objective=objective, settings=settings)
        engine = engine_for(subject)
        assert isinstance(engine, ProgramEngine)
        found = trace(subject, settings, engine=engine, measures=(EdgeAttribution(),))
        plan = find_taps(subject, engine).edges
        check = check_edges(
            engine, plan, subject.objective, subject.calibration[:1], found.edges,
            means=found.means, count=32,
        )  # fmt: skip
        assert check.outcome == "agrees", check.message
        assert check.evidence[0].value is not None
        assert check.evidence[0].value >= least, check.message


def test_few_edges_are_no_ground_for_a_judgement() -> None:
    subject = family("lstm")
    engine = engine_for(subject)
    assert isinstance(engine, ProgramEngine)
    plan = find_taps(subject, engine).edges
    edges = traced("lstm").edges
    check = check_edges(engine, plan, subject.objective, subject.calibration, edges)
    assert check.outcome == "inconclusive"
    assert "24" in check.message


def test_the_record_holds_the_largest_only() -> None:
    found = trace(family("gpt2"), SMALL, measures=(EdgeAttribution(most_edges=10),))
    everything = traced("gpt2")
    assert found.edges == everything.edges[:10]
    sizes = [abs(edge.attribution) for edge in everything.edges]
    assert sizes == sorted(sizes, reverse=True)
