"""Ceilings: operations counted by hand over planted seconds, kept in a file that is checked."""

import json
from pathlib import Path

import pytest
import torch

from zsei.errors import UsageError
from zsei.timing import ceilings as module
from zsei.timing.ceilings import FILE, Ceilings, bandwidth, ceilings, peak
from zsei.timing.device import Device

HERE = Device(torch=torch.device("cpu"), name="a planted processor")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small matrices and a planted clock: every call takes 2 ms; the list holds its threads."""
    ran: list[int] = []

    def clock(call: object, device: Device) -> float:
        call()  # type: ignore[operator]
        ran.append(torch.get_num_threads())
        return 0.002

    monkeypatch.setattr(module, "SIDE", 64)
    monkeypatch.setattr(module, "STREAM", 1 << 10)
    monkeypatch.setattr(module, "seconds", clock)
    forget()
    return ran


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> object:
    """What was measured by the planted clock must not stay."""
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    for cached in (module.peak, module.bandwidth, module._measured):
        cached.cache_clear()


def test_a_peak_is_the_operations_of_a_product_per_second() -> None:
    for dtype in ("float32", "bfloat16", "float16", "int8"):
        # 2 ms for a pilot of 32 x 32 would be 16 ms for 64 x 64, which is patience enough.
        assert peak(HERE, 1, dtype) == 2 * 64**3 / 0.002
    assert bandwidth(HERE, 1) == 3 * 4 * (1 << 10) / 0.002


def test_where_products_are_slow_the_matrices_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seconds", lambda call, device: 0.02)
    assert peak(HERE, 1, "float32") == 2 * 32**3 / 0.02


def test_the_best_of_several_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([0.5, 0.3, 0.1, 0.7, 0.9])
    monkeypatch.setattr(module, "seconds", lambda call, device: next(durations))
    assert bandwidth(HERE, 1) == 3 * 4 * (1 << 10) / 0.1


def test_data_are_random_and_the_users_random_state_is_untouched() -> None:
    state = torch.random.get_rng_state()
    assert module._random(HERE, 1000).std() == pytest.approx(1, abs=0.1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_threads_asked_for_are_in_force_and_given_back(small: list[int]) -> None:
    before = torch.get_num_threads()
    found = ceilings(HERE, 2, ("float32",))
    assert set(small) == {2}
    assert found.threads == 2
    assert torch.get_num_threads() == before
    assert ceilings(HERE, None, ("float32",)).threads == before


def test_the_threads_are_given_back_when_a_product_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(call: object, device: Device) -> float:
        raise RuntimeError('"addmm" not implemented\nfor Half')

    monkeypatch.setattr(module, "seconds", fails)
    before = torch.get_num_threads()
    assert peak(HERE, 2, "float16") == (
        'torch multiplies no float16 matrices on a planted processor: "addmm" not implemented'
    )
    assert torch.get_num_threads() == before


def test_a_type_without_a_kernel_has_a_reason_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    found = ceilings(HERE, 1, ("float32", "int8"))
    assert list(found.peak) == ["float32"]
    assert "no int8 matrices" in found.could_not_tell["int8"]
    assert found.ridge("int8") is None
    assert found.ridge() == found.peak["float32"] / found.bandwidth


def test_they_are_measured_once(small: list[int]) -> None:
    first = ceilings(HERE, 1)
    n = len(small)
    assert ceilings(HERE, 1) is first
    assert len(small) == n
    ceilings(HERE, 2)
    assert len(small) == 2 * n


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'float64' is none of them"):
        ceilings(HERE, 1, ("float64",))


def test_a_file_keeps_them_for_the_next_process(small: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    first = ceilings(HERE, 1, ("float32",), folder)
    forget()
    small.clear()
    assert ceilings(HERE, 1, ("float32",), folder) == first
    assert small == []
    other = Device(torch=HERE.torch, name="another processor")
    for device, threads in ((HERE, 2), (other, 1)):
        assert ceilings(device, threads, ("float32",), folder).threads == threads
        assert small
        small.clear()
    more = ceilings(HERE, 1, ("int8",), folder)
    assert set(more.peak) == {"float32", "int8"}
    kept = json.loads((folder / FILE).read_text())["ceilings"]
    assert [(c["device"], c["threads"], sorted(c["peak"])) for c in kept] == [
        (HERE.name, 2, ["float32"]), (other.name, 1, ["float32"]),
        (HERE.name, 1, ["float32", "int8"]),
    ]  # fmt: skip
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_another_version_of_torch_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch, small: list[int], tmp_path: Path
) -> None:
    ceilings(HERE, 1, ("float32",), tmp_path)
    small.clear()
    forget()
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert ceilings(HERE, 1, ("float32",), tmp_path).torch == "9.9"
    assert small


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"\xff\xfe", b"[]", b'{"schema_version": 2, "ceilings": []}',
        b'{"schema_version": 1, "ceilings": [], "more": 1}',
        b'{"ceilings": [{"device": "a planted processor", "peak": {"float32": 0}}]}',
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_measured_anew_and_replaced(
    small: list[int], tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / FILE).write_bytes(damage)
    found = ceilings(HERE, 1, ("float32",), tmp_path)
    assert small
    text = (tmp_path / FILE).read_text()
    assert [Ceilings.model_validate(c) for c in json.loads(text)["ceilings"]] == [found]


def test_a_planted_zero_in_the_file_is_not_believed(small: list[int], tmp_path: Path) -> None:
    ceilings(HERE, 1, ("float32",), tmp_path)
    kept = json.loads((tmp_path / FILE).read_text())
    kept["ceilings"][0]["bandwidth"] = 0
    (tmp_path / FILE).write_text(json.dumps(kept))
    small.clear()
    forget()
    assert ceilings(HERE, 1, ("float32",), tmp_path).bandwidth > 0
    assert small


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    assert ceilings(HERE, 1, ("float32",), blocked / "folder").bandwidth > 0
    assert blocked.read_text() == "mine"
