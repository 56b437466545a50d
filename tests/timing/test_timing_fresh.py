"""Functions in processes of their own: what they are given, what comes back, how they fail."""

import os
import sys
import time
from pathlib import Path

import pytest

from zsei.errors import ModelError, SpeedUpRefused, UsageError
from zsei.timing.fresh import run_fresh
from zsei.timing.resident import resident_memory

TARGETS = "timing_fresh_targets"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells resident memory so")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The targets, as a module of this process's path."""
    source = Path(__file__).with_name("fresh_targets.py").read_text(encoding="utf-8")
    (tmp_path / f"{TARGETS}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_arguments_and_variables_arrive_and_printing_does_not_mix_with_the_answer() -> None:
    before = dict(os.environ)
    fresh = run_fresh(f"{TARGETS}:told", {"number": 3}, environment={"PLANTED": "yes"})
    assert fresh.result == {"number": 3, "variable": "yes", "torch": False}
    assert fresh.seconds > 0
    assert dict(os.environ) == before


@pytest.mark.long
def test_threads_of_both_kinds_are_set_there_and_not_here() -> None:
    import torch

    here = torch.get_num_threads(), torch.get_num_interop_threads()
    assert run_fresh(f"{TARGETS}:threads", threads=2, interop_threads=3).result == [2, 3]
    assert (torch.get_num_threads(), torch.get_num_interop_threads()) == here


@linux
def test_resident_memory_is_what_the_process_filled() -> None:
    small, large = (run_fresh(f"{TARGETS}:hold", {"megabytes": n}) for n in (1, 33))
    assert (small.result, large.result) == (1, 33)
    grown = [f.resident_peak - f.resident_before for f in (small, large)]  # type: ignore[operator]
    assert grown[1] - grown[0] == pytest.approx(32 << 20, rel=0.1)


@linux
def test_resident_memory_forgets_an_earlier_peak() -> None:
    assert len(bytearray(b"\x01") * (64 << 20)) == 64 << 20  # filled, and let go
    found = resident_memory(lambda: "done")
    assert found is not None
    assert found.result == "done"
    assert found.grown < 8 << 20


def test_resident_memory_says_nothing_where_the_system_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zsei.timing.resident._FORGET", tmp_path / "missing" / "clear_refs")
    assert resident_memory(lambda: pytest.fail("must not run")) is None


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("killed", ModelError, "killed by SIGKILL .*memory runs out"),
        ("left", ModelError, "exit code 7 and no answer. It wrote last: the last word"),
        ("raises", ModelError, "RuntimeError at .*: planted"),
        ("refuses", SpeedUpRefused, "^No such backend here.$"),
        ("no_json", ModelError, "ValueError"),
        ("missing", ModelError, "AttributeError"),
    ],
)
def test_every_failure_says_what_happened(name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        run_fresh(f"{TARGETS}:{name}")


@linux
def test_when_the_time_is_up_the_process_and_its_children_are_gone(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(ModelError, match="must end within 1 s"):
        run_fresh(f"{TARGETS}:sleeps", {"marker": str(marker)}, timeout=1)
    child = Path("/proc", marker.read_text(encoding="utf-8"), "stat")
    for _ in range(100):
        # Gone, or a zombie that nobody has collected yet.
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.02)
    pytest.fail("the child still runs")


def test_a_name_or_arguments_that_cannot_be_sent_are_refused() -> None:
    for name in ("os.getcwd", "os:", ":getcwd", "os:a.b", "os:getcwd()", "a b:c"):
        with pytest.raises(UsageError, match=r"package\.module:function"):
            run_fresh(name)
    with pytest.raises(UsageError, match="plain JSON"):
        run_fresh("os:getcwd", {"x": float("inf")})
