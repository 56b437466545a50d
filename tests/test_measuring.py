"""What is measured from Python is in memory afterwards, and a broken memory takes nothing away."""

import inspect
from pathlib import Path

import factories
import pytest
import torch

import zsei
from zsei.claims.check import check_claims
from zsei.memory import Memory
from zsei.memory.documents import documents, get_document
from zsei.profiling.profile import profile
from zsei.settings import Settings
from zsei.speed.speed_up import speed_up


def test_each_measurement_is_kept_under_its_id(home: Path) -> None:
    model, data = factories.tiny_mlp()
    settings = Settings(batch_size=4, samples=8, bootstrap=200)
    profiled = zsei.profile(model, data, settings=settings, grow=False)
    raced = zsei.speed_up(
        model, data, settings=settings, only=["inference-mode"], rounds=3, final_rounds=3, threads=1
    )
    found = {row.id: row.kind for row in documents(Memory(home))}
    assert found == {profiled.id: "profile", raced.id: "speed"}
    assert get_document(Memory(home), profiled.id) == profiled
    assert get_document(Memory(home), raced.id) == raced


def test_settings_say_which_memory(tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other"
    model = torch.nn.Linear(6, 2)
    record = zsei.profile(model, torch.randn(8, 6), settings=Settings(home=other), grow=False)
    assert [row.id for row in documents(Memory(other))] == [record.id]
    assert documents(Memory(home)) == ()


def test_a_memory_that_cannot_be_written_takes_no_measurement_away(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    model = torch.nn.Linear(6, 2)
    with pytest.warns(UserWarning, match="not kept in memory"):
        record = zsei.profile(model, torch.randn(8, 6), settings=Settings(home=blocked), grow=False)
    assert record.calls


@pytest.mark.parametrize(
    ("public", "own"),
    [(zsei.speed_up, speed_up), (zsei.profile, profile), (zsei.check_claims, check_claims)],
)
def test_it_is_still_the_same_function(public: object, own: object) -> None:
    assert inspect.signature(public) == inspect.signature(own)  # type: ignore[arg-type]
    assert public.__doc__ == own.__doc__
