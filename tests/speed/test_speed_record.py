"""`zsei.speed_up` from the call to the record."""

import json
from typing import Any

import pytest
import torch
from planted_speed import FACTORS, SHELF, Tiny, clock, subject, without_collecting

from zsei.errors import DeviceError, UsageError
from zsei.settings import Settings
from zsei.speed import speed_up as module
from zsei.speed.record import SpeedRecord
from zsei.speed.speed_up import speed_up
from zsei.subject.program import model_hash

QUICK = Settings(bootstrap=200)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model stands in for whatever is named; nothing is exported."""
    without_collecting(monkeypatch)
    monkeypatch.setattr(module, "prepare", lambda *_, **__: subject())


def measured(**options: Any) -> SpeedRecord:
    given: dict[str, Any] = {"settings": QUICK, "shelf": SHELF, "race": clock(FACTORS), **options}
    return speed_up("a model", **given)


def test_the_record_holds_every_trial_and_the_settings_hold_what_was_accepted_together() -> None:
    found = measured(command="zsei speed a-model")
    assert {t.steps[0].speedup for t in found.alone} | {f.what for f in found.refused} == {
        s.name for s in SHELF
    }
    assert found.together is not None
    assert found.settings is not None
    assert found.settings.steps == found.together.order
    assert found.settings.speed_up == found.together.trial.speed_up
    assert found.settings.model_hash == found.model_hash == model_hash(Tiny())
    assert found.samples == 32
    assert found.batch_size == 16
    assert found.baseline.median == pytest.approx(1.0, rel=0.02)
    assert SpeedRecord.model_validate_json(found.model_dump_json()) == found


def test_nothing_accepted_leaves_no_settings() -> None:
    found = measured(only=["liar", "slow", "crash"])
    assert found.settings is None
    assert found.together is None


@pytest.mark.parametrize(
    ("late", "order"),
    [({}, ["lean"]), ({frozenset({"lean"}): 1.0}, [])],
    ids=["the best alone holds", "it was fast by luck"],
)
def test_only_what_the_last_longer_measurement_accepts_is_in_the_settings(
    late: dict[frozenset[str], float], order: list[str]
) -> None:
    usual = clock(FACTORS)
    longer = clock(FACTORS, {frozenset({"lean", "that"}): 1.0, **late})

    def race(workload: Any, sides: Any, **options: Any) -> Any:
        return (longer if options.get("rounds") == 21 else usual)(workload, sides, **options)

    found = measured(only=["lean", "that"], race=race)
    assert found.together is not None
    assert [s.speedup for s in found.together.order] == ["lean"]
    why = {f.what: f.why for f in found.together.left_out}
    assert "with more rounds, together inconclusive" in why["that"]
    steps = () if found.settings is None else found.settings.steps
    assert [s.speedup for s in steps] == order


def test_the_id_names_what_was_asked_and_not_what_a_clock_said() -> None:
    first, slower = measured(), measured(race=clock({n: f * 1.001 for n, f in FACTORS.items()}))
    assert first.id == slower.id
    assert first.baseline == slower.baseline
    assert first.alone != slower.alone
    assert measured(settings=Settings(bootstrap=200, max_divergence=0.5)).id != first.id


def test_progress_never_goes_back() -> None:
    told: list[float] = []
    measured(progress=lambda stage, done, left, note: told.append(done))
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] <= 1


def test_a_wrong_call_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(module, "prepare", never)
    with pytest.raises(UsageError, match="warp"):
        measured(only=["warp"])
    with pytest.raises(DeviceError, match="tpu"):
        measured(device="tpu")


def test_everything_of_the_process_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_rng_state().tolist(), torch.backends.mha.get_fastpath_enabled(),
        )  # fmt: skip

    before = state()
    measured(threads=1)
    assert state() == before


def test_a_strategists_order_is_asked_for_among_the_accepted_alone() -> None:
    asked: list[list[str]] = []

    def order(trials: Any) -> list[str]:
        asked.append([t.steps[0].speedup for t in trials])
        return ["that"]

    found = measured(order=order)
    assert asked == [["rough", "lean", "that", "this"]]
    assert found.together is not None
    assert found.together.order[0].speedup == "that"


def test_the_record_is_plain_json() -> None:
    text = measured(only=["lean"]).model_dump_json()
    assert json.loads(text, parse_constant=pytest.fail)["schema_version"] == 1


@pytest.mark.long
def test_a_real_model_on_the_real_shelf_ends_with_a_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zsei.subject.prepare import prepare

    monkeypatch.setattr(module, "prepare", prepare)
    chosen = Settings(bootstrap=200, samples=32, batch_size=8, length=16)
    found = speed_up(
        "demo:minilm", settings=chosen, threads=1, rounds=5, final_rounds=5,
        only=["attention-backend", "inference-mode", "padding"],
    )  # fmt: skip
    names = {t.steps[0].speedup for t in found.alone} | {f.what for f in found.refused}
    assert {name.partition(" ")[0] for name in names} == {
        "attention-backend", "inference-mode", "padding",
    }  # fmt: skip
    for trial in found.alone:
        assert trial.verdict.outcome in ("accepted", "rejected", "inconclusive")
