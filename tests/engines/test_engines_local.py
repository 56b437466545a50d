"""The local engine: results in order, workers that cost nothing, nothing left behind."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_work import LIMIT, make

from zsei.engines.engine import Engine, Limits
from zsei.engines.local import LocalEngine
from zsei.engines.open import open_engine
from zsei.engines.process import WorkerProcess
from zsei.errors import UsageError

LIMITS = Limits(seconds=60, memory_bytes=LIMIT)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(make, workers=2, priority="normal") as made:
        yield made


def pids(engine: LocalEngine) -> list[int]:
    return [worker.process.pid for worker in engine._crew.workers]


def gone(pid: int) -> bool:
    """Whether a process ends within half a minute."""
    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_results_come_in_the_order_of_the_tasks(engine: LocalEngine) -> None:
    tasks = [("square", number) for number in range(20)]
    done = engine.run(tasks, LIMITS)
    assert [one.task for one in done] == tasks
    assert [one.value for one in done] == [number * number for number in range(20)]
    assert {one.status for one in done} == {"done"}
    assert {one.attempts for one in done} == {1}
    assert {one.worker for one in done} <= {"local-1", "local-2"}
    assert min(one.peak_memory_bytes for one in done) > 1_000_000


def test_two_tasks_run_at_once(engine: LocalEngine, tmp_path: Path) -> None:
    """Each waits for the other to begin; the second ends first."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    done = engine.run([("meet", one, two, 0.3), ("meet", two, one, 0.0)], LIMITS)
    assert [d.value for d in done] == [two, one]
    assert {d.worker for d in done} == {"local-1", "local-2"}


def test_no_tasks_start_no_worker(engine: LocalEngine) -> None:
    assert engine.run([], LIMITS) == []
    assert pids(engine) == []


def test_no_more_workers_than_tasks_and_they_stay(engine: LocalEngine) -> None:
    assert [one.value for one in engine.run(["count"], LIMITS)] == [1]
    first = pids(engine)
    assert len(first) == 1
    assert [one.value for one in engine.run(["count"], LIMITS)] == [2]
    assert pids(engine) == first
    engine.run(["count", "count"], LIMITS)
    assert len(pids(engine)) == 2


def test_an_idle_worker_never_wakes(engine: LocalEngine) -> None:
    engine.run(["count"], LIMITS)
    worker = psutil.Process(pids(engine)[0])
    time.sleep(0.3)  # it goes to sleep once the answer is out
    threads = {thread.id for thread in worker.threads()}
    before = [_wakes(worker.pid, thread) for thread in sorted(threads)]
    time.sleep(0.5)
    assert [_wakes(worker.pid, thread) for thread in sorted(threads)] == before
    assert len(before) >= 2  # the watchdog is one of them


def _wakes(pid: int, thread: int) -> str:
    status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("voluntary"))


def test_a_worker_outlives_the_thread_that_started_it(engine: LocalEngine) -> None:
    """A signal on the parent's death is sent when the starting *thread* ends; none is used."""
    thread = threading.Thread(target=engine.run, args=(["count"], LIMITS))
    thread.start()
    thread.join()
    first = pids(engine)
    assert [one.value for one in engine.run(["count"], LIMITS)] == [2]
    assert pids(engine) == first


def test_large_tasks_and_results_cross_at_once(engine: LocalEngine) -> None:
    """Both workers are sent more than a socket holds while they send back as much."""
    tasks = [("echo", bytes([number]) * 10_000_000) for number in range(4)]
    done = engine.run(tasks, Limits(seconds=120, memory_bytes=2_000_000_000))
    assert all(one.value == one.task[1] for one in done)


def test_workers_run_with_low_priority_and_few_threads() -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    with LocalEngine(make, workers=1, priority="idle", threads=3) as idle:
        done = idle.run(["scheduler", *(("environment", name) for name in names)], LIMITS)
    scheduler, nice = done[0].value
    assert scheduler == os.SCHED_IDLE or nice == 19
    assert [one.value for one in done[1:]] == ["3", "3"]


def test_a_normal_worker_keeps_the_priority_of_its_parent(engine: LocalEngine) -> None:
    assert engine.run(["scheduler"], LIMITS)[0].value == (os.sched_getscheduler(0), os.nice(0))


def test_nothing_is_left_after_close() -> None:
    parent = psutil.Process()
    before = parent.num_fds()
    engine = LocalEngine(make, workers=2, priority="normal")
    engine.run(["count", "count"], LIMITS)
    workers = pids(engine)
    assert len(workers) == 2
    engine.close()
    engine.close()
    assert not any(psutil.pid_exists(pid) for pid in workers), "not even as a zombie"
    assert parent.num_fds() == before
    done = engine.run(["count"], LIMITS)
    assert [(one.status, one.why) for one in done] == [
        ("error", "The engine was closed before the task was done.")
    ]


def test_closing_from_another_thread_ends_a_run(engine: LocalEngine, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    results: list[Any] = []
    tasks = [("stay", str(marker)), *(("square", n) for n in range(3)), ("stay", str(marker))]
    thread = threading.Thread(target=lambda: results.extend(engine.run(tasks, LIMITS)))
    thread.start()
    while not marker.exists():
        time.sleep(0.02)
    engine.close()
    thread.join(30)
    assert results[0].status == "error"
    assert "closed" in results[0].why


def test_engines_have_names() -> None:
    with pytest.raises(UsageError, match=r"`local` or `ray`; got `dask`"):
        open_engine("dask", make, workers=1)
    with pytest.raises(UsageError, match=r"takes no address; got `here:1`"):
        open_engine("local", make, workers=1, address="here:1")
    with pytest.raises(UsageError, match=r"1 worker or more; got 0"):
        open_engine("local", make, workers=0)
    engine: Engine = open_engine("local", make, workers=3)
    assert (engine.name, engine.workers, engine.shares_disk) == ("local", 3, True)
    engine.close()


def test_what_cannot_be_sent_is_said_before_anything_starts() -> None:
    lock = threading.Lock()
    with pytest.raises(UsageError, match=r"picklable.*TypeError.*lock"):
        LocalEngine(lambda: lambda task: lock, workers=1)


def test_ray_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install zsei\[ray\]"):
        open_engine("ray", make, workers=1)


SCRIPT = """
    import sys
    from dataclasses import dataclass
    from zsei.engines.engine import Limits
    from zsei.engines.open import open_engine

    print("the script runs")

    @dataclass
    class Found:
        number: int

    def make():
        print("made", flush=True)
        def work(task):
            print("at work", flush=True)
            print("and complaining", file=sys.stderr)
            return Found(task.number + 1)
        return work

    engine = open_engine("local", make, workers=2)
    done = engine.run([Found(1), Found(2)], Limits())
    assert isinstance(done[0].value, Found)
    print([one.value for one in done])
    engine.close()
"""


def test_a_script_needs_no_guard_and_keeps_its_output(tmp_path: Path) -> None:
    """Its classes are known to the workers though they never run it."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.stderr == ""
    assert ended.stdout == "the script runs\n[Found(number=2), Found(number=3)]\n"


ENDING = """
    import sys
    sys.path.insert(0, {folder!r})
    from faulty_work import make
    from zsei.engines.engine import Limits
    from zsei.engines.local import LocalEngine
    tasks = [("stay", name) for name in {markers!r}]
    LocalEngine(make, workers=2, priority="normal").run(tasks, Limits(seconds=600))
"""


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", -2), ("SIGKILL", -9)])
def test_no_worker_outlives_its_parent(tmp_path: Path, signal: str, code: int) -> None:
    """Not after Ctrl-C, nor after a kill that leaves the parent no time: and the workers hang in
    native code that holds the interpreter's lock, so no thread of theirs can notice.
    """
    import signal as signals

    markers = [tmp_path / "one", tmp_path / "two"]
    folder = str(Path(__file__).parent)
    program = textwrap.dedent(ENDING).format(folder=folder, markers=[str(m) for m in markers])
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    workers = [_number_in(marker) for marker in markers]
    parent.send_signal(getattr(signals, signal))
    _, told = parent.communicate(timeout=60)
    assert parent.returncode == code
    assert (b"KeyboardInterrupt" in told) == (signal == "SIGINT")
    assert all(gone(pid) for pid in workers)


def _number_in(marker: Path) -> int:
    for _ in range(1200):
        if marker.exists() and marker.read_text():
            return int(marker.read_text())
        time.sleep(0.05)
    raise AssertionError("the worker did not start")


def test_an_interrupt_leaves_an_engine_that_works(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(["count"], LIMITS)
    first = pids(engine)
    with monkeypatch.context() as patch:

        def interrupted(self: WorkerProcess) -> int:
            raise KeyboardInterrupt

        patch.setattr(WorkerProcess, "memory", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.run(["hang"], LIMITS)
    assert not any(psutil.pid_exists(pid) for pid in first)
    assert engine.run(["count"], LIMITS)[0].value == 1
