"""Whatever a worker does, every task gets exactly one answer, and nothing is left behind."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_work import GONE, LATE, LIMIT, make

from zsei.engines.engine import Done, Limits, Status
from zsei.engines.local import LocalEngine

SECONDS = 3.0
"""Of a task in these tests; those that hang take that long."""
LIMITS = Limits(seconds=SECONDS, memory_bytes=LIMIT, retries=1)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    """Fails the test whose workers stay, as a zombie or with a file descriptor."""
    parent = psutil.Process()
    children, files = set(parent.children(recursive=True)), parent.num_fds()
    with LocalEngine(make, workers=2, priority="normal") as made:
        yield made
    assert set(parent.children(recursive=True)) == children
    assert parent.num_fds() == files


def said(done: Done) -> tuple[Any, str, Any, int]:
    return done.task, done.status, done.value, done.attempts


def test_a_task_that_hangs_is_stopped(engine: LocalEngine) -> None:
    """Also where native code holds the interpreter's lock, and where the whole process stands."""
    done = engine.run([*LATE, ("square", 2)], LIMITS)
    expected = [(fault, "timeout", None, 1) for fault in LATE]
    assert [said(one) for one in done] == [*expected, (("square", 2), "done", 4, 1)]
    assert {one.why for one in done[:-1]} == {"It took longer than 3 s."}


@pytest.mark.parametrize("retries", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_task_whose_worker_dies_is_tried_again(engine: LocalEngine, retries: int) -> None:
    limits = Limits(seconds=60, memory_bytes=LIMIT, retries=retries)
    done = engine.run([*GONE, ("square", 2)], limits)
    expected = [(fault, "crash", None, retries + 1) for fault in GONE]
    assert [said(one) for one in done] == [*expected, (("square", 2), "done", 4, 1)]
    assert [one.why for one in done[:-1]] == [
        "The worker ended with exit code 3.",
        "The worker was killed by signal 9 (SIGKILL).",
        "The worker was killed by signal 9 (SIGKILL).",
        "The worker was killed by signal 11 (SIGSEGV); its last words: "
        "Fatal Python error: Segmentation fault.",
    ]


def test_a_task_that_fails_once_is_done(engine: LocalEngine, tmp_path: Path) -> None:
    tasks = [("once", str(tmp_path / fault), fault) for fault in GONE]
    done = engine.run(tasks, LIMITS)
    assert [said(one) for one in done] == [
        (task, "done", f"done after {task[2]}", 2) for task in tasks
    ]


def test_an_idle_worker_killed_from_outside_is_replaced(engine: LocalEngine) -> None:
    """The next task knows nothing of it."""
    engine.run(["count"], LIMITS)
    idle = engine._crew.workers[0].process
    psutil.Process(idle.pid).kill()
    while not idle.has_ended():
        time.sleep(0.02)
    assert said(engine.run(["count"], LIMITS)[0]) == ("count", "done", 1, 1)


def test_a_worker_that_grows_is_stopped(engine: LocalEngine) -> None:
    done = engine.run(["balloon", ("square", 2)], LIMITS)
    assert [said(one) for one in done] == [
        ("balloon", "memory", None, 1),
        (("square", 2), "done", 4, 1),
    ]
    assert done[0].why == "It took more than 0.2 GB of memory."
    assert done[0].peak_memory_bytes > 0


def test_growth_is_seen_where_the_worker_cannot_look_itself(tmp_path: Path) -> None:
    """The interpreter's lock is held, so its own watchdog is blind."""
    with LocalEngine(make, workers=1, priority="normal") as engine:
        done = engine.run([("fill with lock", 300_000_000)], Limits(memory_bytes=LIMIT))
    assert said(done[0])[1:] == ("memory", None, 1)
    assert done[0].peak_memory_bytes > LIMIT


def test_memory_that_earlier_tasks_left_is_not_held_against_a_task(engine: LocalEngine) -> None:
    with LocalEngine(make, workers=1, priority="normal") as engine:
        done = engine.run([("keep", 120_000_000), ("keep", 120_000_000)], LIMITS)
    assert [(one.status, one.attempts) for one in done] == [("done", 1), ("done", 2)]


@pytest.mark.parametrize(
    ("fault", "status", "why"),
    [
        ("raise", "error", "ValueError: first line second line"),
        ("mute", "error", "Mute"),
        ("leave", "error", "SystemExit: leaving"),
        ("no memory", "memory", "MemoryError: no room"),
        (
            "unpicklable",
            "error",
            "What the work returned cannot be sent back (TypeError: cannot pickle",
        ),
        (
            "unreadable",
            "error",
            "What the work returned cannot be read (RuntimeError: not to be read).",
        ),
        (("echo", "\ud800"), "done", ""),
        ("nonsense", "error", "KeyError: 'nonsense'"),
    ],
)
def test_what_the_work_raises_comes_back(
    engine: LocalEngine, fault: Any, status: Status, why: str
) -> None:
    done = engine.run([fault, ("square", 3)], LIMITS)
    assert (done[0].task, done[0].status, done[0].attempts) == (fault, status, 1)
    assert done[0].why.startswith(why)
    assert (why == "") == (done[0].why == "")
    assert done[1].value == 9


def test_a_task_that_cannot_be_sent_is_its_own_error(engine: LocalEngine) -> None:
    lock = __import__("threading").Lock()
    done = engine.run([("echo", lock), ("square", 3)], LIMITS)
    assert done[0].status == "error"
    assert done[0].why.startswith("The task cannot be sent to a worker (TypeError: cannot pickle")
    assert done[1].value == 9


def test_what_workers_print_goes_nowhere(
    engine: LocalEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    """A megabyte that nobody reads blocks nothing, nor does closing what it was printed to."""
    done = engine.run(["noise", "count"], LIMITS)
    assert [one.status for one in done] == ["done", "done"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["hang", "exit", "killed"])
def test_what_a_worker_started_ends_with_it(
    engine: LocalEngine, fault: str, tmp_path: Path
) -> None:
    marker = tmp_path / "pid"
    limits = Limits(seconds=SECONDS, memory_bytes=LIMIT, retries=0)
    engine.run([("offspring", str(marker), fault)], limits)
    offspring = int(marker.read_text())
    for _ in range(200):
        if not _runs(offspring):
            return
        time.sleep(0.05)
    raise AssertionError("a process of the worker runs on")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _cannot_be_made() -> Any:
    raise OSError("no such model")


def _dies_when_made() -> Any:
    __import__("os")._exit(5)


def _takes_for_ever() -> Any:
    time.sleep(600)


def _is_too_large() -> Any:
    held = bytearray(LIMIT)
    time.sleep(600)
    return held


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (_cannot_be_made, "OSError: no such model"),
        (_dies_when_made, "it ended with exit code 5"),
        (_takes_for_ever, "It took longer than 2 s."),
        (_is_too_large, "It took more than 0.2 GB of memory."),
    ],
)
def test_a_worker_that_cannot_start_is_said_once(made: Any, why: str) -> None:
    tasks = [("square", number) for number in range(6)]
    with LocalEngine(made, workers=2, priority="normal", start_seconds=2.0) as engine:
        for _ in range(2):  # a later run tries anew, and ends as well
            done = engine.run(tasks, Limits(memory_bytes=LIMIT))
            assert [one.task for one in done] == tasks
            assert {(one.status, one.why) for one in done} == {
                ("error", f"No worker could be started: {why}")
            }
            assert {one.attempts for one in done} == {0}


def test_a_worker_that_fails_to_start_leaves_the_others_at_work(tmp_path: Path) -> None:
    """The first to come is refused, the second serves all tasks."""
    marker = tmp_path / "first"

    def one_of_two() -> Any:
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return make()
        raise OSError("refused")

    with LocalEngine(one_of_two, workers=2, priority="normal") as engine:
        done = engine.run([("square", number) for number in range(4)], LIMITS)
    assert [one.value for one in done] == [0, 1, 4, 9]


def expected(task: Any, retries: int) -> tuple[Any, str, Any, int]:
    """What must become of a task: the rules, said a second time."""
    name, *rest = (task,) if isinstance(task, str) else task
    if name == "square":
        return task, "done", rest[0] * rest[0], 1
    if name == "once":
        return task, "done", f"done after {rest[1]}", 2
    if name in GONE:
        return task, "crash", None, retries + 1
    if name in LATE:
        return task, "timeout", None, 1
    return task, "memory" if name in ("balloon", "no memory") else "error", None, 1


@pytest.mark.parametrize(
    ("count", "seed"), [(20, 0), *(pytest.param(50, s, marks=pytest.mark.long) for s in range(3))]
)
def test_random_faults_cost_no_task_its_answer(
    engine: LocalEngine, tmp_path: Path, count: int, seed: int
) -> None:
    draw = random.Random(seed)
    faults = [*GONE, *LATE[:1], "balloon", "raise", "mute", "unpicklable", "unreadable"]
    tasks: list[Any] = []
    for number in range(count):
        kind = draw.random()
        if kind < 0.6:
            tasks.append(("square", number))
        elif kind < 0.8:
            tasks.append(("once", str(tmp_path / str(number)), draw.choice(GONE)))
        else:
            tasks.append(draw.choice(faults))
    done = engine.run(tasks, LIMITS)
    # A worker that has done tasks before may be given up and the large one tried on a fresh one.
    attempts = {"balloon": {1, 2}}
    for one, task in zip(done, tasks, strict=True):
        *rest, tries = said(one)
        *rule, exact = expected(task, LIMITS.retries)
        assert rest == rule
        assert tries in attempts.get(str(task), {exact})
