"""What actions measure: the numbers of the analysis itself, and of slow, obvious arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest
import torch
from chat.chat_subjects import desk, original
from torch import Tensor, nn

import zsei
from zsei.chat import Action, Desk, Event, Ran, started, turn
from zsei.chat.carry_out import carry_out
from zsei.chat.reopen import estimate, reopen
from zsei.errors import DataError, ModelError, UsageError
from zsei.memory import Memory
from zsei.records import Measurement, Proposal
from zsei.resources import load_cards
from zsei.settings import Settings

LAYERS = ("encoder.layers.0", "encoder.layers.1")


def heads(layer: int) -> tuple[str, ...]:
    return tuple(f"encoder.layers.{layer}/head.{head}" for head in range(4))


@pytest.fixture
def at(home: Path) -> Desk:
    return desk(home)


def run(at: Desk, **action: object) -> Ran:
    record = at.record("last")
    return carry_out(Action(run=record.id, **action), at.reopened(record))[0]  # type: ignore[arg-type]


def values(ran: Ran, name: str) -> dict[tuple[str, ...], Measurement]:
    return {row.components: row.measurement for row in ran.rows if row.measurement.name == name}


def test_ablations_are_those_of_the_analysis_to_the_bit(at: Desk) -> None:
    _, record = original()
    compared = 0
    for name in (*heads(0), *heads(1), *LAYERS, "encoder.layers.0/mlp"):
        stored = record.measured(name, "ablation_effect")
        if stored is None:
            continue
        ran = run(at, kind="ablate", components=(name,))
        assert values(ran, "ablation_effect") == {(name,): stored}
        assert values(ran, "ablation_loss") == {(name,): record.measured(name, "ablation_loss")}
        compared += 1
    assert compared >= 8


def moved(at: Desk, changed: nn.Module) -> float:
    """Mean relative distance of a changed model's outputs, on the samples of the action."""
    reopened = at.reopened(at.record("last"))
    model, _ = factories.tiny_encoder()
    distances: list[Tensor] = []
    with torch.no_grad():
        for batch in reopened.analysis.importance.batches:
            before, after = model(*batch.inputs), changed(*batch.inputs)
            distances.append((after - before).norm(dim=1) / before.norm(dim=1))
    return float(torch.cat(distances).double().mean())


@pytest.mark.parametrize("chosen", [(0,), (3,), (0, 1), (0, 1, 2, 3)])
def test_zero_ablation_is_the_columns_of_the_projection_at_zero(
    at: Desk, chosen: tuple[int, ...]
) -> None:
    names = tuple(heads(1)[head] for head in chosen)
    ran = run(at, kind="ablate", components=names, replacement="zero")
    model, _ = factories.tiny_encoder()
    width = factories.WIDTH // factories.HEADS
    with torch.no_grad():
        for head in chosen:
            weight = model.encoder.layers[1].self_attn.out_proj.weight
            weight[:, head * width : (head + 1) * width] = 0
    assert values(ran, "ablation_effect")[names].value == pytest.approx(moved(at, model), rel=1e-4)


def test_ablated_layers_are_passed_by(at: Desk) -> None:
    for layers in ((0,), (1,), (0, 1)):
        names = tuple(LAYERS[layer] for layer in layers)
        ran = run(at, kind="ablate", components=names)
        model, _ = factories.tiny_encoder()
        for layer in layers:
            model.encoder.layers[layer].register_forward_hook(lambda _m, given, _o: given[0])
        found = values(ran, "ablation_effect")[names]
        assert found.value == pytest.approx(moved(at, model), rel=1e-4)
        assert found.note.startswith("identity")


def test_interaction_is_joint_less_single_on_the_additive_scale(at: Desk) -> None:
    """Squared distances add up where contributions are independent; distances do not."""
    names = heads(0)[:2]
    ran = run(at, kind="ablate", components=names)
    found = values(ran, "interaction")[names]
    assert found.unit == "(relative L2)²"
    squares = [
        m.value**2 + m.std**2 * (m.n - 1) / m.n
        for m in (values(ran, "ablation_effect")[key] for key in (names, names[:1], names[1:]))
        if m.value is not None and m.std is not None
    ]
    assert found.value == pytest.approx(squares[0] - squares[1] - squares[2], rel=1e-3)


def test_similarity_is_linear_cka_of_what_they_write(at: Desk) -> None:
    ran = run(at, kind="compare", components=LAYERS)
    model, _ = factories.tiny_encoder()
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    for layer, kept in seen.items():
        model.encoder.layers[layer].register_forward_hook(
            lambda _m, _g, out, kept=kept: kept.append(out.flatten(0, 1))
        )
    with torch.no_grad():
        for batch in at.reopened(at.record("last")).analysis.importance.batches:
            model(*batch.inputs)
    x, y = (torch.cat(kept).double() for kept in seen.values())
    x, y = x - x.mean(0), y - y.mean(0)
    top = ((x @ x.T) * (y @ y.T)).sum()
    expected = float(top / ((x @ x.T).norm() * (y @ y.T).norm()))
    assert values(ran, "component_similarity")[LAYERS].value == pytest.approx(expected, rel=1e-4)
    assert set(values(ran, "ablation_effect")) == {(LAYERS[0],), (LAYERS[1],), LAYERS}


def test_heads_are_compared_by_what_each_gives(at: Desk) -> None:
    ran = run(at, kind="compare", components=heads(0)[:3])
    found = values(ran, "component_similarity")
    assert len(found) == 3
    assert all(m.value is not None and 0 <= m.value <= 1 for m in found.values())


def test_verdicts_are_those_of_the_analysis(at: Desk) -> None:
    _, record = original()
    assert record.verdicts
    for proposal, verdict in zip(record.proposals, record.verdicts, strict=True):
        ran = run(at, kind="gate", proposal=proposal)
        assert ran.verdict == verdict
        assert ran.repeats


def test_a_verdict_that_is_new_is_the_one_an_analysis_would_give(home: Path) -> None:
    """An analysis that never tried its last proposal: the conversation then finds the same."""
    at, (_, whole) = desk(home), original()
    last, verdict = whole.proposals[-1], whole.verdicts[-1]
    less = whole.model_copy(
        update={"id": "r-less", "proposals": whole.proposals[:-1], "verdicts": whole.verdicts[:-1]}
    )
    at.memory.add(less)
    units = last.params.get("units")
    again = Proposal.make(
        strategy=last.strategy, components=last.components, params={"units": units} if units else {}
    )
    state = replace(
        started(at, ["r-less"]), pending=Action(kind="gate", run="r-less", proposal=again)
    )
    state, events = turn(at, state, "y")
    kept = at.record(result(events).kept or "")
    assert kept.id == state.run != "r-less"
    assert kept.verdicts == whole.verdicts
    assert kept.verdicts[-1] == verdict
    assert [p.id for p in kept.proposals] == [p.id for p in whole.proposals]
    assert kept.model_copy(update={
        "id": "r-less", "proposals": less.proposals, "verdicts": less.verdicts, "means": less.means,
        "fitted": less.fitted, "timings": less.timings,
    }) == less  # fmt: skip


def result(events: tuple[Event, ...]) -> Ran:
    (ran,) = [event.ran for event in events if event.ran is not None]
    return ran


def test_what_was_tried_is_kept_and_can_be_asked_about_and_applied(at: Desk) -> None:
    state = first = started(at)
    state, events = turn(at, state, "try pruning 12 % of the neurons of layer 0")
    assert "Tried before" not in events[0].text
    state, events = turn(at, state, "yes")
    ran = result(events)
    assert ran.verdict is not None
    assert ran.action.proposal is not None
    assert ran.kept == state.run
    # In the analysis as it was, too, what another one knows of it is said.
    _, events = turn(at, first, "try pruning 12 % of the neurons of layer 0")
    tried = f"Tried before on the same weights, in {ran.kept}: {ran.action.proposal.id}"
    assert f"{tried}, {ran.verdict.outcome} (" in events[0].text
    stored = at.record(ran.kept or "")
    assert stored.verdicts[-1] == ran.verdict
    state, events = turn(at, state, "did we try prune-neurons on the mlp of layer 0?")
    assert ran.action.proposal.id in events[0].text
    assert ran.verdict.outcome in events[0].text
    # Asked for again, it is offered with what is known of it, and not kept twice.
    count = len(at.memory.runs())
    state, events = turn(at, state, f"gate {ran.action.proposal.id}")
    assert f"judged before: {ran.verdict.outcome}" in events[0].text
    state, events = turn(at, state, "y")
    assert (result(events).kept, result(events).verdict) == (None, ran.verdict)
    assert len(at.memory.runs()) == count


@pytest.mark.long
def test_what_was_accepted_can_be_applied(at: Desk) -> None:
    state, _ = turn(at, started(at), "try pruning 12 % of the neurons of layer 0")
    ran = result(turn(at, state, "yes")[1])
    assert ran.verdict is not None
    assert ran.action.proposal is not None
    assert ran.verdict.outcome == "accepted"
    stored = at.record(ran.kept or "")
    smaller = zsei.apply(stored, "factories:tiny_encoder", [ran.action.proposal.id])
    after = {m.name: m.value for m in ran.verdict.after}
    assert sum(p.numel() for p in smaller.parameters()) == after["parameters"]


def test_a_share_of_the_heads_is_those_that_score_least(at: Desk) -> None:
    record = at.record("last")
    proposal = Proposal.make(
        strategy="prune-heads", components=("encoder.layers.1/attention",),
        params={"fraction": 0.5},
    )  # fmt: skip
    ran = run(at, kind="gate", proposal=proposal)
    assert ran.action.proposal is not None
    effects = {name: record.measured(name, "ablation_effect") for name in heads(1)}
    known = {name: m.value for name, m in effects.items() if m is not None}
    assert len(known) == 4
    assert set(ran.action.proposal.components) == set(sorted(known, key=lambda n: known[n])[:2])


def test_parts_that_have_no_units_to_take_are_left_out(at: Desk) -> None:
    """Asked for a layer, the gate tries those of its parts that can be cut."""

    def asked(*components: str) -> Ran:
        share = {"fraction": 0.25}
        proposal = Proposal.make(strategy="prune-neurons", components=components, params=share)
        return run(at, kind="gate", proposal=proposal)

    mixed, alone = asked("encoder.layers.0/mlp", "encoder.layers.0"), asked("encoder.layers.0/mlp")
    assert mixed.action.proposal == alone.action.proposal
    assert mixed.verdict == alone.verdict
    none = asked("encoder.layers.0")
    assert none.verdict is not None
    assert none.verdict.outcome == "inapplicable"


def test_the_cost_is_said_before(at: Desk) -> None:
    record, settings = at.record("last"), at.settings
    actions = [Action(kind="ablate", run=record.id, components=heads(0)[:n]) for n in (1, 2)]
    one, two = (estimate(record, action, settings, open_now=True) for action in actions)
    assert one.batch == 6
    assert one.opening == 0
    assert two.forwards > one.forwards > 0
    cold = estimate(record, actions[0], settings, open_now=False)
    assert cold.forwards == one.forwards + cold.opening > one.forwards


def test_an_estimate_counts_what_is_run(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole passes, and restarts from the middle, each of which costs less than a pass."""
    record, reopened = at.record("last"), at.reopened(at.record("last"))
    engine, passes, depth = reopened.analysis.engine, 0, 0

    def counting(name: str) -> Callable[..., object]:
        whole = getattr(engine, name)

        def counted(*given: object, **named: object) -> object:
            nonlocal passes, depth
            passes += depth == 0
            depth += 1
            try:
                return whole(*given, **named)
            finally:
                depth -= 1

        return counted

    for name in ("run", "together"):
        monkeypatch.setattr(engine, name, counting(name), raising=False)
    action = Action(kind="compare", run=record.id, components=LAYERS)
    carry_out(action, reopened)
    restarts = len(LAYERS) * len(reopened.analysis.importance.batches)
    assert estimate(record, action, at.settings, open_now=True).forwards == passes + restarts


def test_other_models_and_other_data_are_refused(at: Desk, home: Path) -> None:
    record, settings = at.record("last"), at.settings.model_copy(update={"samples": 24})
    other, data = factories.tiny_encoder()
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    with pytest.raises(ModelError, match="the very model that was analysed"):
        reopen(record, settings, model=other, data=data)
    same, data = factories.tiny_encoder()
    with pytest.raises(DataError, match=r"mean_abs|rms"):
        reopen(record, settings, model=same, data={**data, "sequence": data["sequence"] * 2})
    with pytest.raises(DataError, match="the input shapes"):
        reopen(record, settings, model=same, data={**data, "sequence": data["sequence"][:, :5]})
    gone = record.provenance.model_copy(update={"model": "factories:nowhere"})
    with pytest.raises(ModelError, match="nowhere"):
        reopen(record.model_copy(update={"provenance": gone}), settings)
    unnamed = record.provenance.model_copy(update={"model": record.provenance.model_class})
    with pytest.raises(ModelError, match="Python object"):
        reopen(record.model_copy(update={"provenance": unnamed}), settings)


def test_what_cannot_be_ablated_is_refused(at: Desk) -> None:
    with pytest.raises(UsageError, match="must be a head, a branch"):
        run(at, kind="ablate", components=("encoder.layers.0.norm1",))


def test_data_of_the_users_own_is_given_again(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(20, 8, generator=generator)
    data = {name: tmp_path / f"{name}.npz" for name in ("low", "high")}
    for name, part in zip(data, (x[:10], 3 * x[10:]), strict=True):
        np.savez(data[name], x=part.numpy(), y=part[:, :3].argmax(1).numpy())
    settings = Settings(home=tmp_path / "own", halves=False, random_paths=0, max_proposals=0)
    given = {name: str(path) for name, path in data.items()}
    record = zsei.analyze("factories:tiny_mlp", given, settings=settings)
    at = Desk(
        memory=Memory(settings.home), cards=load_cards(settings), settings=settings, data=given
    )
    name = next(c.id for c in record.components if record.measured(c.id, "ablation_effect"))
    state, _ = turn(at, started(at), f"ablate {name}")
    ran = result(turn(at, state, "y")[1])
    assert values(ran, "ablation_effect")[name,] == record.measured(name, "ablation_effect")
    without = replace(at, data=None, _opened={})
    _, (refused,) = turn(without, state, "y")
    assert refused.kind == "refusal"
    assert "give that data with --data" in refused.text
