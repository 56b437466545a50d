"""Scaling over cores, and claims about training, under a planted clock."""

from functools import cache
from typing import Any

import pytest
import torch
from planted_claims import PlantedClock, bench, claim
from small_training import FIDELITY, Residual, workload
from speed.planted_speed import Planted, without_collecting

from zsei.claims.bench import Bench
from zsei.claims.by_scaling import on_threads, rows, scaling
from zsei.claims.by_training import training
from zsei.claims.claim import Claim, ClaimsFile
from zsei.settings import Settings
from zsei.speed.baseline import measure_baseline
from zsei.speed.race import difference as moved
from zsei.speedups.runnable import bare
from zsei.speedups.workload import Workload


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_collecting(monkeypatch)


def test_every_row_of_the_table_is_judged_on_its_own() -> None:
    table = claim("scaling", table={2: [1.8, 1.9], 1: 0.9, 16: [10, 14]})
    one, two, sixteen = rows(table)
    assert [row.id for row in (one, two, sixteen)] == ["it@1", "it@2", "it@16"]
    there = bench((), {"one": 1.0, "claimed": 0.5}, cores=2)
    found = scaling(there, two, None)
    assert (found.verdict, found.value) == ("held", pytest.approx(2.0))
    assert found.more_than_claimed  # beyond 1.9
    slow = bench((), {"one": 1.0, "claimed": 0.8}, cores=2)
    assert scaling(slow, two, None).verdict == "not held"
    missing = scaling(there, sixteen, None)
    assert missing.verdict == "not measurable here"
    assert missing.reason == "this machine has 2 cores, and the claim is about 16"


def test_a_side_runs_on_its_own_threads_and_leaves_them_as_they_were() -> None:
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    on_threads(bare(Counting(), ("x",)), 2)((torch.ones(1),))
    assert seen == [2]
    with pytest.raises(ValueError):
        on_threads(bare(Counting(), ("x",)), 2)(())
    assert torch.get_num_threads() == before


@cache
def residual(objective: Any) -> Workload:
    """Made once: no claim changes it."""
    given = {} if objective is None else {"objective": objective}
    return workload(Residual(blocks=2), **given)


def trained(objective: Any = None, **seconds: float) -> Bench:
    """A residual network under regression, its clock planted."""
    there = residual(objective)
    file = ClaimsFile.model_validate(
        {"model": "residual", "workload": {"use": "training"},
         "claims": [{"id": "it", "kind": "latency", "at_most": 1}]}
    )  # fmt: skip
    return Bench(
        file=file, workload=there, baseline=measure_baseline(there), cores=2, rounds=60,
        settings=Settings(bootstrap=200), measure=PlantedClock(seconds),
    )  # fmt: skip


def about_training(kind: str, **said: Any) -> Claim:
    return claim(kind, use="training", **said)


def test_training_is_claimed_of_steps_and_changes_no_weight_of_the_model() -> None:
    there = trained(baseline=3.0, claimed=1.0)
    weights = {name: value.clone() for name, value in there.workload.model.state_dict().items()}
    wanted = about_training("speed-up", steps=["fused-optimizer"], at_least=2, at_most=4)
    found = training(there, wanted, None)
    assert (found.verdict, found.value) == ("held", pytest.approx(3.0))
    assert found.steps[0].speedup == "fused-optimizer"
    assert "of training" in found.reason
    for name, value in there.workload.model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_memory_of_training_counts_what_stands_and_the_worst_moment_of_a_step() -> None:
    there = trained()
    wanted = about_training("memory", steps=["activation-checkpointing"], at_least=90, unit="%")
    found = training(there, wanted, None)
    before, after = (m.value for m in found.measurements if m.unit == "bytes")
    parameters = 4 * sum(p.numel() for p in there.workload.model.parameters())
    # Parameters and both moments of Adam stand; gradients are part of the step.
    assert before is not None
    assert before >= 3 * parameters + parameters
    assert found.value == pytest.approx(100 * (1 - (after or 0) / before))
    assert found.verdict == "not held"


def test_training_without_labels_is_not_measurable_and_says_so() -> None:
    found = training(
        trained(FIDELITY), about_training("speed-up", steps=["fused-optimizer"], at_least=2), None
    )
    assert found.verdict == "not measurable here"
    assert "labels" in found.reason


def test_rows_of_training_beyond_the_cores_are_not_measurable() -> None:
    there = trained(one=1.0, claimed=0.5)
    two, eight = rows(about_training("scaling", table={2: 1.8, 8: 6.5}))
    assert training(there, two, None).verdict == "held"
    assert training(there, eight, None).verdict == "not measurable here"


def test_planted_shelves_and_differences_are_what_these_tests_think() -> None:
    """The planted way of these tests is exact, so that nothing else decides."""
    there = bench((Planted(name="same"),), {})
    batch = there.workload.held_out[0]
    before = there.start()(batch.inputs)
    after = there.tried(claim("difference", steps=["same"], at_most=1).steps).runnable
    assert moved(before, after(batch.inputs), batch) == 0.0
