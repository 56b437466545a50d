"""A whole file is checked: every claim gets its verdict, whatever became of the others."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_claims import PlantedClock
from speed.planted_speed import without_collecting

import zsei
from zsei.claims.check import check_claims
from zsei.claims.record import ClaimsRecord
from zsei.errors import DataError, DeviceError, ModelError, UsageError

SCRIPT = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def net():
    return Net(), {"x": torch.randn(48, 6, generator=torch.Generator().manual_seed(1))}


def nothing():
    return 3


def broken():
    raise ValueError("no luck today")
"""
FILE = """
title: Promises
model: promised:net
workload: {batch: 8, samples: 32, threads: 1}
claims:
  - {id: faster, kind: speed-up, steps: [{speedup: inference-mode}], at_least: 2, at_most: 4,
     quote: two to four times}
  - {id: attention, kind: speed-up, steps: [{speedup: attention-backend}], at_least: 2}
  - {id: cores, kind: scaling, table: {2: 1.8, 64: 30}}
  - {id: same, kind: difference, steps: [{speedup: inference-mode}], at_most: 1e-5}
  - {id: slow, kind: latency, at_most: 10}
"""
SECONDS = {"baseline": 3.0, "claimed": 1.0, "one": 1.95}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_collecting(monkeypatch)
    monkeypatch.setattr("zsei.claims.check.cores", lambda: 2)
    (tmp_path / "promised.py").write_text(SCRIPT)
    (tmp_path / "claims.yaml").write_text(FILE)
    return tmp_path / "claims.yaml"


def checked(file: Path, **given: Any) -> ClaimsRecord:
    given.setdefault("measure", PlantedClock(SECONDS))
    return check_claims(file, **given)


def test_every_claim_gets_its_verdict_and_says_how_to_measure_it_again(file: Path) -> None:
    import sys

    threads, path = torch.get_num_threads(), list(sys.path)
    state = torch.random.get_rng_state()
    record = checked(file)
    said = {outcome.id: outcome.verdict for outcome in record.outcomes}
    assert said == {
        "faster": "held", "attention": "not measurable here", "cores@2": "held",
        "cores@64": "not measurable here", "same": "held", "slow": "not held",
    }  # fmt: skip
    assert not record.holds
    assert record.outcome("slow").value == pytest.approx(1000 / 8)  # a second for 8 samples
    assert "none" in record.outcome("attention").reason
    faster = record.outcome("faster")
    assert (faster.claimed, faster.quote) == ("2 to 4 x", "two to four times")
    assert faster.command == f"zsei claims {file} --only faster"
    assert (record.model_class, record.samples, record.batch_size) == ("Net", 16, 8)
    assert record.machine.threads == 1
    assert ClaimsRecord.model_validate_json(record.model_dump_json()) == record
    # Nothing is left behind.
    assert (torch.get_num_threads(), sys.path) == (threads, path)
    assert "promised" not in sys.modules
    assert torch.equal(torch.random.get_rng_state(), state)
    again = checked(file)
    assert again.id == record.id
    assert [o.verdict for o in again.outcomes] == list(said.values())


def test_one_claim_or_one_row_is_checked_alone(file: Path) -> None:
    assert [o.id for o in checked(file, only=["same"]).outcomes] == ["same"]
    assert [o.id for o in checked(file, only=["cores"]).outcomes] == ["cores@2", "cores@64"]
    assert [o.id for o in checked(file, only=["cores@2"]).outcomes] == ["cores@2"]
    with pytest.raises(UsageError, match=r"no claim 'nonsense'; it has faster"):
        checked(file, only=["nonsense"])


def test_the_budget_is_shared_by_the_claims_that_are_left(file: Path) -> None:
    clock = PlantedClock(SECONDS)
    record = checked(file, measure=clock, budget=1000.0, only=["faster", "slow"])
    first, second = (budget or 0 for budget in clock.budgets)
    assert first <= 500 < second <= 1000
    assert record.count("not decided") == 0
    spent = checked(file, budget=1e-9)
    assert {o.verdict for o in spent.outcomes} == {"not decided"}


def test_what_is_asked_for_beside_the_file_is_checked_first(file: Path) -> None:
    with pytest.raises(UsageError, match="8 rounds at least; 7"):
        checked(file, rounds=7)
    with pytest.raises(DeviceError, match="tpu"):
        checked(file, device="tpu")
    assert "--threads 2" in checked(file, threads=2, only=["same"]).command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, so nothing is missing")
def test_a_device_that_is_not_here_makes_every_claim_not_measurable(file: Path) -> None:
    file.write_text(FILE.replace("model: promised:net", "model: nowhere:at_all\ndevice: cuda"))
    record = checked(file)
    assert {o.verdict for o in record.outcomes} == {"not measurable here"}
    assert "torch sees none" in record.outcomes[0].reason
    assert record.model_hash == ""
    assert record.holds
    with pytest.raises(DeviceError, match="torch sees none"):
        checked(file, device="cuda")


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [("promised:nothing", ModelError, "returned int"), ("promised:broken", ModelError, "no luck"),
     ("promised:absent", ModelError, "absent"), ("nowhere:at_all", ModelError, "nowhere")],
)  # fmt: skip
def test_a_model_that_cannot_be_made_is_named(
    file: Path, model: str, error: type[Exception], says: str
) -> None:
    file.write_text(FILE.replace("promised:net", model))
    with pytest.raises(error, match=says):
        checked(file)


def test_data_that_are_not_there_are_named(file: Path) -> None:
    file.write_text(f"data: missing.npz\n{FILE}")
    with pytest.raises(DataError, match=r"missing\.npz"):
        checked(file)


def test_two_scripts_of_one_name_do_not_meet(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    narrow = SCRIPT.replace(
        "nn.Linear(6, 12), nn.Linear(12, 4)", "nn.Linear(6, 3), nn.Linear(3, 4)"
    )
    (other / "promised.py").write_text(narrow)
    (other / "claims.yaml").write_text(FILE)
    first, second = (checked(path, only=["same"]) for path in (file, other / "claims.yaml"))
    assert first.parameters == 6 * 12 + 12 + 12 * 4 + 4
    assert second.parameters == 6 * 3 + 3 + 3 * 4 + 4
    assert first.id != second.id


def test_the_model_of_a_claim_is_never_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from zsei.claims import check

    def vandal(path: Any, *rest: Any) -> Any:
        subject = original(path, *rest)
        with torch.no_grad():
            copy.copy(subject.model).up.weight.add_(1)
        return subject

    original = check.prepare
    monkeypatch.setattr(check, "prepare", vandal)
    with pytest.raises(ModelError, match="never changed"):
        checked(file, only=["same"])


def test_it_is_public() -> None:
    assert inspect.unwrap(zsei.check_claims) is check_claims
