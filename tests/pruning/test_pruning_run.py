"""Whole prunes of small trained models: accepted, refused, resumed, looked ahead."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import trained

from zsei.errors import ModelError, UsageError
from zsei.gate import sandbox, trial
from zsei.gate.cost import measure_cost
from zsei.pruning import prune as prune_module
from zsei.pruning import walk as walk_module
from zsei.pruning.budget import budget_of, kinds_of
from zsei.pruning.outlook import look_ahead
from zsei.pruning.prune import ALL_KINDS, Pruned, prune, prune_settings
from zsei.pruning.records import Budget, PruneRecord
from zsei.pruning.resume import Kept
from zsei.settings import Settings
from zsei.subject.program import model_hash

TESTS = Path(__file__).parent.parent


def settings(home: Path, **more: object) -> Settings:
    given = {"samples": 128, "min_channels": 4, "threads": 1, "bootstrap": 200, "home": home}
    return prune_settings(**(given | more))


def cut(home: Path, budget: Budget, **more: object) -> Pruned:
    model, data = trained.trained_cnn()
    more = {"kinds": ("channels",)} | more  # trying layers as well would take twice as long
    return prune(model, data, budget=budget, settings=settings(home), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    home = tmp_path_factory.mktemp("accepted")
    return cut(home, Budget(parameters=0.7, max_drop=0.2), keep=("blocks.1",))


def test_a_budget_is_met_and_the_model_stays_as_it_was(accepted: Pruned) -> None:
    model, data = trained.trained_cnn()
    assert accepted.record.model_hash == model_hash(model)
    assert accepted.record.accepted == accepted.record.points[-1].number
    assert accepted.record.verdict is not None
    assert accepted.record.verdict.outcome == "accepted"
    assert accepted.record.refusal == ""
    assert accepted.edited is not None
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, accepted.edited.model))
    assert after <= 0.7 * before
    # What the record says is left is what is left.
    chosen = accepted.record.chosen
    assert chosen is not None
    assert chosen.parameters == pytest.approx(after / before, abs=1e-9)
    with torch.no_grad():
        right = accepted.edited.model(data["images"]).argmax(1) == data["labels"]
    assert right.float().mean() > 0.8


def test_what_is_kept_is_kept(accepted: Pruned) -> None:
    taken = {one.component for point in accepted.record.points for one in point.taken}
    assert taken
    assert not any(name.startswith("blocks.1") for name in taken)
    assert accepted.record.keep == ("blocks.1",)


def test_a_record_goes_through_json(accepted: Pruned) -> None:
    record = accepted.record
    assert PruneRecord.model_validate_json(record.model_dump_json()) == record


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}, {here!r}]
    from test_pruning_run import cut
    from zsei.pruning.records import Budget
    from zsei.pruning.resume import Kept

    write = Kept.write

    def killed(self, points, refused):
        write(self, points, refused)
        if len(points) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Kept.write = killed
    cut(Path({home!r}), Budget(parameters=0.7, max_drop=0.2), keep=("blocks.1",))
"""


@pytest.mark.long
def test_a_killed_prune_goes_on_and_ends_as_if_nothing_had_been(
    accepted: Pruned, tmp_path: Path
) -> None:
    here = str(Path(__file__).parent)
    program = textwrap.dedent(KILLED).format(tests=str(TESTS), here=here, home=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert len(list((tmp_path / "prunes").glob("*.json"))) == 1
    record = cut(tmp_path, Budget(parameters=0.7, max_drop=0.2), keep=("blocks.1",)).record
    assert record.resumed == 2
    assert record.id == accepted.record.id
    free = {"timings", "latency", "resumed"}
    assert record.model_dump(exclude=free) == accepted.record.model_dump(exclude=free)
    assert list((tmp_path / "prunes").glob("*")) == []


@pytest.mark.long
def test_the_largest_cut_within_a_loss_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it halves the step that went too far, it must not start anew from there."""
    monkeypatch.setattr(walk_module, "FINER", 0.45)
    whole = cut(tmp_path / "whole", Budget(max_drop=0.1)).record
    write, written = Kept.write, []

    def interrupt(self: Kept, points: object, refused: object) -> None:
        write(self, points, refused)  # type: ignore[arg-type]
        written.append(points)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut(tmp_path / "part", Budget(max_drop=0.1))
    record = cut(tmp_path / "part", Budget(max_drop=0.1)).record
    assert record.resumed == 3
    assert record.id == whole.id
    assert all(point.drop <= 0.1 for point in record.points[:-1])
    labelled = {m.name for m in record.points[-1].measured}
    assert {"loss", "agreement"} <= labelled


def test_a_loss_that_no_cut_keeps_changes_nothing(tmp_path: Path) -> None:
    found = cut(tmp_path, Budget(parameters=0.2, max_drop=0.001), kinds=ALL_KINDS)
    assert found.edited is None
    assert found.record.accepted is None
    assert found.record.verdicts
    assert found.record.refusal.startswith("Nothing is changed: ")
    assert "allow a larger loss" in found.record.refusal


def test_a_size_beyond_the_minima_names_the_settings(tmp_path: Path) -> None:
    model, data = trained.trained_cnn()
    budget = Budget(parameters=0.5, max_drop=0.2)
    found = prune(model, data, budget=budget, settings=settings(tmp_path, min_channels=28))
    assert found.edited is None
    for words in ("The search ended early: only", "min_channels = 28", "ask for that size"):
        assert words in found.record.refusal


@pytest.mark.long
def test_a_limit_in_time_is_walked_to_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a fake: time falls half as fast as operations."""
    asked = []

    def clock(before: object, after: object, *_: object, **__: object) -> tuple[float, ...]:
        flops = [measure_cost(program).flops for program in (before, after)]  # type: ignore[arg-type]
        asked.append(0.5 + 0.5 * flops[1] / flops[0])
        return asked[-1], asked[-1], asked[-1]

    monkeypatch.setattr(walk_module, "measure_latency", clock)
    monkeypatch.setattr(sandbox, "measure_latency", clock)
    monkeypatch.setattr(trial, "measure_latency", clock)
    found = cut(tmp_path, Budget(latency=0.8, max_drop=0.2))
    assert found.record.accepted is not None
    chosen = found.record.chosen
    assert chosen is not None
    assert chosen.flops <= 0.6 + 1e-6  # 0.8 of the time, by the fake
    assert found.record.latency[str(chosen.number)][0] <= 0.8


def test_looking_ahead_says_what_the_surgery_would_do(tmp_path: Path) -> None:
    model, data = trained.trained_cnn()
    before = model_hash(model)
    found = look_ahead(
        model, data, budget=Budget(flops=0.7), only=("blocks.1", "blocks.2.conv1"),
        settings=settings(tmp_path),
    )  # fmt: skip
    assert found.reached
    assert found.points[-1].flops <= 0.7
    costs = [point.predicted for point in found.points]
    assert costs == sorted(costs)
    taken = found.points[-1].taken
    assert {one.component for one in taken} <= {"blocks.1.conv1", "blocks.2.conv1"}
    # The oracle counts by hand: a channel of conv1 takes its own filter, its norm's two numbers,
    # and its column of conv2.
    blocks: dict[str, Any] = dict(model.named_modules())
    gone = 0
    for one in taken:
        name = one.component.removesuffix(".conv1")
        first, second = blocks[f"{name}.conv1"], blocks[f"{name}.conv2"]
        own = first.weight[0].numel() + (first.bias is not None) + 2
        gone += one.count * (own + second.weight[:, 0].numel())
    total = sum(p.numel() for p in model.parameters())
    assert found.points[-1].parameters == pytest.approx(1 - gone / total)
    assert model_hash(model) == before
    assert not (tmp_path / "prunes").exists()


def test_looking_ahead_says_how_far_it_can_go(tmp_path: Path) -> None:
    model, data = trained.trained_cnn()
    found = look_ahead(
        model, data, budget=Budget(parameters=0.5), settings=settings(tmp_path, min_channels=28)
    )
    assert not found.reached
    assert "min_channels = 28" in found.refusal


def test_a_component_that_does_not_exist_names_its_neighbours(tmp_path: Path) -> None:
    model, data = trained.trained_cnn()
    with pytest.raises(UsageError, match=r"no 'blocks\.7'.*blocks\.2"):
        prune(model, data, budget=Budget(flops=0.9), keep=["blocks.7"], settings=settings(tmp_path))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "needs a size"),
        ({"parameters": 0.5, "flops": 0.5}, "--params and --flops are two"),
        ({"parameters": 1.5}, "between 0 and 1; got 1.5"),
        ({"parameters": 80}, "for 80 % write 0.8"),
        ({"latency": 0.0}, "--latency"),
        ({"max_drop": -0.1}, "--max-drop is the largest loss"),
    ],
)
def test_a_budget_that_is_none_is_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        budget_of(**given)


def test_kinds_are_words() -> None:
    assert kinds_of("layers, heads") == ("heads", "layers")
    for wrong in ("", "heads,tails"):
        with pytest.raises(UsageError, match="heads, neurons, channels, experts, layers"):
            kinds_of(wrong)
    with pytest.raises(UsageError, match="tails"):
        prune_module.task_of(None, ["tails"], Settings())  # type: ignore[arg-type,list-item]


def test_half_precision_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    model, data = trained.trained_cnn()
    halves = {"images": data["images"].bfloat16(), "labels": data["labels"]}
    with pytest.raises(ModelError, match="full precision"):
        prune(model.bfloat16(), halves, budget=Budget(parameters=0.9), settings=settings(tmp_path))
