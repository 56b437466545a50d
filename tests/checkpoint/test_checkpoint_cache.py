"""What was measured is read back by content: never a wrong number, never a failure."""

import pickle
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import diskcache
import pytest
import torch
from prepared import SMALL, subject_of
from torch import Tensor, nn

import zsei.checkpoint.measure.one_pass
from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import LEVELS
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.cache import FOLDER, open_cache
from zsei.checkpoint.measure.measure import measure
from zsei.checkpoint.measure.one_pass import Forward
from zsei.checkpoint.measure.ready import ready_for
from zsei.checkpoint.measure.subjects import put_weights
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, Snapshot
from zsei.subject.objective import Objective
from zsei.subject.program import model_hash
from zsei.subject.types import Subject


class Block(nn.Module):
    """A residual block of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 18), nn.Linear(18, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    """Four of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


@cache
def stack() -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, x = Stack(), torch.randn(16, 8)
    return subject_of(
        model, (x,), Objective(name="classification", output="logits", reason="test"),
        labels=x[:, :3].argmax(1),
    )  # fmt: skip


@pytest.fixture
def subject() -> Iterator[Subject]:
    """The stack; its weights are put back afterwards."""
    before = {name: t.clone() for name, t in stack().model.state_dict().items()}
    yield stack()
    put_weights(stack().model, before)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every pass over the data."""
    seen: list[int] = []
    real = zsei.checkpoint.measure.one_pass.collect

    def counted(*arguments: object, **options: object) -> object:
        seen.append(1)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zsei.checkpoint.measure.one_pass, "collect", counted)
    return seen


def job_of(home: Path, size: int = 10**8, **settings: object) -> Job:
    return Job(
        run="test", model="none", data=None,
        settings=SMALL.model_copy(update={"home": home} | settings),
        config=CheckpointConfig.model_validate({"elesh": {"analysis_cache_size": size}}),
    )  # fmt: skip


def task(subject: Subject, ablate: int = 0) -> MeasureTask:
    layers = tuple(sorted({c.layer for c in subject.anatomy.components}, key=str))
    return MeasureTask(
        id="t", snapshot=Snapshot(epoch=1), layers=layers, levels=LEVELS, ablate=ablate
    )


def measured(subject: Subject, job: Job, ablate: int = 0) -> GroupMeasure:
    return measure(subject, task(subject, ablate), job)


def changed(subject: Subject, name: str) -> Subject:
    """The subject with other weights in one place."""
    weights = dict(subject.model.state_dict())
    put_weights(subject.model, weights | {name: weights[name] * 1.5 + 0.01})
    return replace(subject, model_hash=model_hash(subject.model))


def same(first: GroupMeasure, second: GroupMeasure) -> bool:
    """To the bit, whatever was read back."""
    return first.model_copy(update={"cached": 0}) == second.model_copy(update={"cached": 0})


def test_a_checkpoint_that_is_unchanged_costs_no_pass(
    subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    first = measured(subject, job_of(tmp_path), ablate=4)
    again = measured(subject, job_of(tmp_path), ablate=4)
    assert len(passes) == 1
    assert first.exact
    assert same(first, again)
    assert (first.cached, again.cached) == (0, len(first.sites))


def test_layers_put_together_in_another_way_are_known_too(
    subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    whole, job = task(subject), job_of(tmp_path)
    parts = [measure(subject, replace(whole, layers=(layer,)), job) for layer in whole.layers[:2]]
    assert len(passes) == 2
    both = measure(subject, replace(whole, layers=whole.layers[:2]), job)
    assert len(passes) == 2
    assert both.sites == (*parts[0].sites, *parts[1].sites)
    rest = measure(subject, whole, job)
    assert len(passes) == 3
    assert same(rest, measured(subject, job_of(tmp_path / "fresh")))


@pytest.mark.parametrize("name", ["blocks.0.up.weight", "blocks.2.down.bias", "last.weight"])
def test_one_changed_weight_changes_what_rests_on_it_and_nothing_is_stale(
    name: str, subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    ready = ready_for(subject)
    before = measure(subject, task(subject), job_of(tmp_path), ready)
    moved = changed(subject, name)
    cached = measure(moved, task(subject), job_of(tmp_path), ready)
    fresh = measure(moved, task(subject), job_of(tmp_path / "fresh"), ready)
    assert len(passes) == 3  # a gradient rests on every weight
    assert same(cached, fresh)
    assert not same(cached, before)
    # Forward parts of the places in front of the change are those of before.
    assert (cached.cached > 0) == (name != "blocks.0.up.weight")
    assert cached.cached < len(cached.sites) or name == "last.weight"


def test_what_the_numbers_rest_on_is_a_part_of_the_key(
    subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    measured(subject, job_of(tmp_path))
    measured(subject, job_of(tmp_path, probes=3))
    measured(subject, job_of(tmp_path, seed=5))
    other = tuple(replace(b, labels=None if b.labels is None else 2 - b.labels)
                  for b in subject.calibration)  # fmt: skip
    measured(replace(subject, calibration=other), job_of(tmp_path))
    assert len(passes) == 4
    limits = {"structured_pruning": {"channel_analysis": {"redundancy_threshold": 0.2}}}
    config = CheckpointConfig.model_validate({"elesh": limits})
    loose = measured(subject, replace(job_of(tmp_path), config=config))
    assert len(passes) == 5
    assert any(site.pairs for site in loose.sites)


def test_a_model_that_is_no_program_is_never_kept(subject: Subject, tmp_path: Path) -> None:
    modules = replace(subject, program=None)
    ready = ready_for(subject)
    assert ready.content(modules, job_of(tmp_path)) is None


@pytest.mark.parametrize("broken", ["garbage", "folder is a file", "no room", "off"])
def test_a_cache_that_cannot_be_had_is_a_miss(
    broken: str, subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    if broken == "garbage":
        (home / FOLDER).mkdir(parents=True)
        (home / FOLDER / "cache.db").write_bytes(b"no database" * 1000)
    if broken == "folder is a file":
        home.write_text("in the way")
    job = job_of(home, size={"off": 0, "no room": 1}.get(broken, 10**8))
    first, again = measured(subject, job), measured(subject, job)
    assert same(first, again)
    assert same(first, measured(subject, job_of(tmp_path / "fresh")))
    if broken != "no room":  # what was written last may outlast the limit until the next write
        assert len(passes) == 3
        assert again.cached == 0


class Trap:
    """Unpickling one is noticed."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (_spring, ())


def _spring() -> bytes:
    Trap.sprung = True
    return b"{}"


def test_pickles_and_damage_in_the_folder_are_misses(
    subject: Subject, passes: list[int], tmp_path: Path
) -> None:
    job = job_of(tmp_path)
    first = measured(subject, job)
    with diskcache.Cache(str(tmp_path / FOLDER)) as foreign:
        keys = list(foreign)
        assert keys
        for number, key in enumerate(keys):
            foreign.set(key, Trap() if number % 2 else b'{"sites": 3}')
    assert pickle.loads(pickle.dumps(Trap())) == b"{}"  # it would have been noticed
    assert Trap.sprung
    Trap.sprung = False
    assert same(first, measured(subject, job))
    assert len(passes) == 2
    assert not Trap.sprung


def test_no_file_outside_of_the_folder_is_read_or_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    job = job_of(tmp_path)
    with open_cache(job) as kept:
        kept.write("key", Forward(parts={"x": (1.0,)}))
        assert kept.read("key", Forward) == Forward(parts={"x": (1.0,)})
    database = sqlite3.connect(tmp_path / FOLDER / "cache.db")
    with database:
        database.execute("UPDATE Cache SET filename = '../outside.json', mode = 2, value = NULL")
    database.close()
    with open_cache(job) as kept:
        assert kept.read("key", Forward) is None
        kept.write("key", Forward())
    assert outside.exists()
