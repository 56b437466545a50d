"""Two analyses side by side, analyses that are alike, and what was tried before."""

import math
import random
import statistics
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record

from zsei.errors import UsageError
from zsei.memory.differences import differences
from zsei.memory.similar import correlation, similar_runs
from zsei.memory.store import Memory
from zsei.memory.tried import NEAR, tried_before
from zsei.records import AnalysisRecord, Measurement, Proposal


def measured(record: AnalysisRecord, component: str, *numbers: Measurement) -> AnalysisRecord:
    return record.model_copy(
        update={"measurements": {**record.measurements, component: numbers}, "id": "changed"}
    )


# differences


def test_an_analysis_does_not_differ_from_itself() -> None:
    record = make_record(0)
    found = differences(record, record)
    assert (found.model, found.conditions) == ("same weights", ())
    assert (found.moved, found.counted, found.untold) == ((), (), ())
    assert (found.came, found.went, found.verdicts) == ((), (), ())
    assert found.stayed == len(record.findings)
    sampled = [m for ms in record.measurements.values() for m in ms if m.std is not None]
    assert found.compared == len(sampled)


def test_numbers_move_beyond_their_spread_or_do_not() -> None:
    record = make_record(0)
    place = "encoder.layer.0/mlp"

    def number(name: str, value: float, std: float | None, n: int = 64) -> Measurement:
        return Measurement(name=name, value=value, std=std, n=n)

    one = measured(
        record,
        place,
        number("far", 1.0, 0.1),
        number("near", 1.0, 0.1),
        number("bare", 1.0, None),
        number("same", 1.0, None),
        number("constant", 1.0, 0.0),
        number("counted", 3.0, None, n=0),
        number("untold", 1.0, 0.1).model_copy(update={"value": None, "state": "could not tell"}),
    )
    two = measured(
        record,
        place,
        number("far", 1.2, 0.1),
        number("near", 1.03, 0.1),
        number("bare", 1.2, None),
        number("same", 1.0, None),
        number("constant", 1.2, 0.0),
        number("counted", 4.0, None, n=0),
        number("untold", 1.0, 0.1),
    )
    found = differences(one, two)
    (moved,) = found.moved
    assert (moved.component, moved.name, moved.first, moved.second) == (place, "far", 1.0, 1.2)
    assert moved.z == pytest.approx(0.2 / math.sqrt(0.01 / 64 + 0.01 / 64))
    assert found.limit == pytest.approx(
        statistics.NormalDist().inv_cdf(1 - 0.05 / 2 / found.compared)
    )
    assert 3 < found.limit < (moved.z or 0)
    assert {m.name for m in found.counted} == {"constant", "counted"}
    assert {m.name for m in found.untold} == {"bare"}


def test_what_only_noise_moved_is_not_called_moved() -> None:
    """Two samples of the same numbers, a hundred times: one in twenty may be wrong about any."""
    rng = random.Random(0)
    record = make_record(0)
    false = 0
    for _ in range(100):
        sides = []
        for _ in range(2):
            values = [[rng.gauss(1, 0.3) for _ in range(64)] for _ in range(20)]
            numbers = (
                Measurement(name=f"m{i}", value=statistics.mean(v), std=statistics.stdev(v), n=64)
                for i, v in enumerate(values)
            )
            sides.append(
                record.model_copy(update={"measurements": {"encoder.layer.0": tuple(numbers)}})
            )
        false += bool(differences(*sides).moved)
    assert false <= 12  # 5 are expected


def test_conditions_findings_and_verdicts_that_differ_are_told() -> None:
    first = make_record(0)
    second = make_record(0, outcomes=("rejected", "rejected"), redundant_layers=False)
    second = second.model_copy(
        update={
            "id": "second",
            "conditions": second.conditions.model_copy(update={"safety": "aggressive"}),
        }
    )
    found = differences(first, second)
    assert [(c.name, c.first, c.second) for c in found.conditions] == [
        ("safety", "moderate", "aggressive")
    ]
    assert [f.code for f in found.went] == ["redundant-layers"]
    assert found.came == ()
    assert found.stayed == 4
    heads, _, neurons = first.proposals
    assert [(v.proposal, v.first, v.second) for v in found.verdicts] == [
        (heads.id, "accepted", "rejected"),
        (neurons.id, "inconclusive", None),
    ]
    back = differences(second, first)
    assert (back.came, back.went) == (found.went, found.came)


def test_another_model_is_said() -> None:
    first, second = make_record(0), make_record(0, model="other", layers=2)
    found = differences(first, second)
    assert found.model == "another model"
    assert {name.split("/")[0] for name in found.only_first} == {"encoder.layer.2"}
    assert found.only_second == ()
    other = first.model_copy(
        update={"provenance": first.provenance.model_copy(update={"model_hash": "1" * 60})}
    )
    assert differences(first, other).model == "same name, other weights"


# similar


@pytest.fixture
def memory(home: Path) -> Memory:
    return Memory(home, embedder=HashEmbedder())


def test_the_most_alike_come_first_and_say_why(memory: Memory) -> None:
    base = make_record(0)
    twin = base.model_copy(update={"id": "twin"})
    deeper = make_record(1, layers=4)
    other = make_record(2, model="net", family="resnet", layers=1, heads=0, redundant_layers=False)
    for record in (other, base, deeper, twin):
        memory.add(record)
    found = similar_runs(memory, base.id)
    assert [each.run for each in found] == ["twin", deeper.id, other.id]
    assert found[0].score == pytest.approx(1.0)
    assert {reason.by for reason in found[0].reasons} == {"findings", "structure", "profile"}
    by = {reason.by: reason for reason in found[2].reasons}
    assert "bert and resnet" in by["structure"].why
    assert "redundant-heads" in by["findings"].why
    assert found == similar_runs(memory, base.id)
    assert similar_runs(memory, base.id, limit=1) == found[:1]
    with pytest.raises(UsageError):
        similar_runs(memory, "nothing")


def test_the_scores_are_what_the_formula_says(memory: Memory) -> None:
    first, second = make_record(0), make_record(1, layers=5)
    memory.add(first)
    memory.add(second)
    (found,) = similar_runs(memory, first.id)
    by = {reason.by: reason.score for reason in found.reasons}
    sums: list[dict[str, float]] = []
    sizes: list[dict[str, float]] = []
    for record in (first, second):
        codes: dict[str, float] = {}
        kinds: dict[str, float] = {}
        for finding in record.findings:
            codes[finding.code] = codes.get(finding.code, 0.0) + finding.severity
        for component in record.components:
            kinds[component.kind] = kinds.get(component.kind, 0) + 1
        sums.append(codes)
        sizes.append({kind: math.log(1 + count) for kind, count in kinds.items()})

    def cosine(pair: list[dict[str, float]]) -> float:
        names = sorted({*pair[0], *pair[1]})
        a, b = ([each.get(name, 0.0) for name in names] for each in pair)
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    assert by["findings"] == pytest.approx(cosine(sums))
    assert by["structure"] == pytest.approx(cosine(sizes) * 3 / 5)
    assert found.score == pytest.approx(sum(by.values()) / 3)


def test_profiles_are_compared_by_shape() -> None:
    assert correlation((1, 2, 3), (10, 20, 30)) == pytest.approx(1)
    assert correlation((1, 2, 3), (3, 2, 1)) == pytest.approx(-1)
    assert correlation((1, 2, 3), (1, 1.5, 2, 2.5, 3)) == pytest.approx(1)  # another depth
    assert correlation((1, 2, 3), (5, 5, 5)) is None
    assert correlation((1, 2), (1, 2, 3)) is None
    rng = random.Random(0)
    one, two = ([rng.random() for _ in range(8)] for _ in range(2))
    assert correlation(tuple(one), tuple(two)) == pytest.approx(statistics.correlation(one, two))


# tried before


def test_rejected_proposals_are_found_with_their_numbers(memory: Memory) -> None:
    record = make_record(0)
    memory.add(record)
    heads, layers, neurons = record.proposals
    for proposal, outcome in (
        (heads, "accepted"),
        (layers, "rejected"),
        (neurons, "inconclusive"),
    ):
        (found,) = tried_before(memory, proposal, model_hash=record.provenance.model_hash)
        verdict = next(v for v in record.verdicts if v.proposal_id == proposal.id)
        assert (found.outcome, found.reason) == (outcome, verdict.reason)
        assert (found.before, found.after, found.bounds) == (
            verdict.before,
            verdict.after,
            verdict.bounds,
        )
        assert found.same_edit
        assert found.near == NEAR[0]
    assert tried_before(memory, layers, outcomes=["accepted"]) == ()


def test_the_nearest_tries_come_first(memory: Memory) -> None:
    here = make_record(0)
    renamed = make_record(1).model_copy(
        update={"provenance": make_record(1).provenance.model_copy(update={"model_hash": "2" * 60})}
    )
    cousin = make_record(2, model="cousin")
    stranger = make_record(3, model="stranger", family="gpt2")
    for record in (here, renamed, cousin, stranger):
        memory.add(record)
    about = here.provenance
    names = {"model_hash": about.model_hash, "model": about.model, "family": about.family}
    smaller = Proposal.make(
        strategy="remove-layers", components=("encoder.layer.1",), params={"share": 0.1}
    )
    found = tried_before(memory, smaller, **names)
    assert [(each.run, each.near) for each in found] == list(
        zip((here.id, renamed.id, cousin.id), NEAR, strict=True)
    )
    assert not any(each.same_edit for each in found)
    again = tried_before(memory, cousin.proposals[1], **names)
    assert [each.run for each in again] == [here.id, renamed.id, cousin.id]
    assert all(each.same_edit for each in again)
    assert len(tried_before(memory, smaller)) == 4
    assert len(tried_before(memory, smaller, **names, limit=2)) == 2
    elsewhere = Proposal.make(strategy="remove-layers", components=("encoder.layer.2",))
    assert tried_before(memory, elsewhere, **names) == ()
    other = Proposal.make(strategy="prune-heads", components=("encoder.layer.1",))
    assert tried_before(memory, other, **names) == ()
