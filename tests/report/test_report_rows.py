"""The rows that every view takes from a record."""

import pytest
import report_records as records

from zsei.records import (
    AnalysisRecord,
    Component,
    CriterionCheck,
    Measurement,
    Proposal,
    Ranking,
    Validation,
    Verdict,
)
from zsei.report.layers import layer_rows, total
from zsei.report.select import by_code, critical_paths, opening, slowest, what_for
from zsei.report.summary import answered, effect
from zsei.report.trust import importance, is_yardstick, rankings
from zsei.report.verdicts import accepted_first, changes, in_order, limits, removed, said, scope


@pytest.fixture(scope="module")
def encoder() -> AnalysisRecord:
    return records.encoder()


def test_one_measurement_covers_the_whole_picture():
    sensitivity = {f"h{i}": (records.measured("sensitivity", 0.1 * i),) for i in range(4)}
    exact = records.measured("ablation_effect", 9.0)
    some = sensitivity | {"h0": (*sensitivity["h0"], exact)}
    record = records.chain().model_copy(update={"measurements": some})
    score = importance(record, ["h0", "h1", "h2", "h3"])
    assert score is not None
    assert score.name == "sensitivity"  # one exact effect among four is not mixed in
    every = {name: (*found, exact) for name, found in sensitivity.items()}
    score = importance(record.model_copy(update={"measurements": every}), ["h0", "h1", "h2", "h3"])
    assert score is not None
    assert score.name == "ablation_effect"
    assert importance(record, ["nobody"]) is None


def test_findings_are_grouped_worst_first_and_the_clock_stands_apart(encoder):
    groups = by_code(encoder)
    assert [g.severity for g in groups] == sorted((g.severity for g in groups), reverse=True)
    for group in groups:
        severities = [f.severity for f in group.findings]
        assert severities == sorted(severities, reverse=True)
    everything = [f.id for g in groups for f in g.findings]
    assert sorted(everything) == sorted(
        f.id for f in (*encoder.findings, *encoder.timings.findings)
    )
    assert [g.code for g in groups if g.clock] == ["critical-path-latency"]


def test_critical_paths_are_told_by_their_code(encoder):
    assert sorted(p.kind for p in critical_paths(encoder)) == ["information", "latency"]


def test_accepted_heads_are_removed_and_rejected_layers_are_not(encoder):
    accepted = encoder.proposals[0]
    assert removed(encoder) == frozenset(accepted.components)
    assert not any(i.startswith("encoder.layer.2/mlp") for i in removed(encoder))


def _judged(proposal: Proposal, **changes) -> AnalysisRecord:
    verdict = Verdict(proposal_id=proposal.id, outcome="accepted", reason="inside")
    return records.encoder(2, 4, proposals=(proposal,), verdicts=(verdict,), **changes)


def test_a_removed_layer_takes_its_parts_with_it():
    record = _judged(Proposal.make(strategy="remove-layer", components=("encoder.layer.1",)))
    gone = removed(record)
    inside = {c.id for c in record.components if c.id.startswith("encoder.layer.1")}
    inside -= {c.id for c in record.components if c.kind == "residual"}
    assert gone == inside


def test_a_pruned_mlp_is_still_there():
    proposal = Proposal.make(
        strategy="prune-neurons", components=("encoder.layer.1/mlp",), params={"fraction": 0.1}
    )
    assert removed(_judged(proposal)) == frozenset()


def test_what_only_gets_cheaper_is_not_removed():
    proposal = Proposal.make(strategy="lower-precision", components=("encoder.layer.1",))
    assert removed(_judged(proposal)) == frozenset()


@pytest.mark.parametrize(
    ("note", "value", "limit", "floor", "holds"),
    [
        ("limit 0.12", 0.031, 0.12, False, True),
        ("limit 0.12; measured 0.02; exact binomial bound 0.14", 0.13, 0.12, False, False),
        ("at least 0.95", 0.981, 0.95, True, True),
        ("≥ 0.95", 0.9, 0.95, True, False),
        ("limit 1e-05", 2e-5, 1e-5, False, False),
        ("no number here", 0.5, None, False, None),
        ("", None, None, False, None),
    ],
)
def test_limits_are_read_from_the_notes(note, value, limit, floor, holds):
    state = "measured" if value is not None else "could not tell"
    bound = Measurement(name="bound", value=value, note=note, state=state)
    (row,) = limits(Verdict(proposal_id="p", outcome="accepted", bounds=(bound,), reason=""))
    assert (row.limit, row.floor, row.holds) == (limit, floor, holds)


def test_a_bound_keeps_what_else_its_note_says():
    bound = Measurement(name="bound", value=0.1, note="limit 0.12; measured 0.02; other 0.14")
    (row,) = limits(Verdict(proposal_id="p", outcome="accepted", bounds=(bound,), reason=""))
    assert row.rest == "measured 0.02; other 0.14"


def test_what_a_proposal_touches_in_words():
    one = Proposal.make(strategy="prune-neurons", components=("a/mlp",), params={"units": [[1, 2]]})
    two = Proposal.make(
        strategy="prune-neurons", components=("a/mlp", "b/mlp"), params={"units": [[1], [2, 3]]}
    )
    whole = Proposal.make(strategy="compile", components=())
    assert scope(one) == "2 units of a/mlp"
    assert scope(two) == "3 units of 2 components"
    assert scope(whole) == "the model"
    assert scope(Proposal.make(strategy="remove-layer", components=("a",))) == "a"


def test_the_reason_does_not_repeat_the_outcome():
    verdict = Verdict(proposal_id="p", outcome="rejected", reason="rejected: too far")
    assert said(verdict) == "too far"
    assert said(verdict.model_copy(update={"outcome": "failed"})) == "rejected: too far"


def test_accepted_proposals_come_first():
    record = records.encoder()
    verdicts = list(record.verdicts)
    verdicts[0] = verdicts[0].model_copy(update={"outcome": "rejected"})
    verdicts[2] = verdicts[2].model_copy(update={"outcome": "accepted"})
    first, second, third = in_order(record)
    changed = record.model_copy(update={"verdicts": tuple(verdicts)})
    assert accepted_first(changed) == (third, first, second)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one", ("one", "")), ("", ("", "")), ("one\ntwo", ("one\ntwo", "")),
        ("x" * 300 + "\ntwo", ("x" * 300, "two")),
        ("x" * 200 + "\n" + "y" * 100 + "\nz", ("x" * 200, "y" * 100 + "\nz")),
    ],
)  # fmt: skip
def test_the_opening_of_a_text_ends_at_a_line(text, parts):
    assert opening(text) == parts


def test_pressure_is_one_at_the_limit_from_either_side():
    notes = [("limit 0.2", 0.2), ("at least 0.5", 0.5)]
    bounds = tuple(Measurement(name=n, value=v, note=n) for n, v in notes)
    verdict = Verdict(proposal_id="p", outcome="accepted", bounds=bounds, reason="")
    assert [row.pressure for row in limits(verdict)] == [1.0, 1.0]


def test_changes_join_by_name_and_know_when_a_ratio_means_nothing():
    verdict = Verdict(
        proposal_id="p", outcome="accepted", reason="",
        before=(records.measured("parameters", 200.0), records.measured("loss", 0.0)),
        after=(records.measured("loss", 0.1), records.measured("parameters", 150.0),
               records.measured("new", 1.0)),
    )  # fmt: skip
    assert [(c.name, c.ratio) for c in changes(verdict)] == [
        ("parameters", -0.25), ("loss", None), ("new", None),
    ]  # fmt: skip
    assert effect(verdict) == "parameters -25 %"


def _slow_sum(record: AnalysisRecord, layer: int | None) -> int:
    """Parameters of a layer by walking down from its topmost components."""
    children: dict[str | None, list[Component]] = {}
    ids = {c.id for c in record.components}
    for component in record.components:
        parent = component.parent if component.parent in ids else None
        children.setdefault(parent, []).append(component)

    def held(component: Component) -> int:
        if component.parameters:
            return component.parameters
        return sum(held(child) for child in children.get(component.id, ()))

    return sum(held(c) for c in children[None] if c.layer == layer)


@pytest.mark.parametrize("build", ["encoder", "cnn", "chain", "encoder_decoder"])
def test_parameters_of_layers_count_nothing_twice(build):
    record = getattr(records, build)()
    rows = layer_rows(record)
    assert [row.number for row in rows] == sorted(
        (row.number for row in rows), key=lambda n: (n is None, n)
    )
    for row in rows:
        assert row.parameters == _slow_sum(record, row.number)
    assert sum(row.parameters for row in rows) == total(record.components, lambda c: c.parameters)
    shares = [row.flops_share for row in rows if row.flops_share is not None]
    assert not shares or sum(shares) == pytest.approx(1.0)


def test_a_parent_that_is_its_own_ancestor_is_survived():
    loop = (
        Component(id="a", kind="mlp", path="a", parent="b", parameters=1),
        Component(id="b", kind="mlp", path="b", parent="a", parameters=1),
    )
    record = records.chain().model_copy(update={"components": loop})
    assert len(layer_rows(record)) == 1
    assert slowest(record) == ()


def test_time_is_counted_once():
    record = records.encoder(2, 4)
    seconds = {
        "encoder.layer.0": 10.0, "encoder.layer.0/attention": 3.0, "encoder.layer.0/head.1": 1.0,
        "encoder.layer.0/mlp": 7.0,
    }  # fmt: skip
    timings = record.timings.model_copy(update={"components": seconds})
    found = slowest(record.model_copy(update={"timings": timings}))
    assert found == (
        ("encoder.layer.0/mlp", 7.0, 0.7), ("encoder.layer.0/attention", 3.0, 0.3),
    )  # fmt: skip


def _ranked(criterion: str, count: int, **check) -> AnalysisRecord:
    names = tuple(f"h{i}" for i in range(count))
    ranking = Ranking(
        kind="head", criterion=criterion, components=names,
        scores=tuple(float(count - i) for i in range(count)),
    )  # fmt: skip
    checks = ()
    if check:
        checks = (CriterionCheck(kind="head", criterion=criterion, n=24, top_hits=0.5, **check),)
    validation = Validation(criteria=checks, rankings=(ranking,))
    return records.chain().model_copy(update={"validation": validation})


def test_a_ranking_carries_its_trust():
    bad = {"kendall": 0.2, "spearman": 0.3, "status": "not validated"}
    assert rankings(_ranked("taylor", 20, **bad))[0].status == "not validated"
    assert rankings(_ranked("taylor", 20))[0].status == "not checked"
    assert rankings(_ranked("exact ablation", 20))[0].status == "exact"


@pytest.mark.parametrize("count", [1, 3, 12, 13, 14, 15, 100])
def test_a_ranking_shows_both_ends_and_counts_the_middle(count):
    (view,) = rankings(_ranked("taylor", count))
    shown = [p.rank for p in (*view.first, *view.last)]
    assert len(shown) + (view.between or 0) == count
    assert shown == sorted(set(shown))
    assert shown[-1] == count


def test_a_cut_ranking_does_not_make_up_ranks():
    (view,) = rankings(_ranked("taylor", 512))
    assert view.between is None
    assert {p.rank for p in view.last} == {None}


def test_yardsticks_are_no_criteria():
    check = CriterionCheck(kind="head", criterion="random (baseline)", kendall=0, spearman=0,
                           top_hits=0, n=9, status="not validated")  # fmt: skip
    assert is_yardstick(check)
    assert not is_yardstick(check.model_copy(update={"criterion": "output sensitivity"}))


def test_the_three_answers(encoder):
    matters, waste, go = answered(encoder)
    assert "Most important heads by sensitivity, validated" in matters.facts[0].text
    assert waste.facts[0].text.startswith("redundant-heads × 9")
    assert not any("critical-path" in fact.text for fact in waste.facts)
    assert go.facts[0].text.startswith("prune-heads")
    assert go.facts[-1].text == "Of the rest: 1 rejected, 1 inconclusive"
    assert [len(part.words) for part in (matters, waste, go)] == [1, 1, 1]
    assert what_for(encoder.interpretations[2]) == "go"


@pytest.mark.parametrize("build", ["cnn", "chain"])
def test_a_record_without_findings_says_so(build):
    _, waste, go = answered(getattr(records, build)())
    assert [fact.text for fact in waste.facts] == ["No bottleneck and no redundancy was found."]
    assert [fact.text for fact in go.facts] == ["Nothing was proposed."]
